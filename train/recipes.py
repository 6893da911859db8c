"""How the papers train: one table, each number with its source. `motionspec train --list` prints it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from motionspec.checks import choice, count, message, positive
from motionspec.data.augment import SCALES
from motionspec.data.clips import View
from motionspec.models.table import CAFFE, UNIT
from motionspec.train import detection, objectives
from motionspec.train.objectives import Batch, Records

__all__ = ["RECIPES", "Cosine", "Drops", "Plateau", "Recipe", "Schedule", "Stage", "changed"]


@dataclass(frozen=True)
class Drops:
    """Learning rate times `factor` at each of `at`, 0 from `stop` on; all in the unit of the stage."""

    at: tuple[float, ...] = ()
    factor: float = 0.1
    stop: float | None = None

    def scaled(self, share: float) -> "Drops":
        """The same in a stage so many times as long."""
        return replace(self, at=tuple(t * share for t in self.at), stop=self.stop and self.stop * share)

    def __call__(self, time: float, length: float) -> float:
        return 0.0 if self.stop is not None and time >= self.stop else self.factor ** sum(time >= at for at in self.at)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to 0, `cycles` times."""

    cycles: int = 1

    def __call__(self, time: float, length: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * (time * self.cycles / length % 1)))


@dataclass(frozen=True)
class Plateau:
    """Learning rate times `factor` when the loss on the test data has not fallen for `patience` epochs."""

    patience: int
    factor: float = 0.1


Schedule = Drops | Cosine | Plateau


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training with one optimizer.

    loss: of a network and a batch, the mean over the samples. measure: of the same, numbers for each sample; summary
      makes one result of those of all samples, the first of which decides what is best: more, or less if not `higher`.
    length: in `unit`, "steps" of the optimizer or "epochs". lr, schedule: of the parameter groups, times what the
      network's `groups` gives each; own: schedules for groups by name.
    optimizer: "sgd" or "adam". weight_decay and options go to `groups` where that takes them.
    clip: the most that the norm of the gradient of all parameters may be.
    of: the submodule that learns and is given to loss and measure; "" the network. only: submodules of that; () all
      that the network itself lets learn.
    """

    name: str
    loss: Callable[[Any, Batch], Tensor]
    measure: Callable[[Any, Batch], Records]
    summary: Callable[[Records], dict[str, float]] = objectives.mean
    higher: bool = True
    length: int
    unit: str = "steps"
    lr: float
    schedule: Schedule = Drops()
    own: Mapping[str, Drops | Cosine] = field(default_factory=dict)
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    clip: float | None = None
    of: str = ""
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count("Stage", "length", self.length)
        choice("Stage", "unit", self.unit, ("steps", "epochs"))
        choice("Stage", "optimizer", self.optimizer, ("sgd", "adam"))
        positive("Stage", "lr", self.lr)
        if self.clip is not None:
            positive("Stage", "clip", self.clip)
        for name, below in (("momentum", 1.0), ("weight_decay", math.inf)):
            if (value := getattr(self, name)) != 0:
                positive("Stage", name, value, below)

    def longer(self, length: int) -> "Stage":
        """The stage at another length: where the rate drops moves in proportion."""
        share = count("Stage", "length", length) / self.length

        def moved(schedule: Any) -> Any:
            return schedule.scaled(share) if isinstance(schedule, Drops) else schedule

        own = {name: moved(schedule) for name, schedule in self.own.items()}
        return replace(self, length=length, schedule=moved(self.schedule), own=own)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training: a network of `models.table`, arguments on its full size, how clips are made, stages.

    batch: samples of one step, over all processes and parts. ema: decay of the mean of the weights over the steps,
    which then is what is measured and kept; after t steps (1 + t) / (10 + t) if that is less.
    data: what a sample is, "clips", "septuplets" of Vimeo-90K, whose frames JPEG 2000 leaves a PSNR of `degraded` dB,
    or "squares", those of `train.detection`.
    sources: setting -> where it is said; "lr" is that of all stages, "tsn.lr" that of one.
    """

    name: str
    source: str
    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    view: View
    data: str = "clips"
    degraded: float = 34.0
    batch: int
    stages: tuple[Stage, ...]
    ema: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count("Recipe", "batch", self.batch)
        if self.ema is not None:
            positive("Recipe", "ema", self.ema, below=1)
        positive("Recipe", "degraded", self.degraded)


SETTINGS = ("length", "lr", "optimizer", "momentum", "weight_decay", "clip")  # of a stage


def changed(recipe: Recipe, name: str, value: Any) -> Recipe:
    """The recipe with one setting changed.

    name: "batch", "ema", "degraded", "network.ARGUMENT", "view.FIELD", one of SETTINGS for all stages, or
    "STAGE.SETTING". With `length` the places where the rate drops move in proportion; of one stage of several 0 leaves
    it out. Raises ValueError or TypeError.
    """
    first, _, rest = name.partition(".")
    stages = {stage.name for stage in recipe.stages}
    if (name == "degraded" and recipe.data != "septuplets") or (
        first == "view" and rest not in ("", "size") and recipe.data != "clips"
    ):
        raise ValueError(message(recipe.name, "setting", f"one that its {recipe.data} heed", name))
    if first == "network" and rest:
        if isinstance(recipe.arguments.get(rest), bool) and not isinstance(value, bool):
            raise TypeError(message(recipe.name, name, "True or False", repr(value)))
        return replace(recipe, arguments={**recipe.arguments, rest: value})
    if first == "view" and rest in {field.name for field in fields(View)}:
        return replace(recipe, view=replace(recipe.view, **{rest: value}))
    if name in ("batch", "ema", "degraded"):
        return replace(recipe, **{name: value})
    setting, chosen = (rest, {first}) if rest else (first, stages)
    if setting not in SETTINGS or not chosen <= stages:
        known = ["batch", "ema", "degraded", "network.ARGUMENT", "view.FIELD", *SETTINGS]
        more = f", also of a stage alone: {', '.join(f'{stage}.lr' for stage in sorted(stages))} ..."
        raise ValueError(message(recipe.name, "setting", f"one of {', '.join(known)}{more}", name))

    if rest == "length" and type(value) is int and value == 0 and len(stages) > 1:
        return replace(recipe, stages=tuple(stage for stage in recipe.stages if stage.name not in chosen))

    def of(stage: Stage) -> Stage:
        if stage.name not in chosen:
            return stage
        return stage.longer(value) if setting == "length" else replace(stage, **{setting: value})

    return replace(recipe, stages=tuple(of(stage) for stage in recipe.stages))


# -- the papers --------------------------------------------------------------------------------------------------------

_CODE = "the released code; the paper says nothing"
_TSN = "TSN's published settings, which OFF18 §5.1 follows"
_OURS = "ours; the paper says nothing"
_JITTER = (0.4, 0.4, 0.4)


def _classify(name: str, **changes: Any) -> Stage:
    fixed: dict[str, Any] = {"loss": objectives.classification, "measure": objectives.accuracy}
    return Stage(name=name, **(fixed | changes))


# TSN and OFF: modality -> view; epochs, drops, clip of TSN (tsn-pytorch's README); lr of OFF (OFF18 §5.1).
_SEGMENTS = View(size=224, short=256, frames=CAFFE, rule="off", segments=7, test_segments=25, scales=SCALES, flip=True)
_MODALITIES: dict[str, tuple[View, int, tuple[int, int], float, float, float]] = {
    "rgb": (_SEGMENTS, 80, (30, 60), 20.0, 0.8, 0.02),
    "rgb-diff": (replace(_SEGMENTS, modality="rgb_difference", stack=5), 180, (80, 160), 40.0, 0.8, 0.02),
    "flow": (replace(_SEGMENTS, modality="flow", stack=5, scales=SCALES[:3]), 340, (190, 300), 20.0, 0.7, 0.05),
}


def _tsn_stage(modality: str, of: str = "") -> Stage:
    _, epochs, drops, clip, _, _ = _MODALITIES[modality]
    schedule = Drops(drops)
    return _classify(
        "tsn", of=of, length=epochs, unit="epochs", lr=0.001, schedule=schedule, clip=clip, weight_decay=5e-4
    )


_OFF = "OFF18 §5.1, OFF20 §5.1"
_SAMPLING = {
    "view.segments": "OFF20 §5.1: 7, in ablations 3",
    "view.test_segments": "OFF18 §4.3: 25",
    "view.rule": "OFF18 §4.2",
    "view.scales": _CODE,
    "view.size": _CODE,
    "view.flip": _CODE,
    "view.short": _TSN,
    "view.stack": f"{_TSN}: 5 flow maps or differences",
    "batch": f"{_OFF}: 128",
}
_TSN_SOURCES = {
    f"tsn.{name}": _TSN for name in ("length", "lr", "schedule", "clip", "weight_decay", "momentum", "optimizer")
}


def _tsn(modality: str) -> Recipe:
    view, *_, dropout, _ = _MODALITIES[modality]
    # RGB and flow have 3 segments there, differences 7; RGB alone has the fourth scale.
    segments, scales = (7 if modality == "rgb-diff" else 3), (SCALES if modality == "rgb" else SCALES[:3])
    view = replace(view, rule="tsn", segments=segments, scales=scales)
    sources = {"view.segments": _TSN, "view.rule": _TSN, "view.scales": _TSN, "batch": f"{_TSN}: 128"}
    return Recipe(
        name=f"tsn-{modality}",
        source="TSN, OFF18 §4.3",
        network="tsn",
        arguments={"modality": modality, "dropout": dropout},
        view=view,
        batch=128,
        stages=(_tsn_stage(modality),),
        sources=_SAMPLING | sources | _TSN_SOURCES | {"dropout": _TSN},
    )


def _off(modality: str) -> Recipe:
    view, *_, lr = _MODALITIES[modality]
    off = Stage(
        name="off",
        loss=objectives.intermediate,
        measure=objectives.accuracy,
        length=20_000,
        lr=lr,
        schedule=Drops((10_000, 15_000, 18_000)),
        weight_decay=5e-4,
        clip=40.0,
    )
    says = {
        "off.length": f"{_OFF}: 20000 iterations",
        "off.lr": f"{_OFF}: 0.02, of flow 0.05",
        "off.schedule": f"{_OFF}: to its 0.1 at 10000, 15000 and 18000",
        "off.optimizer": f"{_OFF}: mini-batch stochastic gradient descent",
        "off.loss": "OFF18 §4.2: intermediate supervision on each level",
        "stages": "OFF18 §4.2: the feature network first, then OFF with all its weights frozen; TSN's strategy for it",
        **{f"off.{name}": _CODE for name in ("weight_decay", "clip", "momentum")},
    }
    return Recipe(
        name=f"off-{modality}",
        source="OFF18 §4.2-4.3, §5.1",
        network="off-tsn",
        arguments={"modality": modality},
        view=view,
        batch=128,
        stages=(_tsn_stage(modality, "backbone"), off),
        sources=_SAMPLING | _TSN_SOURCES | says,
    )


_OFF_RGB = _off("rgb")
_OFF_RELEASED = replace(
    _OFF_RGB,
    name="off-released",
    source="the released code of OFF18",
    arguments={"modality": "rgb", "scheme": "released", "fusion": (1, 0, 1, 2)},
    stages=(_OFF_RGB.stages[0], replace(_OFF_RGB.stages[1], schedule=Cosine(cycles=5))),
    sources=dict(_OFF_RGB.sources)
    | {
        "off.schedule": "the released code: half a cosine from 0.02, five times in 20000 steps; OFF18 §5.1 has drops",
        "fusion": "the released code: RGB : OFF : OFF14 = 1 : 2 : 1",
    },
)

_TSM = "TSM's published settings, which OFF20 §5.2 follows"
_OFF_TSM = Recipe(
    name="off-tsm",
    source="OFF20 §5.2",
    network="off-tsm",
    view=View(size=224, short=256, segments=8, scales=SCALES, flip=True),
    batch=128,
    stages=(
        Stage(
            name="all",
            loss=objectives.intermediate,
            measure=objectives.accuracy,
            length=110,
            unit="epochs",
            lr=0.01,
            schedule=Cosine(),
            weight_decay=1e-4,
            clip=20.0,
        ),
    ),
    sources={
        "length": "OFF20 §5.2: 110 epochs",
        "lr": "OFF20 §5.2: 0.01",
        "schedule": "OFF20 §5.2: half-cosine",
        "view.segments": "OFF20 Table 5: 8 frames",
        "view.size": "OFF20 Table 5: 224",
        "loss": "OFF18 §4.2, and the backbone's scores, as all is trained at once",
        **dict.fromkeys(("batch", "weight_decay", "clip", "momentum", "optimizer"), _TSM),
        **dict.fromkeys(("view.scales", "view.flip", "view.short"), _TSM),
    },
)

_RELEASED = "the released code; RF19 §4 points to an appendix that is not printed"
_REPFLOW = Recipe(
    name="repflow",
    source="RF19 §4",
    network="repflow",
    arguments={"depth": 50, "n_iter": 20, "place": 3, "dropout": 0.3},
    view=View(size=224, short=256, length=32, stride=2, flip=True),
    batch=24,
    ema=0.999,
    stages=(
        _classify(
            "all",
            length=60,
            unit="epochs",
            lr=0.01,
            schedule=Plateau(patience=7),
            weight_decay=1e-6,
        ),
    ),
    sources={
        "view.size": "RF19 §4: 32 x 224 x 224",
        "view.length": "RF19 §4: 32 x 224 x 224",
        "view.short": _OURS,
        "view.stride": "the released loaders take every second frame; the paper says nothing",
        "view.flip": "the released loader of Kinetics mirrors, that of HMDB-51 does not; the paper says nothing",
        "n_iter": "RF19 §4: 20 iterations",
        "place": "RF19 §4: after the third residual block",
        "ema": "RF19 §4: a running average of the parameters over time; its decay and its warm-up are ours",
        "flow": "RF19 (11): learned with the rest; the released code: at 0.01 of the rate (RepFlowResNet.groups)",
        **dict.fromkeys(
            ("batch", "length", "lr", "schedule", "weight_decay", "momentum", "optimizer", "dropout"), _RELEASED
        ),
    },
)
_REPFLOW_LOW = replace(
    _REPFLOW,
    name="repflow-112",
    arguments={"depth": 34, "n_iter": 10, "place": 3, "dropout": 0.3},
    view=View(size=112, short=128, length=16, stride=2, flip=True),
    sources=dict(_REPFLOW.sources)
    | {
        "depth": "RF19 §4: ResNet-34 for most experiments",
        "view.size": "RF19 §4: 16 x 112 x 112 for most experiments",
        "view.length": "RF19 §4: 16 x 112 x 112 for most experiments",
        "n_iter": "RF19 Table 4: 10 iterations",
    },
)

_SNIPPET = View(size=224, short=256, frames=CAFFE, length=8, scales=SCALES, flip=True)
_DC = {
    "batch": "DC18 §4.1: 256",
    "momentum": "DC18 §4.1: 0.9",
    "optimizer": "DC18 §4.1: stochastic gradient descent",
    "clip": "DC18 §4.1: 20",
    "view.length": "DC18 §3: 8 frames",
    "loss": "DC18 §3.1: each branch predicts; that the losses are added is ours",
    "weight_decay": "TSN, whose practices DC18 §4.1 follows",
    "view.scales": "TSN, whose practices DC18 §4.1 follows",
    "view.flip": "TSN, whose practices DC18 §4.1 follows",
    "view.short": "TSN, whose practices DC18 §4.1 follows",
    "view.stride": "DC18 Fig. 2: consecutive frames",
    "view.size": "DC18 Table 9: 224",
}
_DC_STAGE = Stage(
    name="all",
    loss=objectives.branches,
    measure=objectives.accuracy,
    length=18_000,
    lr=0.001,  # of the static branch; motion and change learn at 5 times that (Disentangled.groups)
    schedule=Drops((10_000, 16_000)),
    own={"static": Drops((1500, 3000), stop=4500), "shared": Drops((1500, 3000), stop=4500)},
    weight_decay=5e-4,
    clip=20.0,
)
_DC_UCF = Recipe(
    name="disentangled-ucf101",
    source="DC18 §4.1",
    network="disentangled",
    arguments={"partial_bn": True},
    view=_SNIPPET,
    batch=256,
    stages=(_DC_STAGE,),
    sources=_DC
    | {
        "lr": "DC18 §4.1: static 0.001, motion and change 0.005",
        "schedule": "DC18 §4.1: motion and change to 1/10 after 10000 and 16000 iterations",
        "own": "DC18 §4.1: static to 1/10 every 1500 iterations, until 4500; the shared convolution as static is ours",
        "length": "DC18 §4.1: 18000 iterations",
        "partial_bn": "DC18 §4.1: for UCF101 only",
    },
)
_DC_KINETICS = Recipe(
    name="disentangled-kinetics",
    source="DC18 §4.1",
    network="disentangled",
    arguments={"partial_bn": False},
    view=_SNIPPET,
    batch=256,
    stages=(
        replace(_DC_STAGE, length=110_000, lr=0.01, schedule=Drops((40_000, 80_000)), own={}, options={"faster": 1}),
    ),
    sources=_DC
    | {
        "lr": "DC18 §4.1: 0.01",
        "schedule": "DC18 §4.1: to 1/10 every 40000 iterations",
        "length": "DC18 §4.1: 110000 iterations",
        "partial_bn": "DC18 §4.1: for UCF101 only",
        "options": "DC18 §4.1: one rate on Kinetics",
    },
)

_AF = "AF18 §4.2"
_AF_VIEW = View(size=224, short=256, length=16, flow="future", scales=SCALES, flip=True, jitter=_JITTER)
_PAIRS_VIEW = replace(_AF_VIEW, length=2, flow="inside")
_AF_FLOW = Stage(
    name="flow",
    loss=objectives.flow,
    measure=objectives.endpoint_error,
    higher=False,
    length=80_000,
    lr=3e-4,
    optimizer="adam",
    only=("backbone", "decoder"),
)
_AF_BOTH = replace(
    _AF_FLOW, name="both", loss=objectives.Multitask(), measure=objectives.accuracy, higher=True, only=()
)
_AF_ACTION = replace(_AF_BOTH, name="action", loss=objectives.classification, only=("backbone", "fc"))
_AF_SOURCES = {
    "optimizer": f"{_AF}: Adam",
    "lr": f"{_AF}: 3e-4",
    "length": f"{_AF}: 80000 iterations",
    "batch": _OURS,
    "view.length": "AF18 §3.2: 16 consecutive frames; §3.3: two",
    "view.size": "AF18 §3.2, §3.3: 224",
    "view.stride": "AF18 §3.2: 16 consecutive frames; §3.3: two",
    "view.short": _OURS,
    "view.flow": "AF18 §3.1: T flows, the last of the future; §4.1: pseudo-ground-truth, here by tvl1.pyramid_flow",
    "view.scales": f"{_AF}: multi-scale cropping",
    "view.flip": f"{_AF}: horizontal flipping",
    "view.jitter": f"{_AF}: color jittering for actions; how much is ours, and that flow before them has it too",
    "loss": "AF18 (1)-(4); lambda and alpha are ours: `objectives.Multitask`, `objectives.ALPHA`",
}


def _af(name: str, source: str, stages: tuple[Stage, ...], **changes: Any) -> Recipe:
    two = "2f" in name
    network, view = ("actionflownet-2f", _PAIRS_VIEW) if two else ("actionflownet", _AF_VIEW)
    if name.endswith("-flow"):  # AF18 jitters colours for actions
        view = replace(view, jitter=(0, 0, 0))
    kept: dict[str, Any] = {"network": network, "view": view, "batch": 16, "sources": _AF_SOURCES}
    return Recipe(name=name, source=source, stages=stages, **(kept | changes))


_STACKED_FLOW = replace(_AF_FLOW, of="flownet", only=())
_FLOWS = (
    _af("actionflownet-flow", "AF18 §3.1", (replace(_AF_FLOW, only=()),), arguments={"classes": None}),
    _af("actionflownet", "AF18 §3.2, §4.3", (_AF_FLOW, _AF_BOTH)),
    _af("actionflownet-finetune", "AF18 §3.2, §4.3", (_AF_FLOW, _AF_ACTION)),
    _af(
        "actionflownet-scratch",
        "AF18 §4.3",
        (replace(_AF_ACTION, only=()),),
        arguments={"flow": False},
        view=replace(_AF_VIEW, flow=None),
    ),
    _af("actionflownet-2f-flow", "AF18 §3.3", (replace(_AF_FLOW, only=()),), arguments={"classes": None}),
    _af("actionflownet-2f", "AF18 §3.3.2, §4.3", (_AF_FLOW, _AF_BOTH)),
    _af("actionflownet-2f-finetune", "AF18 §4.3", (_AF_FLOW, _AF_ACTION)),
    _af(
        "actionflownet-2f-scratch",
        "AF18 §4.3",
        (replace(_AF_ACTION, only=()),),
        arguments={"flow": False},
        view=replace(_PAIRS_VIEW, flow=None),
    ),
    _af(
        "actionflownet-stacked",
        "AF18 §3.3.1, §4.3",
        (_STACKED_FLOW, replace(_AF_ACTION, only=())),
        network="actionflownet-stacked",
        view=_PAIRS_VIEW,
    ),
)

_DNCNN = Recipe(
    name="dncnn",
    source="OFF20 §7.3",
    network="off-dncnn",
    view=View(size=256, frames=UNIT),
    data="septuplets",
    batch=28,
    stages=(
        Stage(
            name="all",
            loss=objectives.restoration,
            measure=objectives.psnr,
            length=50,
            unit="epochs",
            lr=5e-4,
            schedule=Cosine(),
            optimizer="adam",
        ),
    ),
    sources={
        "batch": "OFF20 §7.3: 28",
        "lr": "OFF20 §7.3: 5e-4",
        "schedule": "OFF20 §7.3: cosine",
        "length": "OFF20 §7.3: 50 epochs",
        "optimizer": "OFF20 §7.3: Adam",
        "loss": "DnCNN (1): half the squared errors of a frame, added; OFF20 §7 prints none",
        "measure": "OFF20 §7.3: PSNR of the 4th frame",
        "degraded": "ours; OFF20 §7.3: FFmpeg's q = 20 and 40, restored to 37 and 35 dB",
    },
)

_RFCN = Recipe(
    name="off-rfcn",
    source="OFF20 §6.2",
    network="off-rfcn",
    view=View(size=96, length=2),
    data="squares",
    batch=4,
    stages=(
        Stage(
            name="all",
            loss=detection.proposals_and_classes,
            measure=detection.records,
            summary=detection.average_precision,
            length=220_000,
            lr=2.5e-4,
            schedule=Drops((73_000,)),
            weight_decay=5e-4,
        ),
    ),
    sources={
        "batch": "OFF20 §6.2: 1 on each of 4 GPUs",
        "length": "OFF20 §6.2: 220k iterations",
        "lr": "OFF20 §6.2: 0.00025",
        "schedule": "OFF20 §6.2: 0.000025 after 73k iterations",
        "optimizer": "OFF20 §6.2: SGD",
        "loss": "ours, after Faster R-CNN and R-FCN: train/detection.py; OFF20 prints none",
        "view.size": "ours: OFF20 has ImageNet VID, at 600",
        "view.length": "ours: a frame and the next, see docs/networks.md; OFF20 does not say which",
        "measure": "OFF20 §6.3: mAP",
        **dict.fromkeys(("momentum", "weight_decay"), "FGFA's published settings, which OFF20 §6.2 follows"),
    },
)

# -- the motion benchmark on two cores: narrow networks, from nothing; all numbers are ours ----------------------------

_MOTION_VIEW = View(size=32, length=8)  # without flips: a mirrored motion is of another class


def _motion(name: str, source: str, network: str, arguments: Mapping[str, Any], stage: Stage, **changes: Any) -> Recipe:
    stage = replace(stage, name="all", unit="epochs", optimizer="adam", schedule=Cosine(), own={}, only=(), clip=20.0)
    stage = replace(stage, weight_decay=0.0)
    kept: dict[str, Any] = {"view": _MOTION_VIEW, "batch": 32, "sources": {"": "ours: for motion:tiny on two cores"}}
    changes = kept | {"arguments": {"width": 1 / 8, "dropout": 0.0, **arguments}, "stages": (stage,)} | changes
    return Recipe(name=f"motion-{name}", source=source, network=network, **changes)


_MOTION = (
    _motion(
        "rgb",
        "single frames, which tell nothing",
        "tsn",
        {},
        _classify("all", length=4, lr=1e-3),
        view=View(size=32, frames=CAFFE, segments=8),
    ),
    _motion(
        "off",
        "OFF20 §5.2",
        "off-tsm",
        # Without the shift, which sees motion itself: what is learned of it is OFF's. With the paper's units, whose
        # spatial gradients are three times as large as the temporal ones, the pictures are learned by heart.
        {"depth": 18, "shift": False, "scheme": "released", "spatial_dropout": 0.0, "fusion": (0, 1, 1, 1)},
        _classify("all", loss=objectives.intermediate, length=12, lr=5e-3),
        view=View(size=96, short=96, length=6),  # level 28 is 12 x 12; of its 4 x 4 at 32 motion is a fraction of one
        batch=26,
    ),
    _motion(
        "repflow",
        "RF19 §3, after block 1",
        "repflow",
        {"depth": 18, "place": 1, "channels": None, "n_iter": 10},
        _classify("all", length=6, lr=4e-3),
    ),
    _motion(
        "disentangled",
        "DC18 §3.3",
        "disentangled",
        {"branches": ("motion",), "radius": 3, "partial_bn": False},
        replace(_DC_STAGE, length=8, lr=4e-3, options={"faster": 1}),
        view=replace(_MOTION_VIEW, frames=CAFFE),
    ),
    _motion(
        "actionflownet",
        "AF18 §3.2",
        "actionflownet",
        {},
        replace(_AF_BOTH, length=16, lr=5e-3),
        view=replace(_MOTION_VIEW, length=7, flow="future"),  # the flow of the eighth frame is not known
    ),
)

# DC18's network, all branches, shows the displacement of every pixel. Mirrored clips are of the same class here.
_OWN_VIDEOS = replace(
    _MOTION[3],
    name="own-videos",
    source="DC18 §3",
    arguments={"width": 1 / 4, "radius": 4, "dropout": 0.2, "partial_bn": False},
    view=View(size=64, short=72, length=8, flip=True, frames=CAFFE),
    batch=8,
    stages=(replace(_MOTION[3].stages[0], lr=1e-3).longer(20),),
    sources=dict.fromkeys(
        (
            *("batch", "length", "lr", "optimizer", "loss", "schedule", "weight_decay", "clip"),
            *("view.size", "view.short", "view.length", "view.stride", "view.flip"),
        ),
        "ours: for some dozens of videos on two cores",
    ),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *map(_tsn, _MODALITIES),
        *map(_off, _MODALITIES),
        _OFF_RELEASED,
        _OFF_TSM,
        _REPFLOW,
        _REPFLOW_LOW,
        _DC_UCF,
        _DC_KINETICS,
        *_FLOWS,
        _DNCNN,
        _RFCN,
        *_MOTION,
        _OWN_VIDEOS,
    )
}
