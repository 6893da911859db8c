"""Residual networks over clips: 2D with or without shifted channels, factored, 3D (RF19 §4, OFF20 §5.2, AF18 §3.1).

Modules are named as torchvision names them, so that weights in its format fit.
"""

from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import choice, count, message, odd, positive, share
from motionspec.models.table import Network, Stage
from motionspec.ops import losses, pool3d
from motionspec.ops.checks import given

__all__ = ["NETWORKS", "ResNet", "Trunk"]

_KINDS = ("2D", "(2+1)D", "3D")
# Depth -> residual units in layer1 to layer4, and whether they are bottlenecks (He et al., Table 1).
_DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


class Trunk(nn.Module):
    """A ResNet without its classifier: clip (N, in_channels, T, H, W) -> features (N, channels, T', H/32, W/32).

    depth: 18, 34, 50 or 101. kind:
      "2D": every frame on its own; T' = T. With `shift` (TSM, OFF20 §5.2), each residual branch first takes an eighth
        of its channels from the next frame and an eighth from the one before; as in TSM's code, of ResNet-101 only
        every second branch does.
      "(2+1)D" (18, 34): each k x k convolution is 1 x k x k, batch norm, ReLU, and then over time, as the S3D that RF19
        §4 cites; its released code has other units (3 x 3 x 3 in the second of each pair).
      "3D": each k x k convolution is 3 x k x k (AF18 §3.1); the 1 x 1 ones stay 1 x 1 x 1.
    stem_time: how many frames the first convolution sees, odd; 7 is the inflation of I3D, which RF19 §4 follows.
    temporal_stride: that of layer2, layer3 and layer4; 1 keeps T' = T, so that each frame has a score (RF19 §3.3);
      2 is AF18 §3.1 (16 frames become 2). Pooling is never over time.
    stem: False leaves out conv1 and pool1, for input that is small already (AF18 §3.3.1).
    output_stride: 16 makes the stride of layer4 dilation, which gives the same values at twice as many places (R-FCN).
      As in torchvision, the stride of a bottleneck is on its 3 x 3, and so layer4's first 3 x 3 is not dilated.
    width multiplies all channels. Convolutions start as He's normal of fan-out (torchvision), the rest as torch has it.

    `block(k, clip)`, k = 1 to 5, are the blocks of RF19 Table 1: conv1 with its pool, then layer1 to layer4. `taps`
    gives all maps by name, `channels` how many channels they have.
    Raises `Trunk: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        kind: str = "2D",
        in_channels: int = 3,
        width: float = 1.0,
        shift: bool = False,
        stem: bool = True,
        stem_time: int = 3,
        temporal_stride: int = 1,
        output_stride: int = 32,
    ):
        super().__init__()
        name = type(self).__name__
        choice(name, "kind", kind, _KINDS)
        if depth not in _DEPTHS:
            raise ValueError(message(name, "depth", "one of " + ", ".join(map(str, _DEPTHS)), depth))
        if output_stride not in (16, 32):
            raise ValueError(message(name, "output_stride", "16 or 32", output_stride))
        units, deep = _DEPTHS[depth]
        if deep and kind == "(2+1)D":
            raise ValueError(message(name, "depth", f"18 or 34 where kind is {kind!r}", depth))
        if shift and kind != "2D":
            raise ValueError(message(name, "shift", f"False where kind is {kind!r}", shift))
        count(name, "temporal_stride", temporal_stride)
        odd(name, "stem_time", stem_time)
        for argument, value, only in (("temporal_stride", temporal_stride, 1), ("stem_time", stem_time, 3)):
            if kind == "2D" and value != only:
                raise ValueError(message(name, argument, f"{only} where kind is {kind!r}", value))
        self.kind, self.stem = kind, stem
        self.in_channels = inside = count(name, "in_channels", in_channels)
        base = max(1, round(64 * positive(name, "width", width)))
        self.channels = {}
        if stem:
            self.conv1 = _convolution(kind, inside, base, 7, stride=2, time=stem_time)
            self.bn1 = _norm(kind, base)
            inside = self.channels["conv1"] = self.channels["pool1"] = base
        if shift and inside < 8:
            expected = "so much that the maps to shift, of which an eighth goes each way, have at least 8 channels"
            raise ValueError(message(name, "width" if stem else "in_channels", expected, f"{inside} channels"))
        for k, number in enumerate(units, start=1):
            outside = base * 2 ** (k - 1) * (4 if deep else 1)
            dilation = 2 if k == 4 and output_stride == 16 else 1
            stride = 2 if k > 1 and dilation == 1 else 1
            first = {"stride": stride, "temporal_stride": temporal_stride if k > 1 else 1, "dilation": (1, dilation)}
            layer = _Layer()
            for unit in range(number):
                options = {"dilation": (dilation, dilation)} if unit else first
                moved = shift and (depth < 101 or unit % 2 == 0)
                layer.append(_Unit(kind, inside, outside, deep=deep, shift=moved, **options))
                inside = outside
            self.add_module(f"layer{k}", layer)
            self.channels[f"layer{k}"] = outside
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _block(self, k: int, clip: Tensor) -> dict[str, Tensor]:
        """The maps of block k by name, the last of them its result; none where there is no stem."""
        flat = self.kind == "2D"
        x = clip.transpose(1, 2).flatten(0, 1) if flat else clip  # of what unflatten gave this is a view
        maps = {}
        if k > 1:
            maps[f"layer{k - 1}"] = self.get_submodule(f"layer{k - 1}")(x, clip.shape[2])
        elif self.stem:
            x = maps["conv1"] = F.relu(self.bn1(self.conv1(x)), inplace=True)
            maps["pool1"] = F.max_pool2d(x, 3, 2, 1) if flat else F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        return {name: _unflat(m, clip.shape[2]) for name, m in maps.items()} if flat else maps

    def block(self, k: int, clip: Tensor) -> Tensor:
        """Block k, 1 to 5, of what the block before it gave: clip -> clip."""
        if k not in range(1, 6):
            raise ValueError(message(type(self).__name__, "k", "1 to 5", k))
        return [clip, *self._block(k, clip).values()][-1]

    def taps(self, clip: Tensor) -> dict[str, Tensor]:
        """All maps by name, as clips: conv1 (after batch norm and ReLU), pool1, layer1 to layer4."""
        self._check(clip)
        maps: dict[str, Tensor] = {}
        for k in range(1, 6):
            maps |= self._block(k, clip)
            clip = [clip, *maps.values()][-1]
        return maps

    def forward(self, clip: Tensor) -> Tensor:
        self._check(clip)
        for k in range(1, 6):
            clip = self.block(k, clip)
        return clip

    def _check(self, clip: Tensor) -> None:
        given(type(self).__name__, "auto", clip=(clip, f"N {self.in_channels} T H W"))


class ResNet(Trunk):
    """A ResNet that scores every frame: clip (N, in_channels, T, H, W) -> scores (N, classes) before the softmax.

    They are the mean over time of the scores of all (remaining) frames (RF19 §3.3), each from the mean over the map,
    dropout, and one linear layer; without dropout that is also AF18 §3.2, which takes the mean over time first.
    torchvision's weights expect RGB in [0, 1] less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225). The options are
    those of `Trunk`; so are the errors, which begin with `ResNet`.
    """

    def __init__(self, classes: int = 400, *, dropout: float = 0.0, **options: Any):
        super().__init__(**options)
        count(type(self).__name__, "classes", classes)
        self.dropout = nn.Dropout(share(type(self).__name__, "dropout", dropout))
        self.fc = nn.Linear(self.channels["layer4"], classes)

    def head(self, features: Tensor) -> dict[str, Tensor]:
        """Of the last block's clip: "steps", the scores of each frame (N, T', classes), "scores", their mean."""
        steps = self.fc(self.dropout(features.mean((3, 4)).transpose(1, 2)))
        return {"steps": steps, "scores": losses.consensus(steps)}

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """ "steps": the scores of each frame (N, T', classes); "scores": their mean."""
        return self.head(super().forward(clip))

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]


class _Layer(nn.ModuleList):
    """Residual units in a row, of frames or clips with T frames each."""

    def forward(self, x: Tensor, T: int) -> Tensor:
        for unit in self:
            x = unit(x, T)
        return x


class _Unit(nn.Module):
    """Two k x k convolutions, or a bottleneck of three, and what they are added to.

    dilation: before and after the place where the stride is (was).
    """

    def __init__(
        self,
        kind: str,
        inside: int,
        outside: int,
        *,
        deep: bool,
        shift: bool,
        stride: int = 1,
        temporal_stride: int = 1,
        dilation: tuple[int, int],
    ):
        super().__init__()
        self.deep, self.shift = deep, shift
        before, after = dilation
        strides = {"stride": stride, "temporal_stride": temporal_stride}
        inner = outside // 4 if deep else outside
        if deep:
            self.conv1 = _convolution(kind, inside, inner, 1)
            self.conv2 = _convolution(kind, inner, inner, 3, dilation=before, **strides)
            self.conv3 = _convolution(kind, inner, outside, 1)
            self.bn3 = _norm(kind, outside)
        else:
            self.conv1 = _convolution(kind, inside, inner, 3, dilation=before, **strides)
            self.conv2 = _convolution(kind, inner, inner, 3, dilation=after)
        self.bn1, self.bn2 = _norm(kind, inner), _norm(kind, inner)
        self.downsample = None
        if inside != outside:
            self.downsample = nn.Sequential(_convolution(kind, inside, outside, 1, **strides), _norm(kind, outside))

    def forward(self, x: Tensor, T: int) -> Tensor:
        y = x
        if self.shift:
            y = pool3d.temporal_shift(_unflat(x, T)).transpose(1, 2).flatten(0, 1)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(y)), inplace=True)))
        if self.deep:
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


def _unflat(frames: Tensor, T: int) -> Tensor:
    """Frames (N T, C, H, W) as clips (N, C, T, H, W)."""
    return frames.unflatten(0, (frames.shape[0] // T, T)).transpose(1, 2)


def _convolution(
    kind: str,
    inside: int,
    outside: int,
    kernel: int,
    *,
    stride: int = 1,
    time: int = 3,
    temporal_stride: int = 1,
    dilation: int = 1,
) -> nn.Module:
    """kernel x kernel, odd, padded so that stride 1 keeps the side, without bias; over `time` frames, not in 2D."""
    padding = dilation * (kernel // 2)
    if kind == "2D":
        return nn.Conv2d(inside, outside, kernel, stride, padding, dilation, bias=False)
    time = 1 if kernel == 1 else time

    def over(inside: int, time: int, side: int, stride_time: int, stride_side: int) -> nn.Module:
        window, strides = (time, side, side), (stride_time, stride_side, stride_side)
        space = padding if side > 1 else 0
        return nn.Conv3d(
            inside, outside, window, strides, (time // 2, space, space), (1, dilation, dilation), bias=False
        )

    if kind == "3D" or kernel == 1:
        return over(inside, time, kernel, temporal_stride, stride)
    layers: dict[str, nn.Module] = {
        "spatial": over(inside, 1, kernel, 1, stride),
        "bn": nn.BatchNorm3d(outside),
        "relu": nn.ReLU(inplace=True),
        "temporal": over(outside, time, 1, temporal_stride, 1),
    }
    return nn.Sequential(OrderedDict(layers))


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "2D" else nn.BatchNorm3d(channels)


_HE = "He et al. 2016, Table 1, which RF19 §4 takes at 224 x 224"
NETWORKS = (
    Network(
        name="resnet",
        source="RF19 §4, OFF20 §5.2, AF18 §3.1",
        build=ResNet,
        arguments={"depth": 50},
        input=(3, 8, 224, 224),
        small={"classes": 4, "depth": 18, "width": 1 / 8},
        small_input=(3, 3, 33, 30),
        reference="resnet.resnet",
        variants=(
            {"depth": 34, "kind": "(2+1)D", "temporal_stride": 2},
            {"kind": "3D", "stem_time": 7},
            {"depth": 50, "kind": "3D", "temporal_stride": 2, "in_channels": 2, "input": (2, 5, 19, 32)},
            {"depth": 50, "shift": True},
            {"output_stride": 16},
            {"depth": 101, "shift": True, "output_stride": 16},
            {"stem": False, "in_channels": 2, "input": (2, 1, 9, 8)},
        ),
        stages=(
            Stage(module="conv1", shape=(64, 112, 112), source=_HE),
            Stage(module="layer1", shape=(256, 56, 56), source=_HE),
            Stage(module="layer2", shape=(512, 28, 28), source=_HE),
            Stage(module="layer3", shape=(1024, 14, 14), source=_HE),
            Stage(module="layer4", shape=(2048, 7, 7), source=_HE),
            Stage(module="fc", shape=(8, 400), source="RF19 §3.3: a prediction per frame; Kinetics has 400 classes"),
        ),
    ),
)
