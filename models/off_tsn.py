"""The OFF network: temporal segments on BN-Inception, and the OFF sub-network on its maps (OFF18 §4, OFF20 §4)."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import choice, count, message, positive, share
from motionspec.models.bn_inception import MODALITIES, TSN
from motionspec.models.layers import OFF
from motionspec.models.table import CAFFE, Network, Stage
from motionspec.models.weights import RENAMES
from motionspec.ops import losses, off

__all__ = ["GRADIENTS", "NETWORKS", "Assembly", "OFFNetwork", "released"]

GRADIENTS = ("both", "temporal", "spatial", "none")

# Level -> the convolution that takes the OFF in: kernel, stride, channels; then how many residual blocks (the released
# code). The blocks have four times the channels.
_LEVELS = {"28": (7, 2, 64, 3), "14": (5, 2, 128, 2), "7": (3, 1, 256, 1)}


class Assembly(nn.Module):
    """A network that scores frames, an OFF sub-network on its maps, and the sum of their scores (OFF18 §4, Figs. 2, 3).

    backbone: has `taps(clip)`, its maps by name, as clips, and `head(map)`, of the last of them "scores" and those of
    each frame. taps: level -> the maps of one resolution that its OFF unit takes; "28", "14", "7" are the sides at 224.
    channels: how many each has. The other arguments are those of `OFFNetwork`, as is what `parts` gives.
    """

    backbone: Any  # a Module, of which mypy does not know these methods

    def __init__(
        self,
        classes: int,
        *,
        backbone: nn.Module,
        taps: Mapping[str, Sequence[str]],
        channels: Mapping[str, int],
        dropout: float,
        freeze: bool,
        width: float,
        scheme: str = "paper",
        gradients: str = "both",
        spatial_dropout: float = 0.8,
        fusion: tuple[float, float, float, float] = (1, 0, 0, 1),
    ):
        super().__init__()
        name = type(self).__name__
        choice(name, "scheme", scheme, ("paper", "sobel", "released"))
        choice(name, "gradients", gradients, GRADIENTS)
        four = isinstance(fusion, Sequence) and len(fusion) == 4 and any(fusion)
        if not four or not all(isinstance(w, Real) and math.isfinite(w) for w in fusion):
            expected = "4 finite numbers, for the backbone and levels 28, 14, 7, not all 0"
            raise ValueError(message(name, "fusion", expected, fusion))
        share(name, "dropout", dropout)
        share(name, "spatial_dropout", spatial_dropout)
        self.scheme, self.gradients, self.freeze, self.fusion = scheme, gradients, freeze, fusion
        self.backbone, self.first, self.last = backbone.requires_grad_(not freeze), taps["28"][0], taps["7"][-1]
        self.taps = [tap for names in taps.values() for tap in names]
        self.off = nn.ModuleDict()
        lower = 0
        for key in _LEVELS:
            unit = _unit({tap: channels[tap] for tap in taps[key]}, scheme, gradients, spatial_dropout, width)
            level = _Level(key, unit, lower, classes, scheme, dropout, width)
            self.off[key], lower = level, level.channels
        for module in self.off.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.constant_(module.bias, 0.2)  # type: ignore[arg-type]  # each has one
        self.train()

    def train(self, mode: bool = True) -> "Assembly":
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """All predictions, and the OFF of each level: see `OFFNetwork`."""
        frames = self.frame_wise(clip)
        return self.together(frames, self.pair_wise(frames))

    # For `motionspec.models.inference.Streaming`, where the maps of a frame depend on that frame alone.
    streams = False

    def frame_wise(self, clip: Tensor) -> dict[str, Tensor]:
        """The maps that the OFF units take, and the backbone's scores of each frame."""
        maps = self.backbone.taps(clip)
        if self.scheme == "released" and min(maps[self.first].shape[-2:]) < 3:
            expected = "H and W so large that level 28, which scheme 'released' pools, has sides of at least 3"
            raise ValueError(message(type(self).__name__, "clip", expected, tuple(clip.shape)))
        head = self.backbone.head(maps[self.last])
        del head["scores"]
        frames = {tap: maps[tap] for tap in self.taps} | head
        return frames | self._levels(frames) if self.gradients == "none" else frames

    def pair_wise(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each level predicts of each pair."""
        T = frames[self.last].shape[2]
        if self.gradients == "none":
            return {}
        if T < 2:
            raise ValueError(message(type(self).__name__, "clip", "at least T=2 frames", f"T={T}"))
        return self._levels(frames)

    def _levels(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        lower = None
        for level in self.off.values():
            lower, of_level = level(maps, lower)
            found |= of_level
        return found

    def together(self, frames: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over the frames and pairs, and their sum."""
        parts = {key: part for key, part in (frames | pairs).items() if key not in self.taps}
        parts["backbone"] = losses.consensus(parts["segments" if "segments" in parts else "steps"])
        for key in self.off:
            parts[f"scores{key}"] = losses.consensus(parts[f"pairs{key}"])
        fused = zip(self.fusion, ("backbone", "scores28", "scores14", "scores7"), strict=True)
        return parts | {"scores": torch.stack([w * parts[part] for w, part in fused if w]).sum(0)}

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]

    def groups(self, lr: float = 0.02, weight_decay: float = 5e-4) -> list[dict[str, Any]]:
        """Parameters for an optimizer, as the released code trains RGB: biases at twice the rate, without decay.

        Of flow and RGB differences it gives five times the rate to the 1 x 1 before OFF, which is left out here; OFF18
        §5.1 has 0.05 for flow. Those of the backbone only if it is not frozen.
        """
        named = dict(self.off.named_parameters())
        weights, biases = ([named[key] for key in named if key.endswith(end)] for end in ("weight", "bias"))
        groups = [
            {"name": "weights", "params": weights, "lr": lr, "weight_decay": weight_decay},
            {"name": "biases", "params": biases, "lr": 2 * lr, "weight_decay": 0.0},
        ]
        if not self.freeze:
            backbone = list(self.backbone.parameters())
            groups.append({"name": "backbone", "params": backbone, "lr": lr, "weight_decay": weight_decay})
        return groups


class _Level(nn.Module):
    """An OFF unit, a convolution of what it gives and of the lower level, residual blocks, a classifier.

    No batch norm anywhere (OFF18 §4.1).
    """

    def __init__(self, key: str, unit: "_Maps", lower: int, classes: int, scheme: str, dropout: float, width: float):
        super().__init__()
        kernel, stride, channels, number = _LEVELS[key]
        middle = max(1, round(channels * width))
        self.key, self.unit, self.channels = key, unit, 4 * middle
        self.reduce = nn.Conv2d(unit.channels + lower, middle, kernel, stride, kernel // 2)
        self.pooled = (scheme, key) == ("released", "28")
        blocks = []
        for k in range(number):
            last = 3 if (scheme, key, k) == ("released", "14", 1) else 1
            relu = (scheme, key) != ("released", "7")
            blocks.append(_Block(middle if k == 0 else 4 * middle, middle, last=last, relu=relu))
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * middle, classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, maps: Mapping[str, Tensor], lower: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """What the next level takes, of each pair, (N (T-1), channels, H', W'), and what this one predicts."""
        features = self.unit(maps)
        N, _, pairs = features.shape[:3]
        x = features.transpose(1, 2).flatten(0, 1)
        x = F.relu(self.reduce(x if lower is None else torch.cat([x, lower], 1)))
        x = self.blocks(x)
        mean = (F.max_pool2d(x, 3, 2, ceil_mode=True) if self.pooled else x).mean((2, 3))
        scores = self.fc(self.dropout(mean)).unflatten(0, (N, pairs))
        parts = {f"off{self.key}": features} if isinstance(self.unit, _Paper | _Released) else {}
        return x, parts | {f"pairs{self.key}": scores}


class _Block(nn.Module):
    """Residual block of He et al.: 1 x 1, 3 x 3, 1 x 1 to four times the channels.

    last: the third's kernel; relu: whether one follows the sum.
    """

    def __init__(self, inside: int, middle: int, *, last: int, relu: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, middle, 1)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1)
        self.conv3 = nn.Conv2d(middle, 4 * middle, last, padding=last // 2)
        self.branch = nn.Identity() if inside == 4 * middle else nn.Conv2d(inside, 4 * middle, 1)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))) + self.branch(x)
        return F.relu(y) if self.relu else y


class _Maps(nn.Module):
    """The tapped maps of a level as they are, side by side; and what the OFF units have in common."""

    def __init__(self, taps: Sequence[str], channels: int):
        super().__init__()
        self.taps, self.channels = taps, channels

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([maps[tap] for tap in self.taps], 1)


class _Paper(_Maps):
    """One OFF layer for all maps of the level (OFF18 Figs. 3, 4), of which `gradients` are kept."""

    def __init__(
        self, taps: Mapping[str, int], *, wide: int, kernel: str, spatial: bool, temporal: bool, dropout: float
    ):
        super().__init__([*taps], (2 * spatial + temporal) * wide)
        self.off = OFF(sum(taps.values()), wide, kernel=kernel)
        self.wide, self.spatial, self.temporal = wide, spatial, temporal
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        spatial, temporal = self.off(super().forward(maps)).split([2 * self.wide, self.wide], 1)
        kept = [self.dropout(spatial)] * self.spatial + [temporal] * self.temporal
        return torch.cat(kept, 1)


class _Released(_Maps):
    """An OFF unit for each map of the level, side by side, each [cross gradient | Ft] of two reductions of its own."""

    def __init__(
        self, taps: Mapping[str, int], *, wide: int, narrow: int, spatial: bool, temporal: bool, dropout: float
    ):
        super().__init__([*taps], len(taps) * (spatial * narrow + temporal * wide))
        self.spatial = nn.ModuleDict({tap: nn.Conv2d(C, narrow, 1) for tap, C in taps.items()} if spatial else {})
        self.temporal = nn.ModuleDict({tap: nn.Conv2d(C, wide, 1) for tap, C in taps.items()} if temporal else {})
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        pieces = []
        for tap in self.taps:
            frames = maps[tap].transpose(1, 2)
            N, T = frames.shape[:2]
            if self.spatial:
                reduced = self.spatial[tap](frames.flatten(0, 1)).unflatten(0, (N, T))
                pieces.append(self.dropout(off.cross_gradient(reduced[:, :-1].flatten(0, 1))))
            if self.temporal:
                reduced = F.relu(self.temporal[tap](frames.flatten(0, 1))).unflatten(0, (N, T))
                pieces.append(off.temporal_difference(reduced[:, :-1].flatten(0, 1), reduced[:, 1:].flatten(0, 1)))
        return torch.cat(pieces, 1).unflatten(0, (N, T - 1)).transpose(1, 2)


def _unit(taps: Mapping[str, int], scheme: str, gradients: str, dropout: float, width: float) -> _Maps:
    if gradients == "none":
        return _Maps([*taps], sum(taps.values()))
    wide, narrow = (max(1, round(channels * width)) for channels in (128, 32))
    kept: dict[str, Any] = {"spatial": gradients != "temporal", "temporal": gradients != "spatial", "dropout": dropout}
    if scheme == "released":
        return _Released(taps, wide=wide, narrow=narrow, **kept)
    return _Paper(taps, wide=wide, kernel=scheme, **kept)


class OFFNetwork(Assembly):
    """The OFF network (OFF18 §4, OFF20 §4): TSN, OFF units at three sizes of its maps (Fig. 3), summed scores.

    Clip (N, C, T, H, W) of T >= 2 segments, H, W >= 7 -> scores (N, classes) before the softmax. C and the values are
    those of `TSN` for the modality: "rgb", "rgb-diff" (the OFF of the image itself, says OFF18 §5.2), "flow". A pair is
    two neighbouring segments of a clip; 7 segments in training and 25 in test (OFF18 §4.3, OFF20 §5.1; ablations: 3).

    At each level, 28 x 28, 14 x 14 and 7 x 7 at 224 x 224: the maps of one resolution (3a, 3b; 3c, 4a to 4d; 5a, 5b;
    the papers do not say which, the released code does), side by side, 1 x 1 to 128 channels, [Fx | Fy | Ft] of each
    pair, beside them what the lower level gives; a convolution that reduces the channels and, but for the last, halves
    the side; residual blocks without batch norm; a score of each pair, from the mean over the map. The papers print no
    table of these layers: kernels, channels and blocks are the released code's. Its 18 convolutions in blocks make the
    20 of the "ResNet-20" with the first and the classifier, as He et al. count. There is no ReLU between the 1 x 1 and
    the OFF, as Fig. 4 has none.

    scheme: "paper", the kernels as printed in (5), (6); "sobel", with the weights 1 2 1 that the text names;
      "released", as the released code: a unit for each map, with 128 channels, after ReLU, for Ft, and 32 others for
      right - left + up - down, pairs as in its test phase (in training it mixes up clips: the released code); the
      second block at 14 x 14 ends in 3 x 3; no ReLU after the last block; level 28 is max-pooled before its mean, for
      which H and W are at least 23. For flow and RGB differences it has gradients="temporal" only.
    gradients: "both"; "temporal" (OFF20 Table 3) or "spatial" alone; "none": the hypercolumn network (OFF18 Table 3),
      whose maps go into the sub-network as they are, without the unit, its 1 x 1 included (Fig. 4), each segment alone;
      the scores are then of all T segments, and T = 1 will do.
    fusion: weights of the scores of backbone and levels 28, 14, 7: a plain sum of backbone and last level
      (OFF18 §4.3). The released code searched: 1 : 0 : 1 : 2.
    dropout: before the classifiers; spatial_dropout: on spatial gradients, of single values (OFF18 §5.1; the released
      0.8). freeze: stage two of OFF18 §4.2, TSN with all its statistics stays as loaded, even in training, and is in
      inference mode (the released code leaves its first batch norm free). `motionspec.models.weights.load` loads it
      into `network.backbone`, with convert=`released` OFF18's weights into the whole. partial_bn: TSN's; from random
      weights it needs False. width multiplies all channels.
    Convolutions start as He's normal of fan-in with bias 0.2, classifiers at normal 0.001 and 0, for every modality.
    So the released networks of RGB and flow start; the released one of RGB differences has Xavier's rule instead.

    `parts`: "segments" (N, T, classes) and "backbone", their mean; for each level "off28" (N, channels, T-1, H', W'),
    the unit's output, "pairs28" (N, T-1, classes), "scores28", their mean, which OFF18 (9) supervises each on its own
    (`motionspec.ops.losses.intermediate_supervision`); "scores".
    Raises `OFFNetwork: argument: expected ..., got ...`, TypeError or ValueError.
    """

    streams = True

    def __init__(
        self,
        classes: int = 101,
        *,
        modality: str = "rgb",
        scheme: str = "paper",
        gradients: str = "both",
        dropout: float = 0.8,
        spatial_dropout: float = 0.8,
        freeze: bool = True,
        partial_bn: bool = True,
        fusion: tuple[float, float, float, float] = (1, 0, 0, 1),
        width: float = 1.0,
    ):
        choice("OFFNetwork", "modality", modality, tuple(MODALITIES))
        count("OFFNetwork", "classes", classes)
        positive("OFFNetwork", "width", width)
        if scheme == "released" and modality != "rgb" and gradients in ("both", "spatial"):
            expected = f"'temporal' where scheme is 'released' and modality {modality!r}"
            raise ValueError(message("OFFNetwork", "gradients", expected, repr(gradients)))
        backbone = TSN(classes, modality=modality, partial_bn=partial_bn, width=width)
        taps = {"28": ("3a", "3b"), "14": ("3c", "4a", "4b", "4c", "4d"), "7": ("5a", "5b")}
        super().__init__(
            classes,
            backbone=backbone,
            taps={level: [f"inception_{tap}" for tap in names] for level, names in taps.items()},
            channels=backbone.backbone.channels,
            scheme=scheme,
            gradients=gradients,
            dropout=dropout,
            spatial_dropout=spatial_dropout,
            freeze=freeze,
            fusion=fusion,
            width=width,
        )


# Of OFF18's released Caffe model (its layers, as "layer.weight", "layer.bias" ...), and of the PyTorch port of it.
_RELEASED = (
    (r"[/-]", "_"),
    *RENAMES,
    (r"^fc\.", "backbone.fc."),
    (r"^(conv[12]|inception_\w\w)\.", r"backbone.backbone.\1."),
    (r"^motion_conv_gen_", "unit.temporal.inception_"),
    (r"^motion_spatial_down_", "unit.spatial.inception_"),
    (r"^(unit\.\w+\.inception_3[ab]\.)", r"off.28.\1"),
    (r"^(unit\.\w+\.inception_(?:3c|4\w)\.)", r"off.14.\1"),
    (r"^(unit\.\w+\.inception_5\w\.)", r"off.7.\1"),
    (r"^(motion_conv\w*_trans|fc_action_motion)\.", r"\1_7."),  # the last level's have no number
    (r"^fc_action_motion_(\d+)\.", r"off.\1.fc."),
    (r"^motion_conv_trans_(\d+)\.", r"off.\1.reduce."),
    (r"^motion_conv_(?:branch|expand)(?:_trans)?_(\d+)a?\.", r"off.\1.blocks.0.branch."),
    (r"^motion_conv(\d)_trans_(\d+)a?\.", r"off.\2.blocks.0.conv\1."),
    (r"^motion_conv(\d)_trans_(\d+)b\.", r"off.\2.blocks.1.conv\1."),
    (r"^motion_conv(\d)_trans_(\d+)c\.", r"off.\2.blocks.2.conv\1."),
)
_SPATIAL = r"(module\.)?motion_spatial_grad_\w+\.(weight|bias)"
_CROSS = ((0.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (0.0, -1.0, 0.0))  # right - left + up - down


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that OFF18 released under the names of ours, for `models.weights.load(..., convert=released)`.

    state: names and tensors, Caffe's or those of the PyTorch port. They fit OFFNetwork(scheme="released"), for flow and
    RGB differences with gradients="temporal". The 3 x 3 kernels of the spatial gradients, which the network has no
    weights for, are left out; they must be the fixed ones, right - left + up - down without bias. A dense kernel will
    do if its channels do not mix. The port learns them unless told not to: such a file is refused. The network computes
    as the Caffe model does; the port has two ReLUs elsewhere (the released code).
    Raises `released: state: expected ..., got ...`, ValueError.
    """
    kernels = [name for name in state if re.fullmatch(_SPATIAL, name)]
    others = [name for name in kernels if not _fixed(state[name])]
    if others:
        expected = "the fixed kernels 0 1 0, -1 0 1, 0 -1 0 on each channel alone, without bias"
        raise ValueError(message("released", "state", expected, f"others: {', '.join(others)}"))
    out: dict[str, Tensor] = {}
    for name in state.keys() - set(kernels):
        ours = name
        for pattern, replacement in _RELEASED:
            ours = re.sub(pattern, replacement, ours)
        if ours in out:
            raise ValueError(message("released", "state", "names that stay different when renamed", name))
        out[ours] = state[name]
    return out


def _fixed(value: Tensor) -> bool:
    """Whether that is the released cross gradient, depthwise (C, 1, 3, 3) or dense (C, C, 3, 3), or a bias of zeros."""
    if value.ndim != 4:
        return value.ndim == 1 and not value.any()
    cross = torch.tensor(_CROSS, dtype=value.dtype)
    C, I = value.shape[:2]  # noqa: E741
    mixing = torch.eye(C, dtype=value.dtype) if I == C else torch.ones(C, 1, dtype=value.dtype)
    return torch.equal(value, mixing[:, :, None, None] * cross)


def supervised(network: Any, clip: Tensor) -> Tensor:
    """The three levels, each with a loss of its own (OFF18 §4.2): sample k is of class k."""
    parts = network.parts(clip)
    label = torch.arange(clip.shape[0], device=clip.device)
    scores = torch.stack([parts[f"scores{level}"] for level in _LEVELS], 1)
    return losses.intermediate_supervision(scores, label, reduction="mean")


_PROTOTXT = "the released code, for the 384 channels of OFF18 Fig. 4"
_TAPPED = "OFF18 Fig. 3: three sizes; the released code: which"
_UNIT = "OFF18 §4.1, Fig. 4: 128 channels of Fx, Fy, Ft; 6 pairs of 7 segments"
NETWORKS = (
    Network(
        name="off-tsn",
        source="OFF18 §4, OFF20 §4",
        build=OFFNetwork,
        frames=CAFFE,
        input=(3, 7, 224, 224),
        small={"classes": 4, "width": 1 / 8},
        small_input=(3, 3, 41, 33),
        reference="off_tsn.off_network",
        variants=(
            {"gradients": "temporal"},
            {"gradients": "spatial", "scheme": "sobel", "input": (3, 2, 41, 40)},
            {"gradients": "none", "input": (3, 2, 24, 32)},
            {"scheme": "released", "fusion": (1, 0.5, -1, 2)},
            {"scheme": "released", "gradients": "temporal", "modality": "flow", "input": (10, 2, 24, 32)},
            {"scheme": "released", "gradients": "spatial", "input": (3, 2, 41, 40)},
        ),
        stages=(
            Stage(module="backbone.backbone.inception_3b", shape=(320, 28, 28), source=_TAPPED),
            Stage(module="backbone.backbone.inception_4d", shape=(608, 14, 14), source=_TAPPED),
            Stage(module="backbone.backbone.inception_5b", shape=(1024, 7, 7), source=_TAPPED),
            Stage(module="backbone.fc", shape=(7, 101), source="OFF18 §4.1: a score of each segment"),
            Stage(module="off.28.unit", shape=(384, 6, 28, 28), source=_UNIT),
            Stage(module="off.28.reduce", shape=(64, 14, 14), source=_PROTOTXT),
            Stage(module="off.28.blocks", shape=(256, 14, 14), source=_PROTOTXT),
            Stage(module="off.28.fc", shape=(101,), source=_PROTOTXT),
            Stage(module="off.14.unit", shape=(384, 6, 14, 14), source=_UNIT),
            Stage(module="off.14.reduce", shape=(128, 7, 7), source=_PROTOTXT),
            Stage(module="off.14.blocks", shape=(512, 7, 7), source=_PROTOTXT),
            Stage(module="off.14.fc", shape=(101,), source=_PROTOTXT),
            Stage(module="off.7.unit", shape=(384, 6, 7, 7), source=_UNIT),
            Stage(module="off.7.reduce", shape=(256, 7, 7), source=_PROTOTXT),
            Stage(module="off.7.blocks", shape=(1024, 7, 7), source=_PROTOTXT),
            Stage(module="off.7.fc", shape=(101,), source=_PROTOTXT),
        ),
        loss=supervised,
    ),
)
