"""Every fused implementation, on the CPU: against the oracle, and against the eager operator.

Those by numba; those by Triton in its interpreter, which is chosen when triton is imported, so that they have a process
of their own, which `make test` starts: `TRITON_INTERPRET=1 pytest tests/test_kernels.py`.
"""

import inspect
import os
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
IMPL = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "numba"
pytest.importorskip(IMPL, reason=f"no {IMPL} here: pip install 'motionspec[{IMPL}]'")

from generated import batched, operator, smooth_case  # noqa: E402
from test_equations import SMOOTH, as_list, assert_agrees, channels_last, leaves, strided, tensors  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from motionspec.cli import cases  # noqa: E402
from motionspec.cli.cases import DTYPES, SeededFill  # noqa: E402
from motionspec.cli.check import judge  # noqa: E402
from motionspec.cli.compare import as_outputs  # noqa: E402
from motionspec.cli.runner import Runner  # noqa: E402
from motionspec.cli.text import report  # noqa: E402
from motionspec.fused import FUSED  # noqa: E402
from motionspec.ops import costvol  # noqa: E402
from motionspec.ops import off as ops_off  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

# What stays eager: arguments, and variants that have such a value.
EAGER = {"tvl1.representation_flow": ("image_kernel", "flow_kernel", "paper")}


# Where eager's derivatives of an infinite input hold inf - inf and inf / inf, which are an accident of the order.
STEEP = {"tvl1.representation_flow"}


def eager(row):
    return EAGER.get(row.id, ())


def covered(row):
    """The row without what stays eager."""
    return replace(
        row,
        variants=tuple(v for v in row.variants if not any(value in eager(row) for value in v.values())),
        differentiable=tuple(name for name in row.differentiable if name not in eager(row)),
    )


ROWS = [covered(EQUATIONS[name]) for name, implementations in FUSED.items() if IMPL in implementations]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
each_variant = pytest.mark.parametrize(
    "row, variant",
    [
        pytest.param(row, dict(variant), id="-".join([row.id, *map(str, variant.values())]))
        for row in ROWS
        for variant in row.variants
    ],
)
each_smooth_variant = pytest.mark.parametrize(
    "row, variant", [pair for pair in each_variant.args[1] if pair.values[0].differentiable]
)
# More than a block of columns, rows or pixels, and no multiple of one; sides of 1.
SIZES = (
    {"N": 2, "C": 3, "T": 3, "H": 17, "W": 29},
    {"N": 1, "C": 1, "T": 2, "H": 1, "W": 300},
    {"N": 1, "C": 2, "T": 4, "H": 50, "W": 1},
    {"N": 3, "C": 43, "T": 2, "H": 8, "W": 2},
    {"N": 1, "C": 1, "T": 2, "H": 19, "W": 55},
)
# The same for a kernel of tiles of 2 x 16 pixels and of blocks of 128.
TILED = (
    {"N": 2, "C": 3, "H": 5, "W": 19},
    {"N": 1, "C": 1, "H": 1, "W": 35},
    {"N": 1, "C": 2, "H": 7, "W": 1},
    {"N": 3, "C": 43, "H": 3, "W": 2},
    {"N": 1, "C": 1, "H": 9, "W": 35},
)


def sizes(row):
    return TILED if (row.id, IMPL) == ("costvol.displacement_map", "triton") else SIZES


if IMPL == "triton":
    import triton
    import triton.language as tl
    from triton.runtime import interpreter

    from motionspec.ops import tvl1_triton
    from motionspec.ops.costvol_triton import _product as product

    @triton.jit
    def multiply(a, b, out, SIDE: tl.constexpr):
        i = tl.arange(0, SIDE)
        at = i[:, None] * SIDE + i[None, :]
        tl.store(out + at, product(tl.load(a + at), tl.load(b + at), tl.zeros((SIDE, SIDE), tl.float32)))

    of_number = cache(interpreter._get_np_dtype)  # which makes a table of all types for each call

    def numpy_dtype(type):
        """Of a number or pointer, or of a block of them."""
        return np.dtype(np.uint64) if type.scalar.is_ptr() else of_number(type.scalar)

    @pytest.fixture(autouse=True)
    def bfloat16_to_nearest(monkeypatch):
        """The interpreter cuts float32 off to bfloat16, where a GPU rounds to nearest (`cvt.rn`, test_resources.py).

        And back it looks at each bit, in hundreds of times as long as a shift, and errs below 2**-126.
        """
        convert = interpreter._convert_float

        def nearest(data, source, target, mode):
            if (source, target) == (tl.float32, tl.bfloat16):
                return torch.tensor(data).bfloat16().view(torch.uint16).numpy()
            if (source, target) == (tl.bfloat16, tl.float32):
                return data.astype(np.uint32) << 16
            return convert(data, source, target, mode)

        monkeypatch.setattr(interpreter, "_convert_float", nearest)

    @pytest.fixture(autouse=True)
    def bfloat16_in_products(monkeypatch):
        """The interpreter's `tl.dot` multiplies the bits of bfloat16 as if they were whole numbers."""
        dot = interpreter.InterpreterBuilder.create_dot

        def widened(self, a, b, *others):
            a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
            return dot(self, a, b, *others)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)

    @pytest.fixture(autouse=True)
    def bounds_of_loops(monkeypatch):
        """Triton 3.6 hands `range` an array of one element where a loop's bound is known at run time only.

        NumPy 2.4 refuses to take it for a whole number, older ones warn. Triton 3.7 takes the element, as here.
        """
        prepare = interpreter._patch_lang_tensor

        def prepared(tensor, scope):
            prepare(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", prepared)

    @pytest.fixture(autouse=True)
    def launched(monkeypatch):
        """Every test runs a kernel of ours.

        What a kernel calls finds the language prepared: once in a launch for each module, where the interpreter does it
        anew for each call, in a third of its time.
        """
        programs, prepared = [], set()
        run = interpreter.InterpretedFunction.run

        def counted(self, *args, **options):
            programs.append(self)
            prepared.clear()
            return run(self, *args, **options)

        def call(self, *args, **options):
            if self.fn.__module__ not in prepared:
                prepared.add(self.fn.__module__)
                interpreter._patch_lang(self.fn)
            return self.rewrite()(*args, **options)

        monkeypatch.setattr(interpreter.InterpretedFunction, "run", counted)
        monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
        monkeypatch.setattr(interpreter, "_get_np_dtype", numpy_dtype)
        yield
        assert programs


def kernel(row):
    """By name, with the arguments that it covers."""
    function = partial(operator(row), impl=IMPL)
    signature = inspect.signature(function)
    covers = [parameter for name, parameter in signature.parameters.items() if name not in eager(row)]
    function.__signature__ = signature.replace(parameters=covers)
    return function


def without_eager(row, arrays):
    return {name: array for name, array in arrays.items() if name not in eager(row)}


def exact_case(row, k):
    return without_eager(row, cases.exact_case(row.id, k))


def gradients(function, row, variant, arrays):
    """Of the values under random cotangents, the same for every function."""
    args, wanted = leaves(row, arrays)
    values = as_list(function(**args, **variant))
    if not wanted:
        return ()
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(value.shape, generator=random, dtype=value.dtype) for value in values]
    return torch.autograd.grad(values, wanted, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@each_variant
def test_the_judge_agrees(row, variant, dtype):
    """Value and gradient, gradients against central differences of the oracle."""
    options = {"variant": variant, "framework": "torch", "dtypes": [dtype], "cases": 10, "grad": True}
    with Runner(timeout=None) as here:
        verdicts = judge(kernel(row), row.id, here, **options)
    assert [v.checked for v in verdicts] == ["value", *(f"gradient of {name}" for name in row.differentiable)]
    assert all(verdict.ok for verdict in verdicts), report(verdicts)


@pytest.mark.parametrize(
    "row, variant, size",
    [
        pytest.param(row, dict(variant), size, id="-".join([row.id, *map(str, (*variant.values(), *size.values()))]))
        for row in ROWS
        for k, variant in enumerate(row.variants)
        for size in sizes(row)[: None if k == 0 else 1]  # Triton's interpreter takes its time
    ],
)
def test_no_multiple_of_a_block(row, variant, size):
    fill = SeededFill((0,), 1.0, True, "float64")
    arrays = without_eager(row, row.inputs(fill, **{dim: size[dim] for dim in row.dims}))
    got = kernel(row)(**tensors(arrays), **variant)
    assert_agrees(row, got, as_outputs(row.reference(**arrays, **variant)), "float64")
    for a, b in zip(
        gradients(kernel(row), row, variant, arrays), gradients(operator(row), row, variant, arrays), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("H, W", [(1, 1), (3, 3), (6, 5)])
@each_smooth_variant
def test_gradcheck(row, variant, H, W):
    k = smooth_case(H, W)
    args, wanted = leaves(row, exact_case(row, k))

    def function(*values):
        return kernel(row)(**args | dict(zip(row.differentiable, values, strict=True)), **variant)

    assert torch.autograd.gradcheck(function, wanted, fast_mode=H > 1)  # the interpreter needs 10 ms for a program


@each_smooth_variant
def test_a_second_derivative_is_right_or_refused_in_one_line(row, variant):
    args, wanted = leaves(row, exact_case(row, smooth_case(3, 3)))

    def function(*values):
        return kernel(row)(**args | dict(zip(row.differentiable, values, strict=True)), **variant)

    if row.id.startswith("off."):  # linear
        assert torch.autograd.gradgradcheck(function, wanted, fast_mode=True)
        return
    value = function(*wanted)
    first = torch.autograd.grad(value, wanted, torch.ones_like(value, requires_grad=True), create_graph=True)
    expected = rf"^{row.id}: impl: expected 'torch' for a second derivative, got '{IMPL}'$"
    with pytest.raises(NotImplementedError, match=expected):
        torch.autograd.grad(sum(g.sum() for g in first), wanted)


@pytest.mark.parametrize("layout", [strided, channels_last])
@each_variant
def test_layout_of_the_inputs_does_not_matter(row, variant, layout):
    arrays = exact_case(row, SMOOTH)
    want = as_outputs(row.reference(**arrays, **variant))
    args = {name: layout(t) for name, t in tensors(arrays).items()}
    assert_agrees(row, kernel(row)(**args, **variant), want, "float64")


@each_variant
def test_nan_and_infinity_touch_what_they_touch_in_the_eager_operator(row, variant):
    for value in (torch.nan, torch.inf):
        args, pairs = tensors(exact_case(row, SMOOTH)), []
        for name in batched(row):  # not in a parameter, which touches all
            if args[name].is_floating_point():
                args[name].view(-1)[::37] = value
        numbers = [args[name].isfinite() for name in row.differentiable]
        for wanted in row.differentiable:
            args[wanted].requires_grad_(True)
        for function in (kernel(row), operator(row)):
            with np.errstate(all="ignore"):  # Triton's interpreter is NumPy
                out = as_list(function(**args, **variant))
                wanted = [args[name] for name in row.differentiable]
                pairs.append([out, *(torch.autograd.grad(sum(o.sum() for o in out), wanted) if wanted else ())])
        (out, *gradients), (want, *wants) = pairs
        for a, b in zip(out, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9, equal_nan=True)
        if value == torch.inf and row.id in STEEP:
            continue
        for a, b, number in zip(gradients, wants, numbers, strict=True):
            torch.testing.assert_close(a[number], b[number], rtol=1e-12, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(  # a mean over no sample is refused before any kernel: test_equations.py
    "row", [row for row in ROWS if row.id != "metrics.endpoint_error"], ids=lambda row: row.id
)
def test_empty_batch(row):
    variant = dict(row.variants[0])
    arrays = {name: a[:0] if name in batched(row) else a for name, a in exact_case(row, SMOOTH).items()}
    want = as_outputs(row.reference(**arrays, **variant))
    assert_agrees(row, kernel(row)(**tensors(arrays), **variant), want, "float64")
    assert not any(g.any() for g in gradients(kernel(row), row, variant, arrays))


@each_variant
def test_compiles_without_graph_breaks(row, variant):
    torch.compiler.reset()
    function = kernel(row)
    compiled = torch.compile(lambda **args: function(**args, **variant), fullgraph=True, backend="aot_eager")
    arrays = exact_case(row, SMOOTH)
    args, _ = leaves(row, arrays)
    assert_agrees(row, compiled(**args), as_outputs(row.reference(**arrays, **variant)), "float64")
    for a, b in zip(gradients(compiled, row, {}, arrays), gradients(function, row, variant, arrays), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@each_row
def test_export_has_the_eager_formula(row):
    """A saved program runs where motionspec's kernels are not known."""
    args = {name: t.float() if t.is_floating_point() else t for name, t in tensors(exact_case(row, SMOOTH)).items()}

    class Module(torch.nn.Module):
        def forward(self, **args):
            return operator(row)(**args, **row.variants[0])

    with torch.no_grad():
        called = {str(node.target) for node in torch.export.export(Module(), (), args).graph.nodes}
        kernel(row)(**args, **row.variants[0])
    assert called and not any("motionspec" in target for target in called)


@each_variant
def test_what_is_registered(row, variant):
    """Schema, fake implementation, autograd and dynamic shapes of each registered operator that a call goes through."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "motionspec":
                seen.append((function, args))
            return function(*args, **kwargs or {})

    with Watch():
        gradients(kernel(row), row, variant, exact_case(row, SMOOTH))
    assert len(seen) == (2 if row.differentiable else 1)
    for function, found in seen:
        own = [a.detach().requires_grad_(a.is_floating_point()) if isinstance(a, torch.Tensor) else a for a in found]
        utils = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(function, own, test_utils=utils)


@pytest.mark.skipif(IMPL != "triton", reason="of Triton's programs")
@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_endpoint_error_of_more_blocks_than_programs(monkeypatch, reduction, most):
    """Two samples of two blocks each, in at most so many programs (two at least, one for each sample)."""
    from motionspec.ops import losses_triton

    monkeypatch.setattr(losses_triton, "_BLOCKS", most)
    row = EQUATIONS["losses.endpoint_error"]
    arrays = row.inputs(SeededFill((0,), 1.0, True, "float64"), N=2, T=3, H=20, W=25)
    got = kernel(row)(**tensors(arrays), reduction=reduction)
    assert_agrees(row, got, as_outputs(row.reference(**arrays, reduction=reduction)), "float64")
    a, b = (gradients(f, row, {"reduction": reduction}, arrays)[0] for f in (kernel(row), operator(row)))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", ["flow", "target"])
def test_endpoint_error_where_one_flow_wants_a_gradient(wanted):
    row = EQUATIONS["losses.endpoint_error"]
    args = tensors(exact_case(row, SMOOTH))
    found = []
    for function in (kernel(row), operator(row)):
        given = args | {wanted: args[wanted].clone().requires_grad_()}
        found += torch.autograd.grad(function(**given), given[wanted])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.fixture
def atomics(monkeypatch):
    """Those that there were."""
    counted = []
    if IMPL == "triton":
        run = interpreter.InterpreterBuilder.create_atomic_rmw

        def count(self, *args):
            counted.append(args)
            return run(self, *args)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_atomic_rmw", count)
    return counted


@pytest.fixture(params=[False, True], ids=["default", "deterministic"])
def deterministic(request):
    """Whether torch is asked for determinism; then an element that nobody writes shows up as NaN, too."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(before)


WARPS = [(row, dict(variant)) for row in ROWS if row.id.startswith("warp.") for variant in row.variants]
each_warp = pytest.mark.parametrize("row, variant", WARPS, ids=[f"{row.id}-{v['outside']}" for row, v in WARPS])


@pytest.mark.parametrize("reach", [1, 20], ids=["some", "all"])
@each_warp
def test_warp_where_many_pixels_read_one(row, variant, reach, deterministic, atomics):
    """Or none: beyond the border, at infinity, at NaN. Triton's kernels add by atomics, but not for determinism."""
    rng = np.random.default_rng(0)
    j, i = np.mgrid[:5, :7]
    sign = 1 if row.id == "warp.bilinear" else -1
    flow = sign * (np.stack([3 - i, 2 - j]) + rng.uniform(-reach, reach, size=(2, 2, 5, 7)))
    flow[0, 0, :2, :2] = np.nan, np.inf
    arrays = {name: rng.normal(size=(2, 11, 5, 7)) for name in row.differentiable[:-1]} | {"flow": flow}
    found = [gradients(kernel(row), row, variant, arrays) for _ in range(2)]
    assert bool(atomics) == (IMPL == "triton" and not deterministic)
    for a, b, want in zip(*found, gradients(operator(row), row, variant, arrays), strict=True):
        torch.testing.assert_close(a, want, rtol=1e-12, atol=1e-12)
        assert torch.equal(a, b)


@each_warp
def test_warp_computes_no_gradient_that_nobody_asked_for(row, variant, deterministic, atomics):
    args = tensors(exact_case(row, SMOOTH))
    for name in row.differentiable:
        leaf = args[name].clone().requires_grad_(True)
        got, want = (
            torch.autograd.grad(f(**args | {name: leaf}, **variant).square().sum(), leaf)
            for f in (kernel(row), operator(row))
        )
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert bool(atomics) == (IMPL == "triton" and not deterministic and name in ("x", "f0"))
        atomics.clear()


LEFT = [(row, what) for row in ROWS for what in eager(row)]


@pytest.mark.parametrize("row, what", LEFT, ids=[f"{row.id}-{what}" for row, what in LEFT])
def test_what_is_left_to_eager_pytorch_is_refused_in_one_line(row, what):
    arrays = row.inputs(SeededFill((0,), 1.0, True, "float64"), N=1, C=1, H=2, W=2)
    args = tensors(without_eager(row, arrays))
    variants = (variant for variant in EQUATIONS[row.id].variants if what in dict(variant).values())
    variant = {what: torch.tensor(arrays[what])} if what in arrays else dict(next(variants))
    kernel(row)(**args)
    says = what if what in arrays else "".join(f"{key}={value!r}" for key, value in variant.items() if value == what)
    expected = rf"^{row.id}: impl: expected 'auto' or 'torch', because {IMPL} lacks {says}, got '{IMPL}'$"
    with pytest.raises(ValueError, match=expected):
        partial(operator(row), impl=IMPL)(**args, **variant)
    assert torch.equal(operator(row)(**args, **variant), partial(operator(row), impl="torch")(**args, **variant))


@pytest.mark.parametrize("name", ["features", "clip_features"])
def test_off_of_more_rows_and_columns_than_a_program_has(name):
    clip = torch.randn(1, 16, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    maps = (clip,) if name == "clip_features" else clip.unbind(2)
    want, got = (getattr(ops_off, name)(*maps, impl=impl) for impl in ("torch", IMPL))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    grad = torch.randn_like(want)
    of_want, of_got = (torch.autograd.grad(y, clip, grad, retain_graph=True)[0] for y in (want, got))
    torch.testing.assert_close(of_got, of_want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", ["classic", "released"])
@pytest.mark.parametrize("H, W, n_iter", [(5, 6, 0), (5, 6, 1), (5, 6, 8), (34, 33, 0), (34, 33, 5), (34, 33, 10)])
def test_representation_flow_in_any_number_of_iterations(H, W, n_iter, scheme):
    """A map that fits a window: 8 are 3 + 3 + 2 for backward. One that takes four: 5 are 4 + 1, and back 2 + 2 + 1.

    10 are 4 + 4 + 2: the second pass reads what the first wrote while its windows write what the third reads.
    """
    row = covered(EQUATIONS["tvl1.representation_flow"])
    arrays = without_eager(row, row.inputs(SeededFill((0,), 1.0, True, "float64"), N=1, C=1, H=H, W=W))
    variant = {"scheme": scheme, "n_iter": n_iter}
    got = kernel(row)(**tensors(arrays), **variant)
    assert_agrees(row, got, as_outputs(row.reference(**arrays, **variant)), "float64")
    found = gradients(kernel(row), row, variant, arrays)
    if n_iter == 0:
        assert not any(g.any() for g in found)
        return
    for a, b in zip(found, gradients(operator(row), row, variant, arrays), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


only_triton = pytest.mark.skipif(IMPL != "triton", reason="of Triton's programs")


@only_triton
@pytest.mark.parametrize("scheme", ["classic", "released"])
@pytest.mark.parametrize("size", [(5, 20, 30), (1, 34, 33)], ids=["5 whole maps", "4 windows of a map"])
def test_representation_flow_of_more_windows_than_programs(monkeypatch, size, scheme):
    """Backward: two programs take one window after the other, in the same scratch buffer."""
    monkeypatch.setattr(tvl1_triton, "_PROGRAMS", 2)
    row = covered(EQUATIONS["tvl1.representation_flow"])
    C, H, W = size
    arrays = without_eager(row, row.inputs(SeededFill((0,), 1.0, True, "float64"), N=1, C=C, H=H, W=W))
    variant = {"scheme": scheme, "n_iter": 3}
    found = (gradients(function, row, variant, arrays) for function in (kernel(row), operator(row)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


# Displacement map

each_border = pytest.mark.parametrize("border", ["zero", "exclude"])


def features(*shape, dtype=torch.float64, seed=0):
    """(f0, f1), with gradients."""
    f = torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return [t.clone().requires_grad_() for t in f]


def map_and_gradients(f0, f1, impl=IMPL, wanted=None, **options):
    """Under random weights that every type holds."""
    flow = costvol.displacement_map(f0, f1, impl=impl, **options)
    weights = torch.randint(-8, 9, flow.shape, generator=torch.Generator().manual_seed(1)).to(flow.dtype) / 8
    return [flow, *torch.autograd.grad(flow, wanted or (f0, f1), weights)]


def assert_as_eager(f0, f1, **options):
    pairs = zip(*(map_and_gradients(f0, f1, impl, **options) for impl in (IMPL, "torch")), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@each_border
@pytest.mark.parametrize(
    "shape, radius",
    [
        ((1, 1, 3, 5), 12),  # the window is larger than the map
        ((1, 3, 4, 17), (12, 0)),
        ((1, 65, 5, 16), (1, 8)),  # a channel more than a block, a row more than a tile
        ((1, 130, 2, 18), (0, 9)),  # three blocks
        ((2, 16, 1, 33), (3, 12)),
        ((1, 2, 9, 3), 0),
    ],
)
def test_displacement_map_of_any_size(shape, radius, border):
    assert_as_eager(*features(*shape), radius=radius, tau=0.1, border=border)


@each_border
def test_displacement_map_of_ties_and_vectors_of_0(border):
    f0, f1 = features(1, 3, 5, 18)
    with torch.no_grad():
        f1[..., 4:] = f0[..., 4:] = 1
        f0[..., 2, 3] = f0[..., 0, 0] = f1[..., 3, 3] = f1[..., 4, 17] = 0
    assert_as_eager(f0, f1, radius=2, tau=0.1, border=border)
    _, g0, g1 = map_and_gradients(f0, f1, radius=2, tau=0.1, border=border)
    assert (g0[..., 2, 3] == 0).all() and (g1[..., 3, 3] == 0).all() and g0.any() and g1.any()


@each_border
@pytest.mark.parametrize("tau", [1e-30, 1e-6, 1e-2, 1e6, 1e300])
def test_displacement_map_at_any_temperature(tau, border):
    """Down to a hard maximum, up to the mean of all offsets; in float32 too, beyond its range."""
    f0, f1 = features(1, 3, 5, 18)
    assert_as_eager(f0, f1, radius=2, tau=tau, border=border)
    want = costvol.displacement_map(f0, f1, radius=2, tau=tau, border=border)
    got = map_and_gradients(
        f0.detach().float().requires_grad_(), f1.detach().float().requires_grad_(), radius=2, tau=tau, border=border
    )
    torch.testing.assert_close(got[0].double(), want, rtol=0, atol=4e-6 * max(1, 0.1 / tau) if tau > 1e-3 else 1e-3)
    assert all(g.isfinite().all() for g in got)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_displacement_map_does_not_see_the_length_of_a_vector(dtype):
    """From the smallest to the largest that the type has; a gradient is as much larger as a vector is smaller."""
    f0, f1 = features(1, 5, 5, 18, dtype=dtype)
    with torch.no_grad():
        for f in (f0, f1):
            f.copy_((f * 8).round() / 8)  # some bits, so that none is lost
    most = {torch.float64: 1000, torch.float32: 120, torch.bfloat16: 120, torch.float16: 9}[dtype]
    power = torch.linspace(-most, most, 90).round().view(5, 18)
    lengths = [torch.exp2(p.double()) for p in (power, power.flip(0, 1))]
    far = [(f.detach().double() * s).to(dtype).requires_grad_() for f, s in zip((f0, f1), lengths, strict=True)]
    want = map_and_gradients(f0, f1, radius=2, tau=0.1)
    got = map_and_gradients(*far, radius=2, tau=0.1)
    assert torch.equal(got[0], want[0])
    for g, w, s in zip(got[1:], want[1:], lengths, strict=True):
        # What the type can hold of it; float16 rounds what lies below its normal range.
        expected = (w.double() / s).to(dtype)
        torch.testing.assert_close(
            g, expected, rtol=0 if dtype != torch.float16 else 2**-9, atol=2**-23 if dtype == torch.float16 else 0
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_displacement_map_of_many_channels_is_as_exact_as_float32(dtype):
    """Matrix products of the half types have no more error than one rounding at the end."""
    f0, f1 = features(1, 70, 3, 18, dtype=getattr(torch, dtype))
    row, options = EQUATIONS["costvol.displacement_map"], {"radius": 2, "tau": 0.1, "border": "zero"}
    got = map_and_gradients(f0, f1, **options)
    want = map_and_gradients(*(f.detach().double().requires_grad_() for f in (f0, f1)), impl="torch", **options)
    assert_agrees(row, got[0], [want[0].detach().numpy()], dtype)
    relative = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-10}[dtype]
    weights = [g.double() for g in got[1:]]
    for g, w in zip(weights, want[1:], strict=True):
        torch.testing.assert_close(g, w, rtol=relative, atol=2e-6)


@only_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_product_of_thirds_leaves_out_what_is_stated(dtype):
    """One product in each sum, so that nothing is seen but what is left out, below 2^-24, and the rounding of six sums.

    The product of the middle parts is up to 2^-18.
    """
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand((2, 16, 16), generator=random) + 1
    a, b, out = a * torch.eye(16), b.to(dtype), torch.empty(16, 16)
    multiply[(1,)](a, b, out, SIDE=16)
    want = a.double() @ b.double()
    assert ((out - want).abs() <= 2.0**-23 * want).all()
    mantissas = a.diagonal().view(torch.int32) & 0x7FFF  # what is below the first third
    assert (mantissas != 0).all()


def test_displacement_map_of_one_gradient_alone():
    f0, f1 = features(1, 3, 5, 6)
    _, g0, g1 = map_and_gradients(f0, f1, radius=1, tau=0.1)
    for n, want in enumerate((g0, g1)):
        f = [t.detach().requires_grad_(k == n) for k, t in enumerate((f0, f1))]
        assert torch.equal(map_and_gradients(*f, wanted=[f[n]], radius=1, tau=0.1)[1], want)


# The ends of a type's range

SCALES = {torch.float32: (1e-30, 1e-22, 1e-19, 1e19, 1e20, 2e38), torch.float16: (1e-6, 3e4)}
SCALES[torch.bfloat16] = SCALES[torch.float32]
# From where on what an operator is defined by is itself out of the range of float32: sums of several values, their
# squares in the scheme "released" and in a pyramid. A flow is in pixels and has no scale.
LEAVES = {
    "off": 2e38,
    "warp.difference": 2e38,
    "losses": 2e38,
    "metrics": 2e38,
    "tvl1": 2e38,
    "released": 1e19,
    "tvl1.pyramid_flow": 1e19,
}
UNIT_OF = {torch.float32: 1e-4, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def is_linear(row):
    """Whether a gradient has the scale of its cotangents."""
    return row.id.startswith(("off.", "warp."))


def at_scale(row, variant, scale, dtype, size):
    """Arguments, those that are maps anywhere from -scale to scale; which these are."""
    arrays = without_eager(row, row.inputs(SeededFill((0,), 1.0, True, "float64"), **{d: size[d] for d in row.dims}))
    maps = [name for name in batched(row) if not (name == "flow" and row.id.startswith("warp.")) and name != "mask"]
    args, random = tensors(arrays), torch.Generator().manual_seed(0)
    for name in maps:
        args[name] = (torch.rand(args[name].shape, generator=random, dtype=torch.float64) * 2 - 1) * scale
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in args.items()}, maps


def outputs_at(function, row, variant, args, maps, scale, dtype):
    """Values, and gradients of the maps."""
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in args.items()}
    wanted = [name for name in row.differentiable if name in maps]
    given |= {name: given[name].clone().requires_grad_() for name in wanted}
    with np.errstate(all="ignore"):  # Triton's interpreter is NumPy
        values = as_list(function(**given, **variant))
        random = torch.Generator().manual_seed(0)
        size = scale if is_linear(row) else 1.0
        weights = [torch.rand(v.shape, generator=random, dtype=torch.float64) * 2 - 1 for v in values]
        weights = [
            (w * size).to(dtype if v.is_floating_point() else v.dtype) for w, v in zip(weights, values, strict=True)
        ]
        found = torch.autograd.grad(values, [given[name] for name in wanted], weights) if wanted else ()
    return [v.detach().double() for v in values], [g.double() for g in found]


def leaves_range(row, variant, scale):
    words = row.id, row.id.partition(".")[0], variant.get("scheme")
    if row.id == "tvl1.pyramid_flow" and scale <= 1e-19:  # made for greys up to 255: |g|^2 underflows, in eager too
        return True
    return scale >= min(LEAVES.get(word, np.inf) for word in words)


@pytest.mark.parametrize(
    "dtype, scale",
    [pytest.param(dtype, scale, id=f"{str(dtype)[6:]}-{scale:g}") for dtype in SCALES for scale in SCALES[dtype]],
)
@each_variant
def test_the_ends_of_a_types_range(row, variant, dtype, scale):
    """Where eager PyTorch in that type has what it has in float64, so has the kernel; and it is finite where that is.

    Of values that do not leave the range the kernel has all.
    """
    size = {"N": 2, "C": 5, "T": 3, "H": 7, "W": 9}
    args, maps = at_scale(row, variant, scale, dtype, size)
    got, want, eager = (
        outputs_at(function, row, variant, args, maps, scale, kind)
        for function, kind in ((kernel(row), dtype), (operator(row), torch.float64), (operator(row), dtype))
    )
    follows = variant.get("scheme") == "released" and leaves_range(row, variant, scale)
    for place, found in enumerate(zip(got, want, eager, strict=True)):
        for ours, true, theirs in zip(*found, strict=True):
            assert ours[theirs.isfinite()].isfinite().all()
            finite = true[true.isfinite()].abs()
            unit = UNIT_OF[dtype] * (finite.max() if finite.numel() else 1.0) + torch.finfo(dtype).tiny

            def right(x, true=true, unit=unit):
                return ((x - true).abs() <= unit) | (x == true) | (x.isnan() & true.isnan())

            if follows:  # squares overflow in both: then the data moves nothing
                near = (ours - theirs).abs() <= unit
                assert place or (near | ~theirs.isfinite()).all()
                continue
            assert (right(ours) | ~right(theirs)).all()
            if dtype != torch.float16 and not leaves_range(row, variant, scale):
                assert right(theirs).double().mean() > 0.9
                assert place or right(ours).all()
