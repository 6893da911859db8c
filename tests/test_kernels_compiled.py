"""Every Triton kernel as compiled: values and gradients against the eager operator in float64, with bounds, alignment
and races checked. No GPU is needed: `motionspec.ptx` executes the PTX. `make test` runs a selection, `make test-slow`
all of it.
"""

import os
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="no triton here: pip install 'motionspec[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from motionspec.ptx import native  # noqa: E402

if native.compiler() is None:
    pytest.skip("no C compiler here: the machine is written in C", allow_module_level=True)

from compiled import LAYOUTS, Case, differences, replaced  # noqa: E402
from test_kernels import EAGER, SIZES, TILED  # noqa: E402

from motionspec import ptx  # noqa: E402
from motionspec.fused import FUSED  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

TYPES = ("float32", "bfloat16", "float16")
ROWS = [EQUATIONS[name] for name, implementations in FUSED.items() if "triton" in implementations]
FLOW = EQUATIONS["tvl1.representation_flow"]


def plain(row):
    """Each variant that has a kernel, without the arguments that are left to eager."""
    left = EAGER.get(row.id, ())
    optional = tuple(name for name in left if name in row.keyword)
    kept = [dict(v) for v in row.variants if not any(value in left for value in v.values())]
    return [Case(row, variant, "float32", {}, without=optional) for variant in kept]


def sizes(row):
    return TILED if row.id == "costvol.displacement_map" else SIZES


def product():
    """Each kernel, variant, type and size."""
    for row in ROWS:
        for case in plain(row):
            for size in sizes(row):
                for dtype in TYPES:
                    yield replace(case, sizes=size, dtype=dtype)


def windows():
    """Representation flow on maps larger than a window, of so many iterations that passes both read and write; more
    windows than programs go back, on maps of one window too.

    In float64, for over many iterations float32 itself loses digits, in eager PyTorch as much (up to ten times the
    tolerance in 20 iterations with drawn wx, wy). In float32, too, at the default number of iterations.
    """
    for case in plain(FLOW):
        for H, W, n_iter in ((34, 33, 10), (13, 90, 10), (34, 33, 20), (1, 1100, 7), (1100, 1, 7), (70, 20, 5)):
            for programs in (1, 2, 3, 1024):
                variant = {**case.variant, "n_iter": n_iter}
                patches = {"tvl1_triton._PROGRAMS": programs} if programs < 1024 else {}
                size = {"N": 2, "C": 2, "H": H, "W": W}
                for dtype in ("float64", "float32") if n_iter == 10 else ("float64",):
                    yield replace(case, variant=variant, sizes=size, patches=patches, dtype=dtype)
        for n_iter in (0, 1, 3, 8, 20):
            size = {"N": 3, "C": 5, "H": 28, "W": 28}
            variant = {**case.variant, "n_iter": n_iter}
            patches = {"tvl1_triton._PROGRAMS": 4}
            yield replace(case, variant=variant, sizes=size, patches=patches, dtype="float64")


def programs():
    """More blocks than programs, other blocks than the fastest."""
    for row in ROWS:
        for case in plain(row):
            if row.id.endswith("endpoint_error"):
                for most in (1, 2, 3):
                    size = {"N": 2, "T": 3, "H": 40, "W": 50}
                    yield replace(case, sizes=size, patches={"losses_triton._BLOCKS": most})
            if row.id.startswith("off."):
                for block, rows in ((32, 1), (64, 2), (128, 3)):
                    patches = {"off_triton._BLOCK": block, "off_triton._ROWS": rows, "off_triton._WARPS": block // 32}
                    yield replace(case, sizes=SIZES[0], patches=patches)


def layouts():
    """Inputs that lie elsewhere and otherwise; and as torch asks for determinism."""
    for row in ROWS:
        for case in plain(row)[:2]:
            for layout in LAYOUTS:
                for dtype in TYPES[:2]:
                    yield replace(case, sizes=sizes(row)[0], layout=layout, dtype=dtype)
            if row.id.startswith("warp."):
                for size in SIZES:
                    for dtype in TYPES:
                        yield replace(case, sizes=size, dtype=dtype, deterministic=True)


def circumstances():
    """What a GPU may do otherwise: other orders of warps and programs, approximate instructions, fused products."""
    for row in ROWS:
        for case in plain(row)[:2]:
            size = sizes(row)[0]
            for seed in range(4):
                yield replace(case, sizes=size, conditions={"seed": seed})
                yield replace(case, sizes=size, conditions={"seed": seed, "noise": 1.0})
            yield replace(case, sizes=size, conditions={"contract": True})


ALL = {str(case): case for make in (product, windows, programs, layouts, circumstances) for case in make()}


def selection():
    """For `make test`: each kernel in each type, forward and backward, and what found faults before."""
    seen = set()
    for case in product():
        if case.sizes in (SIZES[0], TILED[0]) and (case.row.id, case.dtype) not in seen:
            seen.add((case.row.id, case.dtype))
            yield case
    for case in plain(FLOW):
        size = {"N": 1, "C": 2, "H": 34, "W": 33}
        variant = {**case.variant, "n_iter": 10}
        yield replace(case, variant=variant, sizes=size, patches={"tvl1_triton._PROGRAMS": 2})


QUICK = {str(case) for case in selection()}
ALL = {str(case): case for case in selection()} | ALL


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, c in ALL.items()]
)
def test_as_compiled_kernels_are_the_eager_operator(case):
    assert not (said := differences(case)), said


def flow_case(H, W, n_iter, programs):
    """Representation flow, classic."""
    patches = {"tvl1_triton._PROGRAMS": programs}
    variant = {**plain(FLOW)[0].variant, "n_iter": n_iter}
    return replace(plain(FLOW)[0], variant=variant, sizes={"N": 2, "C": 2, "H": H, "W": W}, patches=patches)


def of(equation, dtype="float32", **options):
    """The first variant of another operator."""
    row = EQUATIONS[equation]
    return replace(plain(row)[0], sizes=sizes(row)[0], dtype=dtype, **options)


# Mistakes that the interpreter cannot show, or did not: what is replaced, by what, and the case that sees it. Not among
# them: `tl.debug_barrier` around the scratch of representation flow. As compiled, each thread reads what it wrote there
# itself (no case of this file races without them); they stay, because Triton does not promise who computes what.
PLANTED = {
    "a program takes one window only": (
        "tvl1_triton",
        "tl.range(tl.program_id(0), items, tl.num_programs(0), disable_licm=True)",
        "tl.range(tl.program_id(0), tl.program_id(0) + 1, disable_licm=True)",
        flow_case(34, 33, 5, programs=2),
    ),
    "windows read the slot of state that their neighbours write": (
        "tvl1_triton",
        "n_iter, _PASS, 2)",
        "n_iter, _PASS, 1)",
        flow_case(34, 33, 10, programs=1024),
    ),
    "one scratch for all programs": (
        "tvl1_triton",
        "kept = scratch + tl.program_id(0).to(tl.int64) * (every + segments) * size",
        "kept = scratch",
        flow_case(28, 28, 8, programs=2),
    ),
    "a later frame is read without its mask": (
        "off_triton",
        "tl.load(g + k * W, mask=here)",
        "tl.load(g + k * W)",
        of("off.clip_features"),
    ),
    "names of a loop begin as one value": (
        "off_triton",
        "a1, b1, c1 = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)",
        "a1, b1, c1 = a0, b0, c0",
        of("off.features"),
    ),
    "the product of the middle parts is left out": (
        "costvol_triton",
        "total = tl.dot(a2, b2, tl.dot(a1, b3, total))",
        "total = tl.dot(a1, b3, total)",
        of("costvol.displacement_map"),
    ),
    "a buffer that atomics add to does not begin as 0": (
        "warp_triton",
        "torch.zeros_like(for_x",
        "torch.empty_like(for_x",
        of("warp.bilinear"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistakes_are_found(name, tmp_path):
    stem, old, new, case = PLANTED[name]
    with replaced(stem, old, new, tmp_path):
        try:
            found = differences(case)
        except ptx.Fault as fault:
            found = [str(fault)]
    assert found, "the mistake was not seen"


@pytest.mark.parametrize("name", PLANTED)
def test_without_the_mistake_the_same_case_is_right(name, tmp_path):
    stem, old, _, case = PLANTED[name]
    with replaced(stem, old, old, tmp_path):
        assert not differences(case)
