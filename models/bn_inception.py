"""BN-Inception, and on it the temporal segment network: what OFF18 §4.1 and DC18 §3.1 build on.

The layers are those of OFF18's released rgb_off/1/train.prototxt, which the papers do not print.
"""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import choice, count, message, positive, share
from motionspec.models.table import CAFFE, Network, Stage
from motionspec.ops import losses
from motionspec.ops.checks import given

__all__ = ["MODALITIES", "NETWORKS", "TSN", "BNInception"]

# Input channels of one segment (OFF18 §4.3: 1, 5, 5): a frame; 5 differences, of 6 frames as TSN has them; 5 flow maps,
# x and y of each in turn.
MODALITIES = {"rgb": 3, "rgb-diff": 15, "flow": 10}

# Per block: 1x1 | 3x3_reduce, 3x3 | double_3x3_reduce, double_3x3_1, double_3x3_2 | pool_proj, and how its pool pools.
# Where there is no 1x1 the block halves the map: both last convolutions and the pool have stride 2.
_BLOCKS: dict[str, tuple[int, tuple[int, int], tuple[int, int, int], int, str]] = {
    "3a": (64, (64, 64), (64, 96, 96), 32, "average"),
    "3b": (64, (64, 96), (64, 96, 96), 64, "average"),
    "3c": (0, (128, 160), (64, 96, 96), 0, "max"),
    "4a": (224, (64, 96), (96, 128, 128), 128, "average"),
    "4b": (192, (96, 128), (96, 128, 128), 128, "average"),
    "4c": (160, (128, 160), (128, 160, 160), 128, "average"),
    "4d": (96, (128, 192), (160, 192, 192), 128, "average"),
    "4e": (0, (128, 192), (192, 256, 256), 0, "max"),
    "5a": (352, (192, 320), (160, 224, 224), 128, "average"),
    "5b": (352, (192, 320), (192, 224, 224), 128, "max"),
}


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(inside, outside, kernel, stride, kernel // 2),
        "bn": nn.BatchNorm2d(outside),
        "relu": nn.ReLU(inplace=True),
    }
    return nn.Sequential(OrderedDict(layers))


class _Block(nn.ModuleDict):
    """Four branches side by side, concatenated; its layers are named as in the published weights."""

    def __init__(self, inside: int, one: int, three: list[int], double: list[int], pool: int, kind: str):
        stride = 1 if one else 2
        layers = {
            "3x3_reduce": _convolution(inside, three[0], 1),
            "3x3": _convolution(three[0], three[1], 3, stride),
            "double_3x3_reduce": _convolution(inside, double[0], 1),
            "double_3x3_1": _convolution(double[0], double[1], 3),
            "double_3x3_2": _convolution(double[1], double[2], 3, stride),
        }
        if one:
            layers |= {"1x1": _convolution(inside, one, 1), "pool_proj": _convolution(inside, pool, 1)}
        super().__init__(layers)
        self.kind = kind
        self.channels = one + three[1] + double[2] + (pool if one else inside)

    def forward(self, x: Tensor) -> Tensor:
        three = self["3x3"](self["3x3_reduce"](x))
        double = self["double_3x3_2"](self["double_3x3_1"](self["double_3x3_reduce"](x)))
        if "1x1" not in self:
            # Where a side is odd, the released pool has one place less than the convolutions; here it has as many.
            H, W = x.shape[-2:]
            if H % 2 or W % 2:
                x = F.pad(x, (0, W % 2, 0, H % 2))  # of maps after ReLU: 0 changes no maximum
            return torch.cat([three, double, F.max_pool2d(x, 3, 2, ceil_mode=True)], 1)
        pool = F.avg_pool2d if self.kind == "average" else F.max_pool2d
        return torch.cat([self["1x1"](x), three, double, self["pool_proj"](pool(x, 3, 1, 1))], 1)


class BNInception(nn.Module):
    """BN-Inception without its classifier: frames (N, in_channels, H, W) -> features (N, 1024, H/32, W/32).

    H and W are at least 7; the sides are halved as 224, 112, 56, 28, 14, 7 are, rounded up, but down by pool1 and pool2
    (Caffe's pools, without padding; of 2 they leave 1). stride is that of conv1: 2, or 1 for maps that are small
    already (DC18's of 112 x 112; at least 4). The stages are children in order: conv1 (64 channels), pool1, conv2
    (192), pool2, inception_3a (256), 3b (320), 3c (576), 4a (576), 4b (576), 4c (608), 4d (608), 4e (1056), 5a (1024),
    5b (1024), each map after batch norm and ReLU. `taps` gives the maps of all of them by name, `channels` their
    widths. width multiplies all channels. The convolutions start as He's normal of fan-in.
    Raises `BNInception: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(self, in_channels: int = 3, *, stride: int = 2, width: float = 1.0):
        super().__init__()
        positive("BNInception", "width", width)
        if stride not in (1, 2):
            raise ValueError(message("BNInception", "stride", "1 or 2", stride))

        def wide(channels: int) -> int:
            return max(1, round(channels * width)) if channels else 0

        self.in_channels, self.stride = count("BNInception", "in_channels", in_channels), stride
        c1, c2, c3 = wide(64), wide(64), wide(192)
        self.conv1 = nn.Sequential(OrderedDict({"7x7_s2": _convolution(in_channels, c1, 7, stride)}))
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        conv2 = {"3x3_reduce": _convolution(c1, c2, 1), "3x3": _convolution(c2, c3, 3)}
        self.conv2 = nn.Sequential(OrderedDict(conv2))
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.channels = {"conv1": c1, "pool1": c1, "conv2": c3, "pool2": c3}
        inside = c3
        for name, (one, three, double, pool, kind) in _BLOCKS.items():
            block = _Block(inside, wide(one), [*map(wide, three)], [*map(wide, double)], wide(pool), kind)
            self.add_module(f"inception_{name}", block)
            inside = self.channels[f"inception_{name}"] = block.channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def taps(self, frames: Tensor) -> dict[str, Tensor]:
        """The maps of all stages by name."""
        maps = {}
        x = self._checked(frames)
        for name, stage in self.named_children():
            x = maps[name] = stage(x)
        return maps

    def forward(self, frames: Tensor) -> Tensor:
        x = self._checked(frames)
        for stage in self.children():
            x = stage(x)
        return x

    def _checked(self, frames: Tensor) -> Tensor:
        given("BNInception", "auto", frames=(frames, f"N {self.in_channels} H W"))
        least = 7 if self.stride == 2 else 4
        if min(frames.shape[-2:]) < least:
            raise ValueError(message("BNInception", "frames", f"H and W of at least {least}", tuple(frames.shape)))
        return frames


class TSN(nn.Module):
    """Temporal segment network on BN-Inception (OFF18 §4.1, §4.3, after TSN).

    Clip (N, C, T, H, W) of T segments, H, W >= 7 -> scores (N, classes) before the softmax: the mean of those of the
    segments (OFF18 (8)). T is any, the papers' 7 (3) segments in training and 25 in test alike. C is that of the
    modality: "rgb" 3, "rgb-diff" 15 (5 differences, the channels of each together), "flow" 10 (x and y of 5 maps in
    turn). Published weights expect BGR in [0, 255] less 104, 117, 123, differences of such, and flow in [0, 255]
    less 128 (OFF18's released settings).

    dropout: before the classifier (TSN: 0.8; 0.7 for flow). partial_bn: the batch norms but the first keep their
    statistics in training, as TSN says; its PyTorch code also keeps their scale and shift, which learn here.
    width multiplies the channels of the network. The classifier starts at normal 0.001, bias 0 (TSN's code).
    Raises `TSN: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(
        self,
        classes: int = 101,
        *,
        modality: str = "rgb",
        dropout: float = 0.8,
        partial_bn: bool = True,
        width: float = 1.0,
    ):
        super().__init__()
        choice("TSN", "modality", modality, tuple(MODALITIES))
        count("TSN", "classes", classes)
        positive("TSN", "width", width)
        self.modality, self.partial_bn = modality, partial_bn
        self.backbone = BNInception(MODALITIES[modality], width=width)
        self.dropout = nn.Dropout(share("TSN", "dropout", dropout))
        self.fc = nn.Linear(self.backbone.channels["inception_5b"], classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)
        self.train()

    def train(self, mode: bool = True) -> "TSN":
        super().train(mode)
        if self.partial_bn:
            for norm in [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)][1:]:
                norm.eval()
        return self

    def taps(self, clip: Tensor) -> dict[str, Tensor]:
        """The maps of all stages of the backbone by name, as clips (N, channels, T, H', W')."""
        maps = self.backbone.taps(self._frames(clip))
        return {name: _clips(map_, clip) for name, map_ in maps.items()}

    def head(self, features: Tensor) -> dict[str, Tensor]:
        """Of the last of these: "segments", the scores of each segment (N, T, classes), "scores", their mean."""
        segments = self.fc(self.dropout(features.mean((3, 4)).transpose(1, 2)))
        return {"segments": segments, "scores": losses.consensus(segments)}

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """ "segments": the scores of each segment (N, T, classes); "scores": their mean."""
        frames = self.frame_wise(clip)
        return self.together(frames, self.pair_wise(frames))

    # For `motionspec.models.inference.Streaming`.
    streams = True

    def frame_wise(self, clip: Tensor) -> dict[str, Tensor]:
        return {"segments": self.head(_clips(self.backbone(self._frames(clip)), clip))["segments"]}

    def pair_wise(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def together(self, frames: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**frames, "scores": losses.consensus(frames["segments"])}

    def _frames(self, clip: Tensor) -> Tensor:
        given("TSN", "auto", clip=(clip, f"N {self.backbone.in_channels} T H W"))
        return clip.transpose(1, 2).flatten(0, 1)

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]

    def groups(self, lr: float = 0.001, weight_decay: float = 5e-4) -> list[dict[str, Any]]:
        """Parameters for an optimizer, as TSN trains them: biases at twice the rate, no decay of biases and norms.

        The first convolution of the flow network learns at 5 times the rate, its bias at 10 times.
        """
        first = self.backbone.conv1.get_submodule("7x7_s2.conv")
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m is not first]
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        faster = 5 if self.modality == "flow" else 1
        return [
            {"name": "first weight", "params": [first.weight], "lr": faster * lr, "weight_decay": weight_decay},
            {"name": "first bias", "params": [first.bias], "lr": 2 * faster * lr, "weight_decay": 0.0},
            {"name": "weights", "params": [m.weight for m in layers], "lr": lr, "weight_decay": weight_decay},
            {"name": "biases", "params": [m.bias for m in layers], "lr": 2 * lr, "weight_decay": 0.0},
            {"name": "norms", "params": [p for m in norms for p in m.parameters()], "lr": lr, "weight_decay": 0.0},
        ]


def _clips(frames: Tensor, clip: Tensor) -> Tensor:
    """Maps (N T, C, H, W) of the frames of a clip as clips (N, C, T, H, W)."""
    return frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)


_PROTOTXT = "OFF18's released rgb_off/1/train.prototxt"
_TAPPED = f"{_PROTOTXT}, where OFF is fed by it"
NETWORKS = (
    Network(
        name="tsn",
        source="OFF18 §4.1",
        build=TSN,
        frames=CAFFE,
        input=(3, 7, 224, 224),
        small={"classes": 4, "width": 1 / 8},
        small_input=(3, 2, 37, 30),
        reference="bn_inception.tsn",
        variants=({"modality": "flow", "input": (10, 1, 24, 32)},),
        stages=(
            Stage(module="backbone.conv1", shape=(64, 112, 112), source=_PROTOTXT),
            Stage(module="backbone.pool1", shape=(64, 56, 56), source=_PROTOTXT),
            Stage(module="backbone.conv2", shape=(192, 56, 56), source=_PROTOTXT),
            Stage(module="backbone.pool2", shape=(192, 28, 28), source=_PROTOTXT),
            Stage(module="backbone.inception_3a", shape=(256, 28, 28), source=_TAPPED),
            Stage(module="backbone.inception_3b", shape=(320, 28, 28), source=_TAPPED),
            Stage(module="backbone.inception_3c", shape=(576, 14, 14), source=_TAPPED),
            Stage(module="backbone.inception_4a", shape=(576, 14, 14), source=_TAPPED),
            Stage(module="backbone.inception_4b", shape=(576, 14, 14), source=_TAPPED),
            Stage(module="backbone.inception_4c", shape=(608, 14, 14), source=_TAPPED),
            Stage(module="backbone.inception_4d", shape=(608, 14, 14), source=_TAPPED),
            Stage(module="backbone.inception_4e", shape=(1056, 7, 7), source=_PROTOTXT),
            Stage(module="backbone.inception_5a", shape=(1024, 7, 7), source=_TAPPED),
            Stage(module="backbone.inception_5b", shape=(1024, 7, 7), source=_TAPPED),
            Stage(module="fc", shape=(7, 101), source="OFF18 (8): a score per segment; UCF101 has 101 classes"),
        ),
        exempt=(r"backbone\.conv1\.7x7_s2\.conv\.bias",),  # the batch norm behind it takes the mean away
    ),
)
