"""The ResNet with representation-flow layers (RF19 §3.2-4, Figs. 3, 4, 6, Tables 1-9)."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import choice, count, message
from motionspec.models.layers import _SPAN, RepresentationFlow
from motionspec.models.resnet import ResNet
from motionspec.models.table import Network, Stage
from motionspec.ops import losses

__all__ = ["NETWORKS", "Motion", "NonLocal", "RepFlowResNet", "released"]

MOTIONS = ("flow", "flow-flow", "flow-conv-flow", "flow-conv-flow-conv-flow")
FUSIONS = ("none", "late", "add", "multiply", "layer+multiply", "concat", "released")


class RepFlowResNet(ResNet):
    """A ResNet whose features at one place become the flow of these features: clip -> scores (RF19 §3.2-3.3, Fig. 3).

    Clip (N, in_channels, T, H, W) -> (N, classes), before the softmax: each of the remaining frames has scores, their
    mean over time is the result. A flow layer turns T frames into T-1, each belonging to the earlier one of its pair.
    The defaults are the network whose accuracy Table 9 has; its times are of depth=34. Input as `ResNet`; only the flow
    is free of the range of the values, since each clip is stretched to [0, 255] before it. `depth`, `kind`, `dropout`
    and all other options: those of `ResNet`.

    place: 0, the flow of the input, or 1 to 5, after that block (Table 1). Block 1 is conv1 with its pool: the third is
      layer2 in the released code, and has 28 x 28 (Fig. 7).
    motion, channels, fusion: see `Motion`. fusion="late" adds a ResNet of its own for RGB, and the scores are the mean
      of both (Fig. 4b). Flow or flow of flow of RGB frames is place=0, channels=None.
    non_local: a `NonLocal` block after block 4 (Table 9; the paper says not where: Wang et al. have one in res4).
    n_iter, scheme, value_range, learn_*, memory: of every flow layer, see `RepresentationFlow`; the switches are the
      rows of Table 2, where "Sobel kernels" are those of the image. With a value_range a score depends on the frames of
      its pair alone, so that a 2D network can be streamed; flow of flow has another range than features, so set
      `network.motion.flows[1].value_range` for itself.
    "TVL-1 twice" (Table 5) is TV-L1 flow (`ops.tvl1.pyramid_flow`) as a clip of in_channels=2, and a flow layer on it
      that learns nothing: place=0, channels=None, learn_numbers=False, learn_divergence=False.

    For evaluation by the mean of the parameters over time (§4), the library's own:
    `torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))`, with
    `update_parameters(network)` after each step; batch norm's statistics are copied as they are.

    `parts`: "flow" (N, 2C', T-1, H', W'), in pixels of the features, all u then all v channels; with more layers the
    flow of flow "flow2", "flow3"; "steps" (N, T-n, classes) for n layers; "scores". Late fusion: also "motion" and
    "rgb", the scores of each network.
    Raises `RepFlowResNet: argument: expected ..., got ...`, TypeError or ValueError.

    >>> network = RepFlowResNet(51, depth=18, width=1 / 8)
    >>> parts = network.parts(torch.rand(1, 3, 4, 64, 64))
    >>> parts["flow"].shape, parts["scores"].shape
    (torch.Size([1, 64, 3, 8, 8]), torch.Size([1, 51]))
    """

    def __init__(
        self,
        classes: int = 400,
        *,
        place: int = 3,
        motion: str = "flow",
        channels: int | None = 32,
        fusion: str = "none",
        non_local: bool = False,
        n_iter: int = 20,
        scheme: str = "classic",
        value_range: tuple[float, float] | None = None,
        learn_numbers: bool = True,
        learn_divergence: bool = True,
        learn_image_kernel: bool = False,
        learn_flow_kernel: bool = False,
        memory: str = "all",
        **options: Any,
    ):
        super().__init__(classes, **options)
        name = type(self).__name__
        if count(name, "place", place, least=0) > 5:
            raise ValueError(message(name, "place", "0, the input, or a block, 1 to 5", place))
        choice(name, "motion", motion, MOTIONS)
        choice(name, "fusion", fusion, FUSIONS)
        self.place = place
        before = ("", "pool1", "layer1", "layer2", "layer3", "layer4")[place]
        self.motion = Motion(
            self.channels.get(before, self.in_channels),
            motion,
            channels=channels if channels is None else count(name, "channels", channels),
            fusion=fusion,
            rectified=place > 0,
            n_iter=n_iter,
            scheme=scheme,
            value_range=value_range,
            learn_numbers=learn_numbers,
            learn_divergence=learn_divergence,
            learn_image_kernel=learn_image_kernel,
            learn_flow_kernel=learn_flow_kernel,
            memory=memory,
        )
        self.non_local = NonLocal(self.channels["layer3"]) if non_local else None
        self.rgb = ResNet(classes, **options) if fusion == "late" else None

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """All predictions and flows by name, see the class."""
        frames = self.frame_wise(clip)
        parts = self.together(frames, self.pair_wise(frames))
        if self.rgb is not None:
            motion, rgb = parts["scores"], self.rgb(clip)
            parts |= {"motion": motion, "rgb": rgb, "scores": (motion + rgb) / 2}
        return parts

    # For `motionspec.models.inference.Streaming`.

    @property
    def streams(self) -> bool:
        """Whether all but sums belongs to single frames and pairs."""
        shifted = any(getattr(module, "shift", False) for module in self.modules())
        alone = self.kind == "2D" and not shifted and self.non_local is None and self.rgb is None
        return alone and len(self.motion.flows) == 1 and self.motion.flows[0].value_range is not None

    def frame_wise(self, clip: Tensor) -> dict[str, Tensor]:
        """The features whose flow is taken."""
        self._check(clip)
        x = clip
        for k in range(1, self.place + 1):
            x = self.block(k, x)
        return {"features": x}

    def pair_wise(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """Flows and scores of the pairs; with more flow layers of what is left of the frames."""
        flows, x = self.motion(frames["features"])
        for k in range(self.place, 6):
            if k > self.place:
                x = self.block(k, x)
            if k == 4 and self.non_local is not None:
                x = self.non_local(x)
        return {**flows, "steps": self.head(x)["steps"]}

    def together(self, frames: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**pairs, "scores": losses.consensus(pairs["steps"])}

    def groups(self, lr: float = 0.01, weight_decay: float = 1e-6) -> list[dict[str, Any]]:
        """Parameters for an optimizer: those of the flow layers learn at a hundredth of the rate (released code)."""
        flow = [p for layer in self.motion.flows for p in layer.parameters()]
        rest = [p for p in self.parameters() if not any(p is q for q in flow)]
        groups = [
            {"name": "network", "params": rest, "lr": lr, "weight_decay": weight_decay},
            {"name": "flow", "params": flow, "lr": 0.01 * lr, "weight_decay": weight_decay},
        ]
        return [group for group in groups if group["params"]]


class Motion(nn.Module):
    """Flow layers in a row in the place of features (RF19 §3.2, Figs. 3, 4, 6).

    Clip (N, C, T, H, W) -> the flow of each of its n layers by name, (N, 2C', T-k, H, W), and features (N, C, T-n, H,
    W): `reduce`, 1 x 1 to C' = `channels` (None: none, C' = C); the flow layers, each of which stretches what it gets
    to [0, 255]; `widen`, 1 x 1 to C; batch norm; fusion; ReLU if `rectified`, as what stood here was.

    motion: "flow"; "flow-flow", the flow of all 2C' channels of the first flow, 4C'; "flow-conv-flow" with a 3 x 3 from
      2C' to C' between; "flow-conv-flow-conv-flow" (Table 5).
    fusion (Table 4) of the result y with the features x of the earliest frame that it comes from: "none", "late": y;
      "add": x + y, which the later released layer does; "multiply": x y; "layer+multiply", which the paper does not
      define: y first passes one more layer, ReLU, 3 x 3 convolution, batch norm; "concat": [x, y], 1 x 1 from 2C to C,
      batch norm. "released" is the released flow-conv-flow: widen is 3 x 3, x is the mean of the n+1 frames, and the
      batch norm's weight is 0 at first, so that training begins with x. Its flow layers have scheme="released".
    The paper says nothing of batch norm and ReLU: both released versions have them behind `widen`, and not before. No
    convolution has a bias; they start as the ResNet's, He's normal of fan-out.
    """

    def __init__(
        self,
        inside: int,
        motion: str,
        *,
        channels: int | None,
        fusion: str,
        rectified: bool,
        **flow: Any,
    ):
        super().__init__()
        self.fusion, self.rectified = fusion, rectified
        number, conv = motion.count("flow"), "conv" in motion
        inner = inside if channels is None else channels
        self.reduce = None if channels is None else _convolution(inside, inner, 1)
        self.flows = nn.ModuleList(RepresentationFlow(**flow) for _ in range(number))
        self.between = nn.ModuleList(_convolution(2 * inner, inner, 3) for _ in range(number - 1 if conv else 0))
        last = 2 * inner if conv else 2**number * inner
        self.widen = _convolution(last, inside, 3 if fusion == "released" else 1)
        self.norm = nn.BatchNorm2d(inside)
        if fusion == "released":
            nn.init.zeros_(self.norm.weight)
        self.fuse: nn.Module = nn.Identity()
        if fusion in ("layer+multiply", "concat"):
            convolution = _convolution(2 * inside, inside, 1) if fusion == "concat" else _convolution(inside, inside, 3)
            self.fuse = nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(inside)))

    def forward(self, clip: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        n, T = len(self.flows), clip.shape[2]
        if n >= T:
            raise ValueError(
                message("RepFlowResNet", "clip", f"at least T={n + 1} frames at the flow layers", f"T={T}")
            )
        flows: dict[str, Tensor] = {}
        x = clip if self.reduce is None else _each(self.reduce, clip)
        for k, layer in enumerate(self.flows):
            if k and self.between:
                x = _each(self.between[k - 1], x)
            x = flows["flow" if k == 0 else f"flow{k + 1}"] = layer(x)
        x = self.fused(clip, _each(self.norm, _each(self.widen, x)))
        return flows, F.relu(x, inplace=True) if self.rectified else x

    def fused(self, clip: Tensor, y: Tensor) -> Tensor:
        """Motion features y (N, C, T-n, H, W) with those that they come from, (N, C, T, H, W)."""
        x = clip[:, :, : y.shape[2]]
        match self.fusion:
            case "add":
                return x + y
            case "multiply":
                return x * y
            case "layer+multiply":
                return x * _each(self.fuse, F.relu(y))
            case "concat":
                return _each(self.fuse, torch.cat([x, y], 1))
            case "released":
                return F.avg_pool3d(clip, (len(self.flows) + 1, 1, 1), 1) + y
        return y


class NonLocal(nn.Module):
    """Each place gets what all places of the clip hold, weighed by likeness (RF19 Table 9).

    Clip (N, C, T, H, W) -> the same: x + norm(out(sum over j of softmax_j(theta_i . phi_j) g_j)), the embedded
    Gaussian of Wang et al. 2018 [25], inner width C/2, with no scale in the softmax, no subsampling, no biases. The
    weight of the batch norm is 0 at first, so that the block then changes nothing. Time is quadratic in T H W.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.theta, self.phi, self.g = (nn.Conv3d(channels, inner, 1, bias=False) for _ in range(3))
        self.out = nn.Conv3d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, clip: Tensor) -> Tensor:
        query, key, value = (f(clip).flatten(2).transpose(1, 2)[:, None] for f in (self.theta, self.phi, self.g))
        seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
        return clip + self.norm(self.out(seen.transpose(1, 2).unflatten(2, clip.shape[2:])))


# Names of the released motion blocks -> ours, one after the other.
_RELEASED = (
    (r"^(flow_cmp|rep_flow\.bottleneck)\.", "motion.reduce."),
    (r"^(flow_conv2|rep_flow\.unbottleneck)\.", "motion.widen."),
    (r"^(bnf|rep_flow\.bn)\.", "motion.norm."),
)
_LAYERS = {"flow_layer": "motion.flows.0", "flow_layer2": "motion.flows.1", "rep_flow": "motion.flows.0"}
_NUMBERS = {"t": ("theta", 0.3), "l": ("lam", 0.15), "a": ("tau", 0.25)}
_KERNELS = {"img_grad": (-0.5, 0.0, 0.5), "f_grad": (-1.0, 1.0), "div": (-1.0, 1.0)}  # as they begin


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released networks under the names of ours, for `models.weights.load(..., convert=released)`.

    state: names and tensors, of flow_2p1d_resnets.py (flow-conv-flow; ours with motion="flow-conv-flow",
    fusion="released", scheme="released") or kinetics_2p1d_model.py (motion="flow", fusion="add", scheme="released").
    Only the motion block changes. The trunks are not ours, they pad and pool otherwise over time: `keep` and `drop`
    have to say that they stay out. Between the two flow layers of the former are a 3 x 3 and a 1 x 1 convolution and
    nothing else: they become one.

    Ours has one kernel for all channels. Kernels of a flow layer that still are as they began are left out, others need
    a network that learns them (`learn_...`), as the numbers do. Refused are those that differ between channels, and
    the later release's, which sum over channels and are vertical: another operator, without an equal here. Dropped by
    `load(..., drop=[...])` they leave the convolutions around the flow, which learned beside it.
    Raises `released: state: expected ..., got ...`, ValueError.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    out: dict[str, Tensor] = {}
    for layer, ours in _LAYERS.items():
        out |= {f"{ours}.{key}": value for key, value in _flow_layer(layer, state).items()}
    if {"flow_conv.weight", "flow_cmp2.weight"} <= state.keys():
        wide, narrow = (state.pop(f"{name}.weight").squeeze(2) for name in ("flow_conv", "flow_cmp2"))
        out["motion.between.0.weight"] = torch.einsum("om,mihw->oihw", narrow[:, :, 0, 0], wide)
    for name, value in state.items():
        for pattern, replacement in _RELEASED:
            name = re.sub(pattern, replacement, name)
        out[name] = value.squeeze(2) if name.startswith("motion.") and value.ndim == 5 else value
    return out


def _flow_layer(layer: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes a flow layer out of `state`: our parameters of it."""
    out: dict[str, Tensor] = {}
    for key, (number, start) in _NUMBERS.items():
        if (value := state.pop(f"{layer}.{key}", None)) is not None:
            share = torch.log(value.reshape(()) / start) / _SPAN
            if not share.abs() < 1:
                expected = f"{layer}.{key} above 0 and within 1000 times {start}"
                raise ValueError(message("released", "state", expected, value.item()))
            out[f"log_{number}"] = _SPAN * torch.atanh(share)
    for key, first in _KERNELS.items():
        names = (f"{layer}.{key}", f"{layer}.{key}2")
        if not state.keys() >= set(names):
            continue
        x, y = (_taps(name, state.pop(name), axis) for name, axis in zip(names, "xy", strict=True))
        if x.tolist() == y.tolist() == list(first):
            continue
        if key == "div":
            out |= {"wx": x, "wy": y}
        else:  # for true convolution: the other way round
            kernels = x.new_zeros(2, 3, 3)
            kernels[0, 1, : len(x)], kernels[1, : len(y), 1] = x.flip(0), y.flip(0)
            out["image_kernel" if key == "img_grad" else "flow_kernel"] = kernels
    return out


def _taps(name: str, kernel: Tensor, axis: str) -> Tensor:
    """The weights along an axis of a kernel (C, 1 or C, h, w) that all channels share."""

    def refuse(expected: str, got: str) -> NoReturn:
        raise ValueError(message("released", "state", f"{name} {expected}, or without it (drop?)", got))

    C, inside, h, w = kernel.shape
    if inside > 1:
        own = torch.eye(C, inside, dtype=torch.bool)[..., None, None]
        if kernel.masked_fill(own, 0).any():
            refuse("that keeps channels apart", f"kernels that sum over {inside}")
        kernel = kernel.diagonal().movedim(-1, 0)[:, None]
    if (h if axis == "x" else w) > 1:
        refuse(f"along {axis}", f"kernels of {h} x {w}")
    if (kernel != kernel[:1]).any():
        refuse("equal for all channels", "different ones")
    return kernel[0].flatten()


def _convolution(inside: int, outside: int, kernel: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _each(layer: nn.Module, clip: Tensor) -> Tensor:
    """A layer for maps on every frame of a clip: (N, C, T, H, W) -> (N, D, T, H', W')."""
    return layer(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)


_HE = "He et al. 2016, Table 1, which RF19 §4 takes at 224 x 224"
NETWORKS = (
    Network(
        name="repflow",
        source="RF19 §3.2-4",
        build=RepFlowResNet,
        arguments={"depth": 50},
        input=(3, 32, 224, 224),
        small={"classes": 4, "depth": 18, "width": 1 / 8, "channels": 4, "n_iter": 2},
        small_input=(3, 3, 33, 30),
        reference="repflow.repflow",
        variants=(
            {"place": 0, "channels": None},
            {"place": 0, "channels": None, "learn_numbers": False, "learn_divergence": False, "in_channels": 2}
            | {"input": (2, 2, 17, 16)},
            {"place": 1, "learn_image_kernel": True, "learn_flow_kernel": True, "fusion": "add"},
            {"place": 5, "depth": 50, "scheme": "paper", "input": (3, 2, 40, 64)},
            {"place": 4, "motion": "flow-flow", "fusion": "multiply"},
            {"motion": "flow-conv-flow", "fusion": "released", "scheme": "released"},
            {"motion": "flow-conv-flow-conv-flow", "fusion": "layer+multiply", "input": (3, 5, 33, 30)},
            {"fusion": "concat", "value_range": (-1.0, 2.0), "n_iter": 3},
            {"fusion": "late", "place": 2},
            {"kind": "(2+1)D", "depth": 34, "motion": "flow-conv-flow", "non_local": True},
            {"kind": "3D", "stem_time": 7, "temporal_stride": 2, "input": (3, 4, 33, 30)},
        ),
        stages=(
            Stage(module="conv1", shape=(64, 112, 112), source=_HE),
            Stage(module="layer1", shape=(256, 56, 56), source=_HE),
            Stage(module="layer2", shape=(512, 28, 28), source="RF19 Fig. 7: 28 x 28 after block 3"),
            Stage(
                module="motion.reduce", shape=(32, 28, 28), source="RF19 §3.2: C to C'; C' = 32 in the released code"
            ),
            Stage(module="motion.flows.0", shape=(64, 31, 28, 28), source="RF19 §3.2: 2C' channels, a flow per pair"),
            Stage(module="motion.widen", shape=(512, 28, 28), source="RF19 §3.2: 2C' to C"),
            Stage(module="layer3", shape=(1024, 14, 14), source=_HE),
            Stage(module="layer4", shape=(2048, 7, 7), source=_HE),
            Stage(
                module="fc", shape=(31, 400), source="RF19 §3.3: a prediction per time step; Kinetics has 400 classes"
            ),
        ),
    ),
)
