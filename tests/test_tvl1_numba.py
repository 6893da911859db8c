"""`tvl1.representation_flow` by numba, beside what tests/test_kernels.py asks of all: borders, kinks, sizes."""

import numpy as np
import pytest

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from motionspec.ops import tvl1, tvl1_eights_numba, tvl1_numba  # noqa: E402

each_scheme = pytest.mark.parametrize("scheme", ["classic", "released"])
each_layout = pytest.mark.parametrize("C", [2, 9], ids=["one at a time", "eights"])


def frames(*shape, dtype=torch.float64):
    """Noise in all of [0, 255], of which some pixels are clipped and some are not."""
    a, b = np.random.default_rng(0).uniform(0, 255, (2, *shape))
    return torch.tensor(a, dtype=dtype), torch.tensor(0.7 * a + 0.3 * b, dtype=dtype)


def value_and_gradients(args, impl, **options):
    args = {name: a.detach().requires_grad_() for name, a in args.items()}
    flow = tvl1.representation_flow(**args, **options, impl=impl)
    weights = torch.tensor(np.random.default_rng(1).normal(size=flow.shape), dtype=flow.dtype)
    if not flow.requires_grad:  # eager's zeros of no iteration
        return {"flow": flow} | {name: torch.zeros_like(a) for name, a in args.items()}
    gradients = torch.autograd.grad(flow, list(args.values()), weights, allow_unused=True, materialize_grads=True)
    return dict(zip(("flow", *args), (flow.detach(), *gradients), strict=True))


@pytest.mark.parametrize("states", [0, 1 << 30], ids=["every sqrt(n)-th", "all"])
@pytest.mark.parametrize("n_iter", [0, 1, 2, 3, 9, 10, 17])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (2, 2), (1, 33), (7, 9), (28, 28), (19, 45)])
@each_layout
@each_scheme
def test_equals_eager(monkeypatch, scheme, C, size, n_iter, states):
    monkeypatch.setattr(tvl1_numba, "_STATES", states)
    monkeypatch.setattr(tvl1_eights_numba, "STATES", states)
    args = dict(zip(("f1", "f2"), frames(2, C, *size), strict=True))
    assert tvl1_numba._in_eights(args["f1"]) == (C == 9)
    args |= {"tau": torch.tensor(0.3), "lam": torch.tensor(0.2), "theta": torch.tensor([0.4])}
    args |= {"wx": torch.tensor([-1.1, 0.9]), "wy": torch.tensor([-0.8, 1.2])}
    args = {name: a.double() for name, a in args.items()}
    got, want = (value_and_gradients(args, impl, n_iter=n_iter, scheme=scheme) for impl in ("numba", "torch"))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@each_layout
@each_scheme
@pytest.mark.parametrize("value", [0.0, 0.25, 255.0])
def test_constant_maps(scheme, C, value):
    """No gradient to divide by: eager's derivatives at the kink."""
    args = {"f1": torch.full((1, C, 4, 5), value).double(), "f2": torch.full((1, C, 4, 5), 0.5).double()}
    got, want = (value_and_gradients(args, impl, scheme=scheme) for impl in ("numba", "torch"))
    assert not want["flow"].any() and all(a.isfinite().all() for a in want.values())
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@each_layout
@each_scheme
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e18])
def test_tiny_and_huge_maps_in_float32(scheme, C, scale):
    """Where |g|^2 underflows or nearly overflows: what eager makes of the same values in float64."""
    args = {f"f{k}": f * scale / 255 for k, f in enumerate(frames(1, C, 5, 6, dtype=torch.float32), 1)}
    got = value_and_gradients(args, "numba", scheme=scheme)
    want = value_and_gradients({name: a.double() for name, a in args.items()}, "torch", scheme=scheme)
    for name in got:
        least = torch.finfo(torch.float32).tiny  # below it float32 has no digits left
        atol = 5e-6 * want[name].abs().max().item() + least
        torch.testing.assert_close(got[name].double(), want[name], rtol=2e-5, atol=atol)


@each_layout
@each_scheme
def test_not_a_number_spreads_as_in_eager(scheme, C):
    """By a line and a column in an iteration, also from border and corner, and not over the end of a line."""
    f1, f2 = frames(1, C, 9, 11)
    f1[0, 0, 2, 3], f2[0, 0, 6, 0], f2[0, 1, 8, 10] = torch.nan, torch.nan, torch.nan
    for n_iter in (1, 2, 3, 4):
        got, want = (
            tvl1.representation_flow(f1, f2, n_iter=n_iter, scheme=scheme, impl=impl) for impl in ("numba", "torch")
        )
        assert want.isnan().any() and not want.isnan().all()
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)


@each_layout
@each_scheme
def test_a_learned_theta_of_0_gives_what_eager_gives(scheme, C):
    """Tensors are not looked at: not an error of Python's."""
    args = dict(zip(("f1", "f2", "theta"), (*frames(1, C, 5, 6), torch.tensor(0.0).double()), strict=True))
    got, want = (value_and_gradients(args, impl, scheme=scheme) for impl in ("numba", "torch"))
    torch.testing.assert_close(got["flow"], want["flow"], rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_takes_it(dtype):
    f1, f2 = frames(2, 3, 6, 8, dtype=dtype)
    auto, numba, eager = (tvl1.representation_flow(f1, f2, impl=impl) for impl in ("auto", "numba", "torch"))
    assert torch.equal(auto, numba)
    assert dtype != torch.float32 or not torch.equal(auto, eager)


@pytest.mark.parametrize(
    "option, name",
    [
        ({"scheme": "paper"}, "scheme='paper'"),
        *(({kernel: torch.zeros(2, 3, 3)}, kernel) for kernel in ("image_kernel", "flow_kernel")),
    ],
)
def test_what_stays_eager_is_refused_by_name(option, name):
    f = torch.rand(1, 1, 4, 5)
    with pytest.raises(ValueError, match=f"impl: expected 'auto' or 'torch', because numba lacks {name}, got 'numba'"):
        tvl1.representation_flow(f, f, **option, impl="numba")
    tvl1.representation_flow(f, f, **option)  # auto: eager
