"""The layers that one puts into a network: equal to the operators, trainable, robust (RF19, OFF18, DC18)."""

import copy
import doctest
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from motionspec import models, ops  # noqa: E402
from motionspec.models import OFF, DisplacementMap, RepresentationFlow, WarpedDifference, layers  # noqa: E402
from motionspec.synthetic import Layer, Scene, translation, waves  # noqa: E402

SCHEMES = ("classic", "paper", "released")
LEARNED = ("image_kernel", "flow_kernel", "wx", "wy", "log_tau", "log_lam", "log_theta")
EVERYTHING = {"learn_image_kernel": True, "learn_flow_kernel": True}
FLOW = torch.tensor(np.random.default_rng(1).uniform(-1.5, 1.5, (2, 2, 3, 6, 7)))


def clip(*shape, seed=0, scale=255.0):
    """Independent frames in [0, scale]."""
    return torch.tensor(np.random.default_rng(seed).uniform(0, scale, shape or (2, 3, 4, 6, 7)))


def every_layer():
    """Each layer in float64 and what it takes: clips (2, 3, 4, 6, 7)."""
    torch.manual_seed(0)
    return {
        "RepresentationFlow": (RepresentationFlow(**EVERYTHING, n_iter=3).double(), (clip(),)),
        "RepresentationFlow-sqrt": (RepresentationFlow(**EVERYTHING, n_iter=3, memory="sqrt").double(), (clip(),)),
        "OFF": (OFF(3, 5).double(), (clip(scale=1),)),
        "DisplacementMap": (DisplacementMap(radius=2), (clip(scale=1) - 0.5,)),
        "WarpedDifference": (WarpedDifference(), (clip(scale=1), FLOW)),
    }


each_layer = pytest.mark.parametrize("layer, inputs", every_layer().values(), ids=every_layer().keys())


def pairs(a):
    """The pairs of neighbouring frames of a clip, with the place of the earlier."""
    return [(t, a[:, :, t], a[:, :, t + 1]) for t in range(a.shape[2] - 1)]


def test_all_four_are_public():
    assert set(models.__all__) == {"OFF", "DisplacementMap", "RepresentationFlow", "WarpedDifference"}
    for name in models.__all__:
        assert getattr(models, name).__doc__ and getattr(models, name) is getattr(layers, name)


@pytest.mark.parametrize("name", models.__all__)
def test_the_example_of_five_lines_runs(name):
    (example,) = (t for t in doctest.DocTestFinder().find(getattr(models, name), name) if t.examples)
    assert sum(e.source.count("\n") for e in example.examples) <= 5
    assert doctest.DocTestRunner().run(example).failed == 0


# equal to the operators


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_representation_flow_is_the_operator_on_each_pair_of_the_normalised_clip(scheme, everything):
    layer = RepresentationFlow(scheme=scheme, n_iter=7, **(EVERYTHING if everything else {})).double()
    a = clip()
    got = layer(a)
    assert got.shape == (2, 6, 3, 6, 7)
    for t, f1, f2 in pairs(ops.tvl1.normalise(a)):
        want = ops.tvl1.representation_flow(f1, f2, scheme=scheme, n_iter=7)
        torch.testing.assert_close(got[:, :, t], want, rtol=0, atol=1e-11)


def test_representation_flow_uses_the_parameters_that_it_shows():
    layer = RepresentationFlow(**EVERYTHING, tau=0.2, lam=0.1, theta=0.4).double()
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, parameter.detach().mean(), 0.2)
    a = clip()
    options = {
        name: getattr(layer, name) for name in ("tau", "lam", "theta", "wx", "wy", "image_kernel", "flow_kernel")
    }
    assert all(0.05 < options[name] < 0.9 for name in ("tau", "lam", "theta"))
    for t, f1, f2 in pairs(ops.tvl1.normalise(a)):
        want = ops.tvl1.representation_flow(f1, f2, **options)
        torch.testing.assert_close(layer(a)[:, :, t], want, rtol=0, atol=1e-12)


def test_representation_flow_starts_at_the_published_values():
    layer = RepresentationFlow(learn_image_kernel=True, learn_flow_kernel=True)
    for dtype in (torch.float64, torch.float32):
        for name, value in (("tau", 0.25), ("lam", 0.15), ("theta", 0.3)):
            assert torch.equal(getattr(layer.to(dtype), name), torch.tensor(value, dtype=dtype))
    assert layer.wx.tolist() == layer.wy.tolist() == [-1, 1]
    assert layer.image_kernel[0].tolist() == [[0.125, 0, -0.125], [0.25, 0, -0.25], [0.125, 0, -0.125]]
    assert layer.flow_kernel[1].tolist() == [[0, 1, 0], [0, -1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "switch, names",
    [
        ("learn_numbers", {"log_tau", "log_lam", "log_theta"}),
        ("learn_divergence", {"wx", "wy"}),
        ("learn_image_kernel", {"image_kernel"}),
        ("learn_flow_kernel", {"flow_kernel"}),
    ],
)
def test_each_switch_learns_its_own_parameters(switch, names):
    """RF19 Table 2; the best of it, divergence and numbers, is the default."""
    off = dict.fromkeys(["learn_numbers", "learn_divergence", "learn_image_kernel", "learn_flow_kernel"], False)
    layer = RepresentationFlow(**off | {switch: True})
    assert {name for name, _ in layer.named_parameters()} == set(layer.state_dict()) == names
    assert not list(RepresentationFlow(**off).parameters())
    default = {name for name, _ in RepresentationFlow().named_parameters()}
    assert default == {"log_tau", "log_lam", "log_theta", "wx", "wy"}


def test_a_stated_range_takes_the_place_of_each_clip_s_own():
    a = clip(scale=1.0)
    a[0] *= 0.5
    stretched = RepresentationFlow(value_range=(-1.0, 1.0))(a)
    as_it_is = RepresentationFlow(value_range=(0.0, 255.0))((a + 1) * 127.5)
    torch.testing.assert_close(stretched, as_it_is, rtol=0, atol=1e-11)
    own = RepresentationFlow()(a)
    assert (own - stretched).abs().max() > 0.1


def test_representation_flow_finds_a_shift_by_one_pixel_in_grey_levels_and_nothing_in_0_to_1():
    """What the docstring warns of: tau, lambda and theta expect values that span [0, 255]."""
    t, size = np.arange(3), (32, 36)
    moved = Scene([Layer(waves(size, seed=0, wavelengths=(13, 40)), translation(t, 0))], size).clip()
    grey = torch.tensor(moved.frames)[None]
    inner = np.s_[0, :, :, 4:-4, 4:-4]
    for value_range, values, mean in ((None, grey, 1.0), ((0, 255), grey, 1.0), (None, grey / 255, 1.0)):
        with torch.no_grad():
            u, v = RepresentationFlow(n_iter=100, value_range=value_range)(values)[inner]
        assert abs(u.mean() - mean) < 0.05 and u.std() < 0.1 and abs(v.mean()) < 0.05
    u, _ = RepresentationFlow(value_range=(0, 255))(grey / 255)[inner]
    assert u.abs().max() < 0.05


def test_off_is_a_1x1_convolution_and_the_features_of_neighbouring_frames():
    torch.manual_seed(0)
    for kernel in ("paper", "sobel"):
        layer, a = OFF(3, 5, kernel=kernel).double(), clip(scale=1)
        weight, bias = layer.reduce.weight.reshape(5, 3), layer.reduce.bias
        reduced = torch.einsum("oc,ncthw->nothw", weight, a) + bias[:, None, None, None]
        got = layer(a)
        assert got.shape == (2, 15, 3, 6, 7)
        torch.testing.assert_close(got, ops.off.clip_features(reduced, kernel), rtol=0, atol=1e-12)
    assert OFF(3).reduce.weight.shape[0] == 128


@pytest.mark.parametrize("border", ["zero", "exclude"])
def test_displacement_map_is_the_operator_on_each_pair(border):
    a = clip() - 100
    got = DisplacementMap(radius=(1, 2), tau=0.1, border=border)(a)
    assert got.shape == (2, 2, 3, 6, 7)
    for t, f0, f1 in pairs(a):
        want = ops.costvol.displacement_map(f0, f1, radius=(1, 2), tau=0.1, border=border)
        torch.testing.assert_close(got[:, :, t], want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("outside", ["zero", "blend"])
def test_warped_difference_is_the_operator_on_each_pair(outside):
    a = clip()
    got = WarpedDifference(outside=outside)(a, FLOW)
    assert got.shape == (2, 3, 3, 6, 7)
    for t, f0, f1 in pairs(a):
        want = ops.warp.difference(f0, f1, FLOW[:, :, t], outside=outside)
        torch.testing.assert_close(got[:, :, t], want, rtol=0, atol=0)


# trainable


@each_layer
def test_every_parameter_and_input_gets_a_finite_gradient(layer, inputs):
    layer, inputs = copy.deepcopy(layer), [a.clone().requires_grad_() for a in inputs]
    layer(*inputs).square().sum().backward()
    named = dict(layer.named_parameters()) | {f"input {k}": a for k, a in enumerate(inputs)}
    for name, tensor in named.items():
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), name
    if isinstance(layer, RepresentationFlow):
        assert set(LEARNED) <= set(named)


@each_layer
def test_constant_clips_have_finite_gradients(layer, inputs):
    layer, a = copy.deepcopy(layer), torch.full_like(inputs[0], 0.3).requires_grad_()
    out = layer(a, *inputs[1:])
    out.sum().backward()
    assert out.isfinite().all() and a.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_stay_positive_after_any_step(dtype, sign):
    """However far the optimiser goes, each stays within a factor of 1000 of where it began."""
    layer = RepresentationFlow().to(dtype)
    optimiser = torch.optim.SGD([layer.log_tau, layer.log_lam, layer.log_theta], lr=1e4)
    for _ in range(3):
        for p in (layer.log_tau, layer.log_lam, layer.log_theta):
            p.grad = torch.full_like(p, sign)
        optimiser.step()
        for name, start in (("tau", 0.25), ("lam", 0.15), ("theta", 0.3)):
            value = getattr(layer, name).item()
            assert value > 0 and start / 1001 < value < start * 1001
            assert value == pytest.approx(start * 1000.0**-sign, rel=1e-5 if dtype.itemsize > 2 else 2e-2)
    assert layer(clip().to(dtype)).isfinite().all()


def test_a_small_step_is_a_relative_step():
    layer = RepresentationFlow(tau=0.2).double()
    with torch.no_grad():
        layer.log_tau += 0.01
    assert layer.tau.item() == pytest.approx(0.2 * 1.01, rel=1e-4)


def test_training_lowers_the_error_of_the_flow():
    """Twenty steps of Adam on five iterations: the published numbers are for more of them."""
    t, size = np.arange(2), (24, 26)
    moved = Scene([Layer(waves(size, seed=0, wavelengths=(13, 40)), translation(t, -0.5 * t))], size).clip()
    a, truth = torch.tensor(moved.frames)[None], torch.tensor(moved.flow)[None]
    layer = RepresentationFlow(n_iter=5).double()
    optimiser, losses = torch.optim.Adam(layer.parameters(), lr=0.1), []
    for _ in range(20):
        loss = ops.losses.endpoint_error(layer(a)[:, :, 0], truth[:, :, 0], reduction="mean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@each_layer
def test_state_comes_back(layer, inputs):
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1).add_(0.01)
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    fresh = copy.deepcopy(layer)
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(*inputs), other(*inputs))
    assert not list(layer.parameters()) or not torch.equal(fresh(*inputs), layer(*inputs))


# robust


@each_layer
def test_the_rest_of_the_batch_does_not_matter(layer, inputs):
    """Nor does the order of the samples, also where one of them is a thousand times brighter."""
    first = inputs[0] * torch.tensor([1.0, 1000.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    together = layer(first, *inputs[1:])
    for n in (0, 1):
        alone = layer(first[n : n + 1], *(a[n : n + 1] for a in inputs[1:]))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-12, atol=1e-12)
    swapped = layer(first.flip(0), *(a.flip(0) for a in inputs[1:]))
    torch.testing.assert_close(swapped.flip(0), together, rtol=1e-12, atol=1e-12)


@each_layer
def test_pairs_are_those_of_neighbouring_frames(layer, inputs):
    """Result t depends on frames t and t + 1 of its own clip and on nothing else, but for the clip's smallest and
    largest value in RepresentationFlow."""
    if isinstance(layer, RepresentationFlow):
        layer = copy.deepcopy(layer)
        layer.value_range = (0.0, 255.0)
    before = layer(*inputs)
    for n in range(2):
        for t in range(4):
            changed = inputs[0].clone()
            changed[n, :, t] = changed[n, :, t].flip(-1) + 0.25
            touched = (layer(changed, *inputs[1:]) != before).any(-1).any(-1).any(1)
            want = torch.zeros(2, 3, dtype=torch.bool)
            want[n, max(t - 1, 0) : t + 1] = True
            assert torch.equal(touched, want), (n, t)


@each_layer
def test_compiles_without_graph_breaks(layer, inputs):
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    got, want = compiled(*inputs), layer(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if list(layer.parameters()):
        got = torch.autograd.grad(got.square().sum(), list(compiled.parameters()))
        want = torch.autograd.grad(want.square().sum(), list(layer.parameters()))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_layer
def test_half_precision_is_computed_in_float32_and_rounded_once(layer, inputs, dtype):
    layer, inputs = copy.deepcopy(layer).to(dtype), [a.to(dtype) for a in inputs]
    got = layer(*inputs)
    assert got.dtype == dtype
    if isinstance(layer, OFF):  # the convolution is torch's own and rounds in between
        want = ops.off.clip_features(layer.reduce(inputs[0]))
    else:
        want = copy.deepcopy(layer).float()(*(a.float() for a in inputs)).to(dtype)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_autocast():
    """Parameters in float32, features in bfloat16 out of a convolution that autocast ran."""
    features = clip(scale=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = RepresentationFlow(**EVERYTHING)(features)
    want = RepresentationFlow(**EVERYTHING)(features.float())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, want.bfloat16(), rtol=0, atol=0)


def test_recomputing_changes_no_value_and_no_gradient():
    results = []
    for memory in ("all", "sqrt"):
        layer, a = RepresentationFlow(**EVERYTHING, memory=memory).double(), clip().requires_grad_()
        out = layer(a)
        results.append((out, *torch.autograd.grad(out.square().sum(), [a, *layer.parameters()])))
    torch.testing.assert_close(*results, rtol=0, atol=0)


BAD_CLIPS = [
    (clip(2, 3, 6, 7), "shape (N, C, T, H, W) with sides of at least 1, got (2, 3, 6, 7)"),
    (clip(2, 3, 1, 6, 7), "at least T=2 frames, got T=1"),
    (clip(2, 3, 4, 0, 7), "shape (N, C, T, H, W) with sides of at least 1, got (2, 3, 4, 0, 7)"),
    (clip().long(), "a floating-point torch tensor, got a tensor of torch.int64"),
    (clip().numpy(), "a floating-point torch tensor, got ndarray"),
]


@pytest.mark.parametrize("bad, words", BAD_CLIPS)
@each_layer
def test_a_bad_clip_is_one_line(layer, inputs, bad, words):
    with pytest.raises((TypeError, ValueError)) as error:
        layer(bad, *inputs[1:])
    assert str(error.value) == f"{type(layer).__name__}: clip: expected {words}"


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: WarpedDifference()(clip(), FLOW[:, :, :2]),
            "WarpedDifference: flow: expected T-1=3 pairs for T=4 frames, got 2",
        ),
        (
            lambda: WarpedDifference()(clip(), FLOW.float()),
            "WarpedDifference: flow: expected torch.float64 like the first argument, got torch.float32",
        ),
        (lambda: OFF(4)(clip()), "OFF: clip: expected C=4 channels, got C=3"),
        (lambda: OFF(0), "OFF: in_channels: expected at least 1, got 0"),
        (lambda: OFF(3, 2.0), "OFF: channels: expected an integer, got float"),
        (lambda: OFF(3, kernel="prewitt"), "OFF: kernel: expected one of 'paper', 'sobel', got 'prewitt'"),
        (
            lambda: DisplacementMap(-1),
            "DisplacementMap: radius: expected an int >= 0 or a pair (R_h, R_w) of them, got -1",
        ),
        (lambda: DisplacementMap(1, tau=0), "DisplacementMap: tau: expected a finite number above 0, got 0"),
        (
            lambda: DisplacementMap(1, border="wrap"),
            "DisplacementMap: border: expected one of 'zero', 'exclude', got 'wrap'",
        ),
        (
            lambda: WarpedDifference(outside="wrap"),
            "WarpedDifference: outside: expected one of 'zero', 'blend', got 'wrap'",
        ),
        (lambda: RepresentationFlow(n_iter=-1), "RepresentationFlow: n_iter: expected at least 0, got -1"),
        (
            lambda: RepresentationFlow(scheme="tvnet"),
            "RepresentationFlow: scheme: expected one of 'classic', 'paper', 'released', got 'tvnet'",
        ),
        (
            lambda: RepresentationFlow(memory="none"),
            "RepresentationFlow: memory: expected one of 'all', 'sqrt', got 'none'",
        ),
        (lambda: RepresentationFlow(theta=0), "RepresentationFlow: theta: expected a finite number above 0, got 0"),
        (
            lambda: RepresentationFlow(value_range=(1, 1)),
            "RepresentationFlow: value_range: expected None or (low, high), finite, low < high, got (1, 1)",
        ),
        (
            lambda: RepresentationFlow(value_range=255),
            "RepresentationFlow: value_range: expected None or (low, high), finite, low < high, got 255",
        ),
    ],
)
def test_bad_arguments_are_one_line(call, words):
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert str(error.value) == words


def test_printed_layers_show_how_they_are_set():
    assert repr(WarpedDifference()) == "WarpedDifference(outside='zero')"
    assert repr(DisplacementMap((1, 2))) == "DisplacementMap(radius=(1, 2), tau=0.03, border='zero')"
    assert "n_iter=20, scheme='classic'" in repr(RepresentationFlow(n_iter=20))
