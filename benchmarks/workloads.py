"""What is timed, how many bytes and operations it must take, and how fast it has to be: three tables, no torch.

The sizes are the rows' (`bench` of `refimpl/rows_*.py`), which are those of the papers' networks; here stand the
options, the sizes that only a target or a sweep asks for, and what counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from motionspec.operations import OPERATIONS
from motionspec.refimpl.equations import EQUATIONS


@dataclass(frozen=True)
class Workload:
    """An operator at one size. `sweep` names the axis along which it is one of several."""

    operator: str
    sizes: Mapping[str, int]
    options: Mapping[str, Any]
    used: str  # who uses this size
    device: str = ""  # where it is timed; empty: everywhere
    sweep: str = ""

    @property
    def name(self) -> str:
        """Like off.features-96x128x28x28-kernel=paper."""
        shown = ["x".join(map(str, self.sizes.values())), *(f"{k}={v}" for k, v in self.options.items())]
        return "-".join([self.operator, *shown, *[f"over {self.sweep}"] * bool(self.sweep)])


ROW = "refimpl's row"
# In place of the row's first variant, which is made for small inputs.
OPTIONS: dict[str, dict[str, Any]] = {
    "tvl1.representation_flow": {"n_iter": 10, "scheme": "released"},
    "tvl1.pyramid_flow": {},
    "costvol.cosine": {"radius": 5, "border": "zero"},
    "costvol.displacement_map": {"radius": 5, "tau": 0.1, "border": "zero"},
}
# Default taus and lambdas expect grey levels in [0, 255].
SCALE = {"tvl1.representation_flow": 100.0}

_MORE = (
    Workload(
        "tvl1.representation_flow",
        {"N": 15, "C": 32, "H": 28, "W": 28},
        OPTIONS["tvl1.representation_flow"],
        "RF19's released network: 15 pairs of 32 channels",
    ),
    Workload(
        "tvl1.representation_flow",
        {"N": 480, "C": 32, "H": 28, "W": 28},
        {"n_iter": 20, "scheme": "released"},
        "issue 4: 32 clips of RF19's released network",
        "cuda",
    ),
    Workload(
        "costvol.displacement_map",
        {"N": 32, "C": 64, "H": 112, "W": 112},
        OPTIONS["costvol.displacement_map"],
        "issue 4: DC18, a batch of 32",
        "cuda",
    ),
    Workload(
        "losses.endpoint_error",
        {"N": 32, "T": 1, "H": 436, "W": 1024},
        {"reduction": "mean"},
        "issue 4: larger than an H200's L2 cache",
        "cuda",
    ),
    Workload("tvl1.pyramid_flow", {"N": 1, "H": 480, "W": 640}, {}, "issue 4: a camera's frame"),
)
# Operator: where the axes start, then each axis and its values. "HW" is a square map's side.
SWEEPS: dict[str, tuple[dict[str, int], dict[str, tuple[int, ...]]]] = {
    "off.features": (
        {"N": 8, "C": 64, "H": 56, "W": 56},
        {"HW": (14, 28, 56, 112), "C": (16, 32, 64, 128), "N": (2, 4, 8, 16)},
    ),
    "warp.difference": (
        {"N": 4, "C": 64, "H": 56, "W": 56},
        {"HW": (14, 28, 56, 112), "C": (16, 32, 64, 128), "N": (1, 2, 4, 8)},
    ),
    "losses.endpoint_error": (
        {"N": 8, "T": 1, "H": 112, "W": 112},
        {"HW": (56, 112, 224, 448), "N": (4, 8, 16, 32)},
    ),
    "tvl1.representation_flow": (
        {"N": 8, "C": 32, "H": 28, "W": 28},
        {"HW": (14, 28, 56, 112), "C": (8, 16, 32, 64), "N": (2, 4, 8, 16), "n_iter": (5, 10, 20, 40)},
    ),
    "costvol.displacement_map": (
        {"N": 1, "C": 64, "H": 56, "W": 56},
        {"HW": (14, 28, 56, 112), "C": (16, 32, 64, 128), "N": (1, 2, 4), "radius": (1, 2, 4, 8)},
    ),
}


def workloads(judged: Mapping[str, list[dict[str, Any]]]) -> Iterator[Workload]:
    """All: each row at its sizes, in its first variant and in those in which `judged` names a peer that agrees."""
    for row in EQUATIONS.values():
        first = OPTIONS.get(row.id, dict(row.variants[0]))
        variants = [first]
        for asked in judged.get(row.id, []):
            if any(str(first.get(k)) != str(v) for k, v in asked.items()) and row.id not in OPTIONS:
                fitting = [dict(v) for v in row.variants if all(str(v[k]) == str(asked[k]) for k in asked)]
                variants += [v for v in fitting[:1] if v not in variants]
        for options in variants:
            for sizes in row.bench:
                yield Workload(row.id, sizes, options, ROW)
    yield from _MORE
    for operator, (start, axes) in SWEEPS.items():
        options = OPTIONS.get(operator, dict(EQUATIONS[operator].variants[0]))
        for axis, values in axes.items():
            for value in values:
                sizes = start | {k: value for k in start if k in axis}
                yield Workload(
                    operator, sizes, options | ({} if axis[0] in start else {axis: value}), "scaling", sweep=axis
                )


def variant(workload: Workload) -> dict[str, Any]:
    """Of the options those that the row has variants of: the operator is judged in these before it is timed."""
    known = EQUATIONS[workload.operator].variants
    return {k: v for k, v in workload.options.items() if any(str(one.get(k)) == str(v) for one in known)}


# Where a plain form may be faster on the CPU, and why: such a row is reported as an expected failure, never as passed.
_ENTRY = (
    "Where inputs come from memory its call takes 0.1 ms, in torch's dispatcher of operators in Python, and its second "
    "thread begins 0.06 ms after the first, since both enter by Python: a third of what reading the maps takes."
)
_LABELS = "A label outside gives NaN, where torch raises or leaves it out: four operations more, as long as the loss."
BEHIND = {
    ("losses.endpoint_error", "forward"): _ENTRY,
    ("losses.endpoint_error", "both"): _ENTRY,
    ("losses.cross_entropy", "forward"): _LABELS,
    ("losses.cross_entropy", "both"): _LABELS,
    (
        "layers.batch_norm",
        "forward",
    ): "Checks of five arguments, when Python's code is out of the caches.",
}


# -- floors ------------------------------------------------------------------------------------------------------------

# Their derivative does not depend on where it is taken: backward need not read the inputs.
LINEAR = {
    "brightness.gradient",
    "layers.average_pool",
    "losses.consensus",
    "off.clip_features",
    "off.cross_gradient",
    "off.features",
    "off.released_features",
    "off.spatial_gradient",
    "off.temporal_difference",
    "pool3d.temporal_shift",
    "tvl1.divergence",
    "tvl1.flow_gradient",
    "tvl1.image_gradient",
    "tvl1.released_gradient",
}


def moved(operator: str, inputs: int, outputs: int, gradients: int, cotangents: int) -> tuple[int, int]:
    """Bytes of forward and of backward, if each array passes once between memory and chip.

    Forward reads the inputs and writes the outputs. Backward reads the outputs' cotangents and, unless the operator is
    linear, the inputs, and writes the inputs' gradients.
    """
    return inputs + outputs, cotangents + gradients + (0 if operator in LINEAR else inputs)


def operations(workload: Workload) -> tuple[int, int] | None:
    """Of forward and of backward; None where only bytes are counted."""
    count = OPERATIONS.get(workload.operator)
    return count({**workload.sizes, **workload.options}) if count else None


# -- targets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A bound on one result: `over` is the floor, the memory, or a peer that is to take so many times our time."""

    operator: str
    sizes: Mapping[str, int]
    device: str
    direction: str
    over: str  # "floor", "memory of tensors", "memory of PEER", or a peer
    bound: float  # our share of floor or memory at most; how many times our time a peer takes at least
    options: Mapping[str, Any] = field(default_factory=dict)  # those that the target names

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.over == "floor" or self.over.startswith("memory")

    @property
    def name(self) -> str:
        """Like cuda off.features 96x128x28x28 both: at most 1.6 x floor."""
        options = "".join(f" {k}={v}" for k, v in self.options.items())
        sizes = "x".join(map(str, self.sizes.values()))
        limit = f"at most {self.bound:g} x" if self.at_most else f"at least {self.bound:g} x faster than"
        return f"{self.device} {self.operator} {sizes}{options} {self.direction}: {limit} {self.over}"


# Issue 4, "Targets on an H200" and "On CPU (2 cores, same run)".
_LARGE = {"N": 96, "C": 128, "H": 28, "W": 28}
_WARP = {"N": 8, "C": 64, "H": 112, "W": 112}
_LOSS = {"N": 32, "T": 1, "H": 436, "W": 1024}
_FLOWS = {"N": 480, "C": 32, "H": 28, "W": 28}
_MAPS = {"N": 32, "C": 64, "H": 112, "W": 112}
_CPU_FLOWS = {"N": 15, "C": 32, "H": 28, "W": 28}
_CPU_MAPS = {"N": 4, "C": 64, "H": 112, "W": 112}
_FRAME = {"N": 1, "H": 480, "W": 640}
TARGETS = (
    Target("off.features", _LARGE, "cuda", "forward", "floor", 1.3),
    Target("off.features", _LARGE, "cuda", "both", "floor", 1.6),
    Target("warp.difference", _WARP, "cuda", "forward", "floor", 1.3),
    Target("warp.difference", _WARP, "cuda", "both", "floor", 1.6),
    Target("losses.endpoint_error", _LOSS, "cuda", "forward", "floor", 1.3),
    Target("losses.endpoint_error", _LOSS, "cuda", "both", "floor", 1.6),
    Target("tvl1.representation_flow", _FLOWS, "cuda", "forward", "eager", 40, {"n_iter": 20}),
    Target("tvl1.representation_flow", _FLOWS, "cuda", "forward", "compiled slices", 10, {"n_iter": 20}),
    Target("tvl1.representation_flow", _FLOWS, "cuda", "both", "eager", 30, {"n_iter": 20}),
    Target("tvl1.representation_flow", _FLOWS, "cuda", "both", "compiled slices", 8, {"n_iter": 20}),
    Target("tvl1.representation_flow", _FLOWS, "cuda", "both", "memory of eager", 0.15, {"n_iter": 20}),
    Target("costvol.displacement_map", _MAPS, "cuda", "forward", "eager", 20),
    Target("costvol.displacement_map", _MAPS, "cuda", "forward", "compiled loop", 5),
    Target("costvol.displacement_map", _MAPS, "cuda", "forward", "memory of tensors", 1.2),
    Target("costvol.displacement_map", _MAPS, "cuda", "both", "eager", 10),
    Target("costvol.displacement_map", _MAPS, "cuda", "both", "compiled loop", 4),
    Target("costvol.displacement_map", _MAPS, "cuda", "both", "memory of tensors", 1.2),
    Target("tvl1.representation_flow", _CPU_FLOWS, "cpu", "forward", "released layer", 40),
    Target("tvl1.representation_flow", _CPU_FLOWS, "cpu", "both", "released layer", 25),
    Target("tvl1.representation_flow", _CPU_FLOWS, "cpu", "forward", "compiled slices", 5),
    Target("tvl1.representation_flow", _CPU_FLOWS, "cpu", "both", "compiled slices", 5),
    Target("costvol.displacement_map", _CPU_MAPS, "cpu", "forward", "loop", 4),
    Target("costvol.displacement_map", _CPU_MAPS, "cpu", "both", "loop", 4),
    Target("tvl1.pyramid_flow", _FRAME, "cpu", "forward", "OpenCV DualTVL1", 8),
)
