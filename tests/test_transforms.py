"""What every operator owes PyTorch's transforms: the eager operator's result, or one line that names impl='torch'.

Expected are Jacobian and Hessian of the eager operator in float64, by `torch.autograd.grad` alone, which other tests
hold against central differences of the oracle. `impl="auto"` runs in float32, for which it takes kernels.

Kernels by Triton run in its interpreter, in a process of their own, by `TRITON_INTERPRET=1 pytest`.
"""

import os
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import pytest

torch = pytest.importorskip("torch")
IMPL = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "numba"

import torch.autograd.forward_ad as fad  # noqa: E402
from generated import dims_of, operator  # noqa: E402
from test_equations import as_list, tensors  # noqa: E402
from torch import func  # noqa: E402

from motionspec.cli.cases import SeededFill  # noqa: E402
from motionspec.fused import FUSED  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # on its first use, torch's forward mode warns of torch's own jit
    func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))

SIZE = {"N": 2, "C": 2, "S": 1, "T": 2, "H": 3, "W": 4, "K": 3, "P": 1, "Q": 1, "R": 3}
LARGER = {"tvl1.pyramid_flow": {"H": 12, "W": 13}}  # than one scale
# What kernels leave to the eager operator: arguments, and variants that have such a value.
EAGER = {"tvl1.representation_flow": ("image_kernel", "flow_kernel", "paper")}
DTYPE = {"torch": torch.float64, "auto": torch.float32, IMPL: torch.float64}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}  # relative to the largest element that is expected


# -- one operator ------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A row of the table with one variant, small inputs, and what is expected of its derivatives."""

    id: str
    variant: dict
    whole: bool  # with the arguments that kernels do not take

    @cached_property
    def row(self):
        return EQUATIONS[self.id]

    @cached_property
    def skipped(self):
        return () if self.whole else EAGER.get(self.id, ())

    def arrays(self, key):
        sizes = {dim: (SIZE | LARGER.get(self.id, {}))[dim] for dim in self.row.dims}
        found = tensors(self.row.inputs(SeededFill((key,), 1.0, True, "float64"), **sizes))
        # Of values that float32 has: at a low temperature derivatives grow what its rounding would change.
        rounded = {name: a.float().double() if a.is_floating_point() else a for name, a in found.items()}
        return {name: a for name, a in rounded.items() if name not in self.skipped}

    @cached_property
    def names(self):
        """Of the points at which it is transformed: what has a derivative, else all that is made of numbers."""
        names = [name for name in self.row.differentiable if name not in self.skipped]
        return names or [name for name, a in self.arrays(0).items() if a.is_floating_point()]

    def points(self, dtype=torch.float64, key=0):
        return [self.arrays(key)[name].to(dtype) for name in self.names]

    def directions(self, dtype=torch.float64):
        random = torch.Generator().manual_seed(1)
        return [torch.randn(p.shape, generator=random, dtype=p.dtype).to(dtype) for p in self.points()]

    def weights(self, dtype=torch.float64):
        random = torch.Generator().manual_seed(2)
        outputs = self.function("torch")(*self.points())
        return [torch.randn(o.shape, generator=random, dtype=o.dtype).to(dtype) for o in outputs]

    def function(self, impl):
        """Of the points alone; its outputs that are made of numbers, infinite ones as the constants that they are."""
        others = {name: a for name, a in self.arrays(0).items() if name not in self.names}
        function, names, variant = operator(self.row), self.names, self.variant  # dynamo does not trace an import

        def call(*points):
            dtype = points[0].dtype
            given = {name: a.to(dtype) if a.is_floating_point() else a for name, a in others.items()}
            given |= dict(zip(names, points, strict=True))
            found = [o for o in as_list(function(**given, **variant, impl=impl)) if o.is_floating_point()]
            if variant.get("border") == "exclude":
                found = [o.masked_fill(o.isinf(), 0.0) for o in found]
            return tuple(found)

        return call

    @cached_property
    def jacobian(self):
        """(outputs, points), by one backward for each output."""
        points = [p.requires_grad_() for p in self.points()]
        outputs = flat(self.function("torch")(*points))
        return torch.stack([flat(gradient(o, points)) for o in outputs]).detach()

    @cached_property
    def hessian(self):
        """(points, points), of the outputs' weighted sum."""
        points = [p.requires_grad_() for p in self.points()]
        first = flat(gradient(weighted(self.function("torch"), self.weights())(*points), points))
        if not first.requires_grad:
            return torch.zeros(len(first), len(first), dtype=first.dtype)
        return torch.stack([flat(gradient(g, points)) for g in first]).detach()

    @cached_property
    def last(self):
        """The columns of the last point."""
        *_, (start, end) = pairwise(accumulate([p.numel() for p in self.points()], initial=0))
        return slice(start, end)


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def gradient(value, points):
    return torch.autograd.grad(value, points, create_graph=True, materialize_grads=True)


def weighted(function, weights):
    """The sum of its outputs, weighted."""
    return lambda *points: sum((o * w).sum() for o, w in zip(function(*points), weights, strict=True))


def dot(a, b):
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))


def every(points):
    return tuple(range(len(points)))


# -- the transforms: (function, points, directions, weights) -> numbers ------------------------------------------------


def value(f, p, v, w):
    return flat(f(*p))


def inference_mode(f, p, v, w):
    with torch.inference_mode():
        return flat(f(*p)).clone()


def deterministic(f, p, v, w):
    torch.use_deterministic_algorithms(True)
    try:
        return flat(f(*p))
    finally:
        torch.use_deterministic_algorithms(False)


def backward(f, p, v, w):
    p = [a.requires_grad_() for a in p]
    return flat(torch.autograd.grad(weighted(f, w)(*p), p, materialize_grads=True))


def backward_of_the_last(f, p, v, w):
    p[-1].requires_grad_()
    return flat(torch.autograd.grad(weighted(f, w)(*p), p[-1:], materialize_grads=True))


def batched_backward(f, p, v, w):
    p = [a.requires_grad_() for a in p]
    out = flat(f(*p))
    ones = torch.eye(len(out), dtype=out.dtype)
    found = torch.autograd.grad(out, p, ones, is_grads_batched=True, materialize_grads=True)
    return torch.cat([g.reshape(len(out), -1) for g in found], 1)


def double_backward(f, p, v, w):
    p = [a.requires_grad_() for a in p]
    first = dot(gradient(weighted(f, w)(*p), p), v)
    return flat(gradient(first, p)) if first.requires_grad else flat(p) * 0


def double_backward_of_the_last(f, p, v, w):
    p[-1].requires_grad_()
    first = dot(gradient(weighted(f, w)(*p), p[-1:]), v[-1:])
    return flat(gradient(first, p[-1:])) if first.requires_grad else flat(p[-1:]) * 0


def twice_backward_jvp(f, p, v, w):
    """Forward mode by two backwards, as `torch.autograd.functional` has it."""
    return flat(torch.autograd.functional.jvp(f, tuple(p), tuple(v))[1])


def jvp(f, p, v, w):
    return flat(func.jvp(f, tuple(p), tuple(v))[1])


def jvp_of_the_last(f, p, v, w):
    return flat(func.jvp(lambda last: f(*p[:-1], last), (p[-1],), (v[-1],))[1])


def dual(f, p, v, w):
    with fad.dual_level():
        out = f(*map(fad.make_dual, p, v))
        return flat([d.tangent if d.tangent is not None else 0 * d.primal for d in map(fad.unpack_dual, out)])


def dual_of_the_last(f, p, v, w):
    with fad.dual_level():
        out = f(*p[:-1], fad.make_dual(p[-1], v[-1]))
        return flat([d.tangent if d.tangent is not None else 0 * d.primal for d in map(fad.unpack_dual, out)])


def dual_backward(f, p, v, w):
    with fad.dual_level():
        p = [a.requires_grad_() for a in p]
        first = gradient(weighted(f, w)(*map(fad.make_dual, p, v)), p)
        return flat([d.tangent if d.tangent is not None else 0 * d.primal for d in map(fad.unpack_dual, first)])


def linearize(f, p, v, w):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about a graph of its own making
        return flat(func.linearize(f, *p)[1](*v))


def jacfwd(f, p, v, w):
    return func.jacfwd(lambda a: flat(f(*split(a, p))))(flat(p))


def jacrev(f, p, v, w):
    return func.jacrev(lambda a: flat(f(*split(a, p))))(flat(p))


def grad(f, p, v, w):
    return flat(func.grad(weighted(f, w), every(p))(*p))


def vjp(f, p, v, w):
    return flat(func.vjp(f, *p)[1](tuple(w)))


def hessian(f, p, v, w):
    return func.hessian(lambda a: weighted(f, w)(*split(a, p)))(flat(p))


def grad_of_grad(f, p, v, w):
    return flat(func.grad(lambda *q: dot(func.grad(weighted(f, w), every(q))(*q), v), every(p))(*p))


def jvp_of_grad(f, p, v, w):
    return flat(func.jvp(func.grad(weighted(f, w), every(p)), tuple(p), tuple(v))[1])


def grad_of_jvp(f, p, v, w):
    return flat(func.grad(lambda *q: dot(func.jvp(f, q, tuple(v))[1], w), every(p))(*p))


def vmap(f, p, v, w):
    """Of the point itself and its double, to see that they are not mixed; the last argument is the same for both."""
    *first, last = p
    if not first:
        return func.vmap(lambda a: flat(f(a)))(twice(last))[0]
    return func.vmap(lambda *a: flat(f(*a, last)))(*map(twice, first))[0]


def vmap_of_grad(f, p, v, w):
    return func.vmap(lambda *a: flat(func.grad(weighted(f, w), every(a))(*a)))(*map(twice, p))[0]


def vmap_of_jvp(f, p, v, w):
    return func.vmap(lambda *t: flat(func.jvp(f, tuple(p), t)[1]))(*map(twice, v))[0]


def jvp_of_vmap(f, p, v, w):
    mapped = func.vmap(lambda *a: flat(f(*a)))
    return func.jvp(mapped, tuple(map(twice, p)), tuple(map(twice, v)))[1][0]


def twice(a):
    return torch.stack([a, 0.75 * a])


def split(vector, like):
    parts = vector.split([a.numel() for a in like])
    return [part.reshape(a.shape) for part, a in zip(parts, like, strict=True)]


def compiled(transform):
    """The transform within a compiled function."""

    def call(f, p, v, w):
        torch.compiler.reset()
        inside = torch.compile(lambda *a: transform(f, list(a), v, w), fullgraph=True, backend="aot_eager")
        return inside(*p)

    return call


def of_compiled(transform):
    """The transform of a compiled function."""

    def call(f, p, v, w):
        torch.compiler.reset()
        return transform(torch.compile(f, fullgraph=True, backend="aot_eager"), p, v, w)

    return call


# What is expected of each: of the case, its points, directions and weights.
def _f(case, v, w):
    return flat(case.function("torch")(*case.points())).detach()


def _jv(case, v, w):
    return case.jacobian @ flat(v)


def _jv_last(case, v, w):
    return case.jacobian[:, case.last] @ v[-1].reshape(-1)


def _wj(case, v, w):
    return flat(w) @ case.jacobian


def _wj_last(case, v, w):
    return (flat(w) @ case.jacobian)[case.last]


def _j(case, v, w):
    return case.jacobian


def _h(case, v, w):
    return case.hessian


def _hv(case, v, w):
    return case.hessian @ flat(v)


def _hv_last(case, v, w):
    return case.hessian[case.last, case.last] @ v[-1].reshape(-1)


FIRST = {
    backward: _wj,
    backward_of_the_last: _wj_last,
    batched_backward: _j,
    twice_backward_jvp: _jv,
    jvp: _jv,
    jvp_of_the_last: _jv_last,
    dual: _jv,
    dual_of_the_last: _jv_last,
    linearize: _jv,
    jacfwd: _j,
    jacrev: _j,
    grad: _wj,
    vjp: _wj,
    vmap_of_grad: _wj,
    vmap_of_jvp: _jv,
    jvp_of_vmap: _jv,
}
SECOND = {
    double_backward: _hv,
    double_backward_of_the_last: _hv_last,
    dual_backward: _hv,
    hessian: _h,
    grad_of_grad: _hv,
    jvp_of_grad: _hv,
    grad_of_jvp: _hv,
}
PLAIN = {value: _f, inference_mode: _f, deterministic: _f, vmap: _f}
# By name a kernel is right for these, and refuses all others; those of `off` are linear and have all derivatives.
BY_NAME = {value, inference_mode, deterministic, backward, backward_of_the_last}
LINEAR = {double_backward, double_backward_of_the_last, twice_backward_jvp}
# Within a compiled function, and of one. torch itself refuses torch.func's transforms of a compiled function.
INSIDE = (jvp, grad, vmap, vmap_of_grad, jvp_of_grad)
OUTSIDE = (value, backward, dual)


def cases(impl):
    """One for each variant; of a kernel by name, of those that it has."""
    for name, row in EQUATIONS.items():
        if impl == IMPL and IMPL not in FUSED.get(name, ()):
            continue
        for variant in row.variants:
            eager = any(value in EAGER.get(name, ()) for value in variant.values())
            if not (impl == IMPL and eager):
                yield Case(name, dict(variant), impl == "torch" or eager)


def transforms(case, impl):
    if not case.row.differentiable:
        return PLAIN
    return PLAIN | FIRST | SECOND


def problem(case, impl, transform, expected):
    """What is wrong with a transform of an operator, empty if nothing is."""
    dtype = (
        DTYPE[impl] if case.id in FUSED else torch.float64
    )  # without a kernel float32 tells nothing but its rounding
    p, v, w = case.points(dtype), case.directions(dtype), case.weights(dtype)
    right = impl != IMPL or transform in BY_NAME or (case.id.startswith("off.") and transform in LINEAR)
    try:
        got = transform(case.function(impl), p, v, w).detach()
    except Exception as error:
        if right:
            return f"raises {type(error).__name__}: {str(error)[:200]}"
        line = rf"{case.id}: impl: expected .*'torch'.*, got '{impl}'"
        return "" if re.fullmatch(line, str(error)) else f"refuses as {type(error).__name__}: {str(error)[:200]}"
    if not right:
        return "does not refuse"
    want = expected(case, case.directions(), case.weights())
    if got.shape != want.shape:
        return f"shape {tuple(got.shape)}, not {tuple(want.shape)}"
    error = torch.where(want.isnan() & got.isnan(), 0.0, (got.double() - want).abs()).max().item()
    want = want.nan_to_num()  # the accuracy of a class without a sample
    size = max(want.abs().max().item(), case.jacobian.abs().max().item() if case.row.differentiable else 0.0)
    return "" if error <= TOLERANCE[dtype] * size else f"differs by {error:.3g} of {size:.3g}"


def problems(case, impl, chosen):
    found = {t.__name__: problem(case, impl, t, expected) for t, expected in chosen.items()}
    return {name: text for name, text in found.items() if text}


def quick(case):
    """What `make test` runs: every kernel by its first variant, and of each stem one operator that has none."""
    if case.variant != dict(case.row.variants[0]):
        return False
    return case.id in FUSED or case.id in ONE_OF_EACH_STEM


ONE_OF_EACH_STEM = {
    "brightness.normal_flow", "off.residual_rate", "tvl1.normalise", "tvl1.threshold_step", "costvol.cosine",
    "costvol.hard_displacement", "losses.multitask", "metrics.psnr", "pool3d.gradual", "detection.ps_roi_pool",
    "layers.batch_norm",
}  # fmt: skip
each = pytest.mark.parametrize(
    "case, impl",
    [
        pytest.param(
            case,
            impl,
            id="-".join([impl, case.id, *map(str, case.variant.values())]),
            marks=[] if quick(case) else pytest.mark.slow,
        )
        for impl in DTYPE
        for case in cases(impl)
    ],
)


@pytest.fixture(autouse=True)
def installed(request):
    impl = request.node.callspec.params.get("impl") if hasattr(request.node, "callspec") else None
    if impl == IMPL:
        pytest.importorskip(IMPL, reason=f"no {IMPL} here: pip install 'motionspec[{IMPL}]'")


@each
def test_a_transform_is_that_of_the_eager_operator_or_refused_in_one_line(case, impl):
    assert problems(case, impl, transforms(case, impl)) == {}


# -- autocast ----------------------------------------------------------------------------------------------------------

# What torch 2.11 does otherwise, right but slower or narrower; docs/kernels.md says so.
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
FIRST_VARIANTS = [Case(name, dict(row.variants[0]), True) for name, row in EQUATIONS.items()]
each_operator = pytest.mark.parametrize("case", FIRST_VARIANTS, ids=[case.id for case in FIRST_VARIANTS])
# In float32 at least under autocast: what `motionspec.ops.losses` has.


def in_types(case, types):
    """All arguments, the n-th of those that are made of numbers in the n-th type."""
    found, types = {}, iter(types)
    for name, a in case.arrays(0).items():
        found[name] = a.to(next(types)) if a.is_floating_point() else a
    return found


def numbers_of(case):
    return sum(a.is_floating_point() for a in case.arrays(0).values())


def called(case, arguments):
    return as_list(operator(case.row)(**arguments, **case.variant))


@each_operator
def test_under_autocast_types_meet_in_the_widest(case):
    """And the operator computes as it does outside: bfloat16 in float32, rounded once, products of matrices too."""
    narrow, wide = torch.bfloat16, torch.float32
    for types in ([wide] + [narrow] * 9, [narrow] + [wide] * 9):
        if numbers_of(case) > 1:
            rounded = {name: a.to(wide) if a.is_floating_point() else a for name, a in in_types(case, types).items()}
            with torch.autocast("cpu", dtype=narrow):
                got = called(case, in_types(case, types))
            torch.testing.assert_close(got, called(case, rounded), rtol=0, atol=0, equal_nan=True)
    same = in_types(case, [wide] * 9)
    with torch.autocast("cpu", dtype=narrow):
        got = called(case, same)
    torch.testing.assert_close(got, called(case, same), rtol=0, atol=0, equal_nan=True)


@each_operator
def test_under_autocast_half_types_stay_but_for_losses_which_are_float32(case):
    narrow = in_types(case, [torch.bfloat16] * 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = called(case, narrow)
    if case.id.startswith("losses."):
        narrow = {name: a.float() if a.is_floating_point() else a for name, a in narrow.items()}
    torch.testing.assert_close(got, called(case, narrow), rtol=0, atol=0, equal_nan=True)


@each_operator
def test_outside_autocast_types_must_agree(case):
    if numbers_of(case) > 1:
        with pytest.raises(TypeError, match=rf"^{case.id}: [\w\[\]]+: expected torch.bfloat16 like the first argument"):
            called(case, in_types(case, [torch.bfloat16] + [torch.float32] * 9))


def test_under_autocast_gradients_come_in_the_types_of_the_arguments():
    from motionspec.ops import losses, warp

    x, flow = torch.randn(1, 2, 4, 5, dtype=torch.bfloat16), torch.randn(1, 2, 4, 5)
    x.requires_grad_(), flow.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error = losses.endpoint_error(warp.bilinear(x, flow), flow.detach().bfloat16())
    assert error.dtype == torch.float32
    error.backward()
    assert (x.grad.dtype, flow.grad.dtype) == (torch.bfloat16, torch.float32)
    assert x.grad.any() and flow.grad.any()


def test_under_autocast_float64_is_the_widest_and_two_half_types_meet_in_float32():
    from motionspec.ops import warp

    x, flow = torch.randn(1, 2, 4, 5), torch.randn(1, 2, 4, 5)
    pairs = {(torch.float64, torch.bfloat16): torch.float64, (torch.float16, torch.bfloat16): torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for (a, b), want in pairs.items():
            assert warp.bilinear(x.to(a), flow.to(b)).dtype == want


@pytest.mark.parametrize("name", ["warp.bilinear", "costvol.displacement_map", "losses.multiscale_endpoint_error"])
def test_autocast_compiles(name):
    torch.compiler.reset()
    case = next(case for case in FIRST_VARIANTS if case.id == name)
    arguments = in_types(case, [torch.bfloat16] + [torch.float32] * 9)
    function, variant = operator(case.row), case.variant
    compiled = torch.compile(lambda **a: function(**a, **variant), fullgraph=True, backend="aot_eager")
    # torch 2.11 compiles the eager operator's graph, whose roundings are others than a kernel's.
    exact = {"rtol": 1e-6, "atol": 1e-6} if OLD else {"rtol": 0, "atol": 0}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close([compiled(**arguments)], called(case, arguments), **exact)


def test_layers_and_the_losses_of_networks_promote_too():
    from motionspec.models import WarpedDifference, actionflownet

    clip, flow = torch.randn(1, 2, 3, 4, 5).bfloat16(), torch.randn(1, 2, 2, 4, 5)
    parts = {"flow1": flow.bfloat16(), "scores": torch.randn(1, 3).bfloat16()}
    label = torch.tensor([1])
    want = WarpedDifference()(clip.float(), flow)
    loss = actionflownet.multitask_loss(
        {key: a.float() for key, a in parts.items()}, label, flow, lam=1.0, alpha=(1.0,)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(WarpedDifference()(clip, flow), want, rtol=0, atol=0)
        found = actionflownet.multitask_loss(parts, label, flow, lam=1.0, alpha=(1.0,))
    torch.testing.assert_close(found, loss, rtol=0, atol=0)


# -- torch.compile, torch.export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=[] if case.id in ("warp.bilinear", "off.features") else pytest.mark.slow)
        for case in cases("auto")
        if case.variant == dict(case.row.variants[0]) and case.row.differentiable
    ],
)
def test_transforms_within_and_of_a_compiled_function(case):
    chosen = PLAIN | FIRST | SECOND
    found = {f"within: {t.__name__}": problem(case, "auto", compiled(t), chosen[t]) for t in INSIDE}
    found |= {f"of: {t.__name__}": problem(case, "auto", of_compiled(t), chosen[t]) for t in OUTSIDE}
    assert {name: text for name, text in found.items() if text} == {}


def exported_case(case, **change):
    """All arguments in float32, at sizes of which one may change."""
    sizes = {dim: (SIZE | {"H": 12, "W": 13} | change)[dim] for dim in case.row.dims}
    found = tensors(case.row.inputs(SeededFill((0,), 1.0, True, "float64"), **sizes))
    return {name: a.float() if a.is_floating_point() else a for name, a in found.items()}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=pytest.mark.slow if "tvl1" in case.id or not quick(case) else [])
        for case in FIRST_VARIANTS
    ],
)
def test_exports_with_dynamic_batch_height_and_width(case):
    """`impl="auto"`: the program has the eager formula, and its value at other sizes."""
    function, names, variant = operator(case.row), [*case.arrays(0)], case.variant

    class Module(torch.nn.Module):
        def forward(self, *values):
            return function(**dict(zip(names, values, strict=True)), **variant)

    # The size of a pyramid's images says how many there are and how each is blurred: a program is of one size.
    free, changes = set("NHW"), [{"N": 3}, {"H": 15, "W": 14}, {"N": 5, "H": 14, "W": 16}]
    if case.id == "tvl1.pyramid_flow":
        free, changes = {"N"}, changes[:1]
    if case.id == "pool3d.gradual" and OLD:  # torch 2.11 keeps whether a side is even
        changes = [{"N": 3}]
    arrays = exported_case(case)
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dims in enumerate(dims_of(case.row)[name]) if set(dims) & free}
        for name in names
    )
    program = torch.export.export(Module(), tuple(arrays.values()), dynamic_shapes=(dynamic,))
    assert not any("motionspec" in str(node.target) for node in program.graph.nodes)
    for change in changes:
        other = exported_case(case, **change)
        got = as_list(program.module()(*other.values()))
        want = as_list(function(**other, **variant, impl="torch"))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


# -- odd tensors -------------------------------------------------------------------------------------------------------


def negative(a):
    """A view whose negative bit is set."""
    view = torch.complex(torch.zeros_like(a), -a).conj().imag
    assert view.is_neg()
    return view


def expanded(a):
    """Each element beside its copy, which has no memory of its own; the axis is taken off again."""
    return a[..., None].expand(*a.shape, 2)[..., 0]


def part_of_a_leaf(a):
    """A view of something that requires a gradient."""
    return torch.stack([a, a]).requires_grad_()[1]


class Subclass(torch.Tensor):
    pass


ODD = {"negative bit": negative, "expanded": expanded, "view of a leaf": part_of_a_leaf}
ODD |= {"subclass": lambda a: a.as_subclass(Subclass)}
IMPLS = [(case, impl) for impl in DTYPE for case in cases(impl) if case.variant == dict(case.row.variants[0])]
each_implementation = pytest.mark.parametrize("case, impl", IMPLS, ids=[f"{impl}-{case.id}" for case, impl in IMPLS])


@each_implementation
def test_odd_tensors_give_what_ordinary_ones_give(case, impl):
    dtype = DTYPE[impl]
    function = case.function(impl)
    want = flat(function(*case.points(dtype)))
    for name, odd in ODD.items():
        points = [odd(p) for p in case.points(dtype)]
        if case.id == "tvl1.pyramid_flow":  # it has no gradient, and refuses what requires one
            points = [p.detach() for p in points]
        got = flat(function(*points))
        # What requires a gradient may take another way to it, as `layers.batch_norm` does.
        torch.testing.assert_close(torch.Tensor(got.detach()), want, equal_nan=True, msg=name)
        if got.requires_grad:
            got.sum().backward()


def test_a_view_with_its_negative_bit_has_a_gradient_too():
    for case, impl in IMPLS:
        if case.row.differentiable:
            weights = case.weights(DTYPE[impl])
            leaves = [p.requires_grad_() for p in case.points(DTYPE[impl])]
            odd = weighted(case.function(impl), weights)(*map(negative, leaves))
            got = torch.autograd.grad(odd, leaves)
            want = torch.autograd.grad(weighted(case.function(impl), weights)(*leaves), leaves)
            torch.testing.assert_close(got, want, rtol=0, atol=0, msg=f"{impl}-{case.id}")


REFUSED = {
    "sparse_coo": lambda a: a.to_sparse(),
    "sparse_csr": lambda a: a.reshape(-1, a.shape[-1]).to_sparse_csr(),
    "_mkldnn": lambda a: a.to_mkldnn(),
    "quint8": lambda a: torch.quantize_per_tensor(a, 0.1, 0, torch.quint8),
    "float8_e5m2": lambda a: a.to(torch.float8_e5m2),
    "complex64": lambda a: a.to(torch.complex64),
    "nested": lambda a: torch.nested.nested_tensor([a, a]),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of tensors of these kinds
@each_operator
def test_tensors_that_are_not_dense_are_refused_in_one_line(case):
    name, *_ = case.arrays(0)
    for kind, make in REFUSED.items():
        arguments = in_types(case, [torch.float32] * 9)
        arguments[name] = make(arguments[name])
        line = rf"{case.id}: {re.escape(name)}: expected a floating-point torch tensor, got a tensor of .*{kind}.*"
        with pytest.raises(TypeError, match=f"^{line}$"):
            called(case, arguments)


# -- layers, and what the table of operators does not ask --------------------------------------------------------------


def test_transforms_of_the_layers_are_those_of_their_backward():
    """In float32, for which the operators in them take kernels; by the input and by all parameters."""
    from motionspec.models import OFF, DisplacementMap, RepresentationFlow, WarpedDifference

    torch.manual_seed(0)
    clip, flow = torch.rand(1, 2, 3, 4, 5), 0.3 + 0.4 * torch.rand(1, 2, 2, 4, 5)
    for memory in ("all", "sqrt"):
        layers = [RepresentationFlow(n_iter=3, memory=memory), OFF(2, 2), DisplacementMap(1, tau=0.3)]
        for layer, others in [*[(layer, ()) for layer in layers], (WarpedDifference(), (flow,))]:
            parameters = dict(layer.named_parameters())

            def f(parameters, a, layer=layer, others=others):
                return func.functional_call(layer, parameters, (a, *others)).square().mean()

            leaves = [*parameters.values(), clip.requires_grad_()]
            first = torch.autograd.grad(f(parameters, clip), leaves, materialize_grads=True)
            found, by_clip = func.grad(f, (0, 1))(parameters, clip)
            torch.testing.assert_close([*found.values(), by_clip], [*first], rtol=1e-4, atol=1e-5)
            v = {name: torch.randn_like(p) for name, p in parameters.items()}, torch.randn_like(clip)
            along = func.jvp(f, (parameters, clip), v)[1]
            torch.testing.assert_close(along, dot([*v[0].values(), v[1]], first), rtol=1e-3, atol=1e-4)
            clips = torch.stack([clip, clip.flip(2)])
            each = func.vmap(func.grad(f, 1), (None, 0))(parameters, clips)
            torch.testing.assert_close(each[0], first[-1], rtol=1e-4, atol=1e-5)
            second = gradient(dot(gradient(f(parameters, clip), leaves), (*v[0].values(), v[1])), leaves)
            assert all(g.isfinite().all() for g in second)


def test_half_types_have_tangents_and_second_derivatives():
    from motionspec.ops import warp

    x, flow = torch.randn(1, 2, 4, 5).bfloat16(), (0.3 + 0.4 * torch.rand(1, 2, 4, 5)).bfloat16()
    v = torch.randn(1, 2, 4, 5).bfloat16()
    results = []
    for dtype, impl in ((torch.float32, "torch"), (torch.bfloat16, "auto")):
        b, t, w = x.to(dtype), flow.to(dtype), v.to(dtype)
        tangent = func.jvp(lambda a, b=b, impl=impl: warp.bilinear(b, a, impl=impl), (t,), (w,))[1]
        a, d = b.clone().requires_grad_(), t.clone().requires_grad_()
        (first,) = torch.autograd.grad(warp.bilinear(a, d, impl=impl).square().sum(), d, create_graph=True)
        results.append([tangent, *torch.autograd.grad((first * w).sum(), (a, d))])
    for want, got in zip(*results, strict=True):
        assert got.dtype == torch.bfloat16 and want.any()
        torch.testing.assert_close(got.float(), want, rtol=0, atol=0.02 * want.abs().max().item())


def test_a_frame_that_is_given_twice_has_both_second_derivatives():
    from motionspec.ops import warp

    x, flow = torch.randn(1, 2, 4, 5), 0.3 + 0.4 * torch.rand(1, 2, 4, 5)
    results = []
    for impl in ("torch", "auto"):
        a, d = x.clone().requires_grad_(), flow.clone().requires_grad_()
        value = warp.difference(a, a, d, impl=impl).square().sum()
        first = torch.autograd.grad(value, (a, d), create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), (a, d))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_a_backward_without_create_graph_runs_the_kernel():
    """Compiled too: falling back is for second derivatives alone."""
    pytest.importorskip("numba")
    from torch.utils._python_dispatch import TorchDispatchMode

    from motionspec.ops import warp

    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **kwargs or {})

    x, flow = torch.randn(1, 2, 4, 5, requires_grad=True), torch.rand(1, 2, 4, 5)
    torch.compiler.reset()
    functions = [warp.bilinear]
    if not OLD:  # torch 2.11 compiles the eager operator
        functions.append(torch.compile(warp.bilinear, fullgraph=True, backend="aot_eager"))
    for function in functions:
        out = function(x, flow).sum()
        called.clear()
        with Watch():
            out.backward()
        assert any("warp_numba_backward" in name for name in called)


def test_boxes_map_and_suppression_too():
    from motionspec.ops import detection

    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [1, 1, 10, 10], [20, 20, 29, 29]]), torch.tensor([0.5, 0.9, 0.7])
    kept = func.vmap(lambda b, s: detection.nms(b, s, 0.5))(boxes.expand(2, -1, -1), torch.stack([scores, -scores]))
    want = [detection.nms(boxes, s, 0.5) for s in (scores, -scores)]
    assert torch.equal(kept, torch.stack(want))


@pytest.mark.slow
@each_operator
def test_gradcheck_in_forward_mode_and_of_many_at_once(case):
    if case.row.differentiable:
        points = [p.requires_grad_() for p in case.points()]
        # gradcheck's own, older vmap cannot map torch's max_pool in forward mode; torch.func's can, see above.
        maximum = case.id in ("pool3d.gradual", "layers.max_pool")
        options = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": not maximum}
        assert torch.autograd.gradcheck(case.function("torch"), points, fast_mode=True, **options)
        assert torch.autograd.gradgradcheck(case.function("torch"), points, fast_mode=True, check_fwd_over_rev=True)
