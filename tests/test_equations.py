"""Everything generated from the table: each operator equals its equation, in value and gradient."""

import re
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from generated import batched, dims_of, each_row, each_variant, inputs, operator, smooth_case
from hypothesis import given, settings

torch = pytest.importorskip("torch")

from motionspec.checks import message  # noqa: E402
from motionspec.cli.cases import DTYPES, convert, exact_case  # noqa: E402
from motionspec.cli.compare import (  # noqa: E402
    as_outputs,
    compare,
    cotangents,
    directional,
    directions,
    forward_tolerance,
    gradient_tolerance,
    step,
)
from motionspec.fused import FUSED  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

SMALL = 6  # number of a case of size (1, 1, 5, 7): holds every border and corner
MAPS = ("brightness", "off", "tvl1", "costvol", "warp", "pool3d", "layers")  # stems that give a result for each sample
ANY_AXES = ("layers.batch_norm", "layers.softmax")  # take a first argument with one axis more or less
SMOOTH = 0  # number of a case of several channels and clips away from kinks


@pytest.fixture(autouse=True)
def nan_in_new_buffers():
    """An element that nobody writes shows up as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.isnan(torch.empty(3)).all()
    yield
    torch.use_deterministic_algorithms(before)


def tensors(arrays, dtype="float64"):
    return convert(arrays, dtype=dtype, framework="torch", device="cpu")


def assert_agrees(row, got, want, dtype, scale=1.0):
    got = as_list(got)
    assert len(got) == len(want) == len(row.outputs)
    for name, g, w, degree in zip(row.outputs, got, want, row.degree, strict=True):
        assert g.dtype == getattr(torch, dtype if w.dtype == np.float64 else str(w.dtype)), name
        result = compare(g.detach().double().numpy(), w, *forward_tolerance(row, dtype, scale**degree))
        assert result.ok, f"{name}{result.first}: error {result.error} > {result.tolerance}, {result.wrong} wrong"


@pytest.mark.parametrize("dtype", DTYPES)
@each_variant()
@given(data=st.data())
def test_operator_equals_reference(row, variant, dtype, data):
    arrays, scale = data.draw(inputs(row, dtype))
    got = operator(row)(**tensors(arrays, dtype), **variant)
    assert_agrees(row, got, as_outputs(row.reference(**arrays, **variant)), dtype, scale)


def leaves(row, arrays):
    """All arguments as tensors, and those of them that have a gradient."""
    args = tensors(arrays)
    return args, [args[name].requires_grad_(True) for name in row.differentiable]


def as_list(got):
    return [got] if isinstance(got, torch.Tensor) else list(got)


@each_variant(differentiable=True)
@given(data=st.data())
@settings(max_examples=10)
def test_gradient_equals_central_differences_of_the_reference(row, variant, data):
    arrays, scale = data.draw(inputs(row, "float64", smooth=True))
    args, wanted = leaves(row, arrays)
    got = as_list(operator(row)(**args, **variant))
    weights = cotangents(row, as_outputs(row.reference(**arrays, **variant)), (0,), "float64")
    pairs = [(g, torch.tensor(w)) for g, w in zip(got, weights, strict=True) if w is not None]
    gradients = torch.autograd.grad([g for g, _ in pairs], wanted, [w for _, w in pairs])
    for name, gradient in zip(row.differentiable, gradients, strict=True):
        relative, absolute = gradient_tolerance(row, name, "float64", scale)
        for index, direction in directions(gradient.shape, 0, limit=24):
            want = directional(row, variant, arrays, name, direction, weights, step(row, name, scale))
            along = gradient.numpy() * direction
            size = float(np.abs(along).sum())
            assert abs(along.sum() - want) <= absolute + relative * (abs(want) + size), (name, index, along.sum(), want)


@pytest.mark.parametrize("H, W", [(1, 1), (3, 3), (6, 5)])
@each_variant(differentiable=True)
def test_gradcheck_and_gradgradcheck(row, variant, H, W):
    k = smooth_case(H, W)
    args, wanted = leaves(row, exact_case(row.id, k))

    def function(*values):
        got = as_list(operator(row)(**args | dict(zip(row.differentiable, values, strict=True)), **variant))
        # An infinite output is constant; differences would make it NaN.
        return tuple(g.masked_fill(g.isinf(), 0.0) for g in got if g.is_floating_point())

    # fast_mode compares along random directions: the elementwise check is the one against the reference above.
    assert torch.autograd.gradcheck(function, wanted, fast_mode=H == 6)
    assert torch.autograd.gradgradcheck(function, wanted, fast_mode=H == 6)


def strided(t):
    """The same values as every second element of a larger buffer, of NaN where the type has it."""
    big = torch.full([2 * s for s in t.shape], torch.nan if t.is_floating_point() else 0, dtype=t.dtype)
    view = big[tuple(slice(None, None, 2) for _ in t.shape)]
    return view.copy_(t)


def channels_last(t):
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=layouts.get(t.ndim, torch.contiguous_format))


def transposed(t):
    return t.mT.contiguous().mT if t.ndim > 1 else t


@pytest.mark.parametrize("layout", [strided, channels_last, transposed])
@each_variant()
def test_layout_of_the_inputs_does_not_matter(row, variant, layout):
    arrays = exact_case(row.id, SMOOTH)
    args = {name: layout(t) for name, t in tensors(arrays).items()}
    assert all(a.shape == arrays[name].shape for name, a in args.items())
    want = as_outputs(row.reference(**arrays, **variant))
    assert_agrees(row, operator(row)(**args, **variant), want, "float64")


@each_variant(batched=True)
def test_expanded_inputs(row, variant):
    """A batch that repeats one sample without copying it gives what the copies give, also in the gradient."""
    one = {name: a[:1] if name in batched(row) else a for name, a in exact_case(row.id, SMOOTH).items()}
    three = {name: a.repeat(3, axis=0) if name in batched(row) else a for name, a in one.items()}
    args, wanted = leaves(row, one)
    expanded = {name: t.expand(3, *t.shape[1:]) if name in batched(row) else t for name, t in args.items()}
    got = operator(row)(**expanded, **variant)
    assert_agrees(row, got, as_outputs(row.reference(**three, **variant)), "float64")
    if row.differentiable:
        copies, copied = leaves(row, three)
        for name, a, b in zip(
            row.differentiable,
            torch.autograd.grad(as_list(got)[0].sum(), wanted, materialize_grads=True),
            torch.autograd.grad(as_list(operator(row)(**copies, **variant))[0].sum(), copied, materialize_grads=True),
            strict=True,
        ):
            summed = b.sum(0, keepdim=True) if name in batched(row) else b
            torch.testing.assert_close(a, summed, rtol=1e-12, atol=1e-12)


@each_variant(batched=True, stems=MAPS)
def test_the_rest_of_the_batch_does_not_matter(row, variant):
    """Neither to the reference nor to the operator, where the other sample is a thousand times larger."""
    arrays = exact_case(row.id, SMOOTH)
    for name in batched(row):
        arrays[name][1] *= 1000
    for n in (0, 1):
        alone = {name: a[n : n + 1] if name in batched(row) else a for name, a in arrays.items()}
        for together, single in zip(
            as_outputs(row.reference(**arrays, **variant)), as_outputs(row.reference(**alone, **variant)), strict=True
        ):
            np.testing.assert_allclose(together[n : n + 1], single, rtol=1e-13, atol=0)
        got, single = (as_list(operator(row)(**tensors(a), **variant)) for a in (arrays, alone))
        torch.testing.assert_close([g[n : n + 1] for g in got], single, rtol=1e-13, atol=1e-13)


@each_variant(differentiable=True, batched=True, stems=MAPS)
def test_constant_maps_have_finite_gradients(row, variant):
    """Flat maps, clips and scores, of 0 and not: no gradient, no largest value, no norm to divide by."""
    for value in (0.0, 0.25):
        arrays = exact_case(row.id, SMOOTH)
        for name in batched(row):
            arrays[name][...] = value
        args, wanted = leaves(row, arrays)
        got = [
            g.masked_fill(g.isinf(), 0.0) for g in as_list(operator(row)(**args, **variant)) if g.is_floating_point()
        ]
        assert all(g.isfinite().all() for g in got)
        for gradient in torch.autograd.grad([g.sum() for g in got], wanted):
            assert gradient.isfinite().all()


@each_variant(batched=True)
def test_empty_batch(row, variant):
    """The reference's result, or its error, for no sample at all."""
    arrays = {name: a[:0] if name in batched(row) else a for name, a in exact_case(row.id, SMOOTH).items()}
    try:
        want = as_outputs(row.reference(**arrays, **variant))
    except ValueError:
        reference, op = both_errors(row, arrays | variant, ValueError)
        assert str(reference) == str(op)
    else:
        assert_agrees(row, operator(row)(**tensors(arrays), **variant), want, "float64")


def both_errors(row, args, kinds):
    """The reference's and the operator's error for the same bad call; the default variant's keywords are filled in."""
    args = dict(row.variants[0]) | args
    with pytest.raises(kinds) as reference:
        row.reference(**args)
    as_tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}
    with pytest.raises(kinds) as op:
        operator(row)(**as_tensors)
    return reference.value, op.value


@pytest.mark.parametrize(
    "row, number",
    [(row, n) for row in EQUATIONS.values() for n in range(len(row.bad))],
    ids=lambda v: getattr(v, "id", v),
)
def test_bad_input_gives_the_row_s_error(row, number):
    change, expected = row.bad[number]
    arrays = exact_case(row.id, SMOOTH)
    sizes = dict(zip("NCHW", next(iter(arrays.values())).shape, strict=False))
    reference, op = both_errors(row, change(dict(arrays)), (TypeError, ValueError))
    assert type(reference) is type(op)
    assert str(reference) == str(op) == f"{row.id}: {expected.format(**sizes)}"


@each_row()
def test_bad_shapes_give_the_same_error(row):
    arrays = exact_case(row.id, SMOOTH)
    for n, (name, array) in enumerate(arrays.items()):
        if array.ndim:
            bad = [array[None], array[0], array[..., :0]]
        else:  # a number: one element in any number of axes will do
            bad = [array.repeat(2), array.repeat(0)]
        if not n and row.id in ANY_AXES:
            bad = [array[..., :0]]
        other = []
        if n and array.ndim > 1:  # earlier arguments set the sizes that this one must have, but for dims of its own
            axes = dims_of(row)[name]
            earlier = {dim for known in list(arrays)[:n] for dims in dims_of(row)[known] for dim in dims}
            changed = ((array[..., :-1], -1), (array[..., :-1, :], -2), (array.repeat(2, axis=0), 0))
            other = [wrong for wrong, axis in changed if set(axes[axis]) <= earlier]
        for i, wrong in enumerate(map(np.asarray, bad + other)):
            reference, op = both_errors(row, arrays | {name: wrong}, ValueError)
            assert str(reference) == str(op)
            blamed = name if i < len(bad) else str(op).split(": ")[1]
            assert blamed in list(arrays)[n:]
            assert str(op).startswith(f"{row.id}: {blamed}: expected ")
            assert str(op).endswith(f"got {(arrays | {name: wrong})[blamed].shape}")


@each_row()
def test_bad_types_name_operator_and_argument(row):
    arrays = exact_case(row.id, SMOOTH)
    good = tensors(arrays)
    for n, (name, array) in enumerate(arrays.items()):
        floating = np.issubdtype(array.dtype, np.floating)
        # A number need not be in an array.
        others = [array.astype(np.int64 if floating else np.float64), array.tolist() if array.ndim else "0.25"]
        for wrong in others if name in row.keyword else [*others, None]:
            reference, op = both_errors(row, arrays | {name: wrong}, TypeError)
            assert str(reference).startswith(f"{row.id}: {name}: expected a")
            assert str(op).startswith(f"{row.id}: {name}: expected a")
            assert "NumPy array" in str(reference) and "torch tensor" in str(op)
        variant = dict(row.variants[0])
        place = re.escape(f"{row.id}: {name}")
        if n and floating:
            with pytest.raises(TypeError, match=f"{place}: expected torch.float64 like the first argument"):
                operator(row)(**good | variant | {name: good[name].float()})
        if n:
            with pytest.raises(ValueError, match=f"{place}: expected device cpu like the first argument"):
                operator(row)(**good | variant | {name: good[name].to("meta")})


@each_row()
def test_reference_refuses_values_that_are_not_finite(row):
    arrays = exact_case(row.id, SMOOTH)
    for name, array in arrays.items():
        if name in row.nonfinite or not np.issubdtype(array.dtype, np.floating):
            continue
        for value in (np.nan, np.inf):
            wrong = array.copy()
            wrong[(-1,) * array.ndim] = value
            with pytest.raises(ValueError) as error:
                row.reference(**arrays | dict(row.variants[0]) | {name: wrong})
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(wrong))[0])
            assert str(error.value) == message(row.id, name, "finite values", f"{value} at {first}")


@each_row()
def test_impl_is_obeyed_or_refused(row):
    arrays, variant = exact_case(row.id, SMALL), dict(row.variants[0])
    got = operator(row)(**tensors(arrays), **variant, impl="torch")
    assert_agrees(row, got, as_outputs(row.reference(**arrays, **variant)), "float64")
    names = ", ".join(map(repr, ("auto", "torch", *FUSED.get(row.id, ()))))
    with pytest.raises(ValueError, match=f"{row.id}: impl: expected one of {names}, got 'cuda'"):
        operator(row)(**tensors(arrays), **variant, impl="cuda")


@each_variant()
def test_compiles_without_graph_breaks(row, variant):
    """Tracing, forward and backward graphs; one compiled kernel of each stem is run in test_compiled_kernels."""
    torch.compiler.reset()  # the lambda is one code object to dynamo, which gives up after eight versions of it
    function = operator(row)
    compiled = torch.compile(lambda **args: function(**args, **variant), fullgraph=True, backend="aot_eager")
    arrays = exact_case(row.id, SMOOTH)
    args, wanted = leaves(row, arrays)
    got = compiled(**args)
    assert_agrees(row, got, as_outputs(row.reference(**arrays, **variant)), "float64")
    if row.differentiable:
        eager = as_list(function(**args, **variant))[0]
        pairs = [torch.autograd.grad(o.sum(), wanted, materialize_grads=True) for o in (as_list(got)[0], eager)]
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["warp.difference", "off.clip_features", "detection.ps_roi_pool", "losses.multiscale_endpoint_error"]
)
def test_compiles_once_for_all_sizes(name):
    """The checks of shapes hold for symbolic sizes too."""
    torch.compiler.reset()
    row, sizes = EQUATIONS[name], set()
    function, variant = operator(row), dict(row.variants[0])
    compiled = torch.compile(
        lambda **args: function(**args, **variant), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for k in (SMALL, SMOOTH, 10):
        arrays = exact_case(name, k)
        sizes.add(next(iter(arrays.values())).shape)
        assert_agrees(row, compiled(**tensors(arrays)), as_outputs(row.reference(**arrays, **variant)), "float64")
    assert len(sizes) == 3


@pytest.mark.parametrize(
    "name",
    [
        "warp.difference",
        "off.clip_features",
        "brightness.normal_flow",
        "costvol.displacement_map",
        "pool3d.gradual",
        "detection.ps_roi_pool",
        "losses.multiscale_endpoint_error",
        "losses.multitask",
        "tvl1.primal_step",
    ],
)
def test_compiled_kernels(name):
    """The real compiler on CPU, whose backward of some gathers is wrong with two threads or more."""
    torch.compiler.reset()  # as above
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    row = EQUATIONS[name]
    variant, function = dict(row.variants[-1]), operator(row)
    arrays = exact_case(name, SMOOTH)
    args, wanted = leaves(row, arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        got = torch.compile(lambda **args: function(**args, **variant), fullgraph=True)(**args)
        gradients = torch.autograd.grad(got.square().sum(), wanted)
    assert_agrees(row, got, as_outputs(row.reference(**arrays, **variant)), "float64")
    eager = torch.autograd.grad(function(**args, **variant).square().sum(), wanted)
    torch.set_num_threads(threads)
    for a, b in zip(gradients, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
