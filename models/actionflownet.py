"""ActionFlowNet: flow and action from raw frames, of clips and of pairs, and a network stacked on the flow (AF18 §3).

What the paper leaves open is decided in docs/networks.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import choice, count, message, positive, share
from motionspec.models.resnet import ResNet, Trunk
from motionspec.models.table import Network, Stage
from motionspec.ops import losses
from motionspec.ops.autocast import in_float32
from motionspec.ops.checks import given

__all__ = ["NETWORKS", "ActionFlowNet", "Stacked", "flow_loss", "multitask_loss"]

_SKIPS = {16: "layer3", 8: "layer2", 4: "layer1"}  # scale -> the encoder's map that the decoder joins there


class ActionFlowNet(nn.Module):
    """A ResNet-18 that learns flow and action at once (AF18 §3.1, §3.2, §3.3.2; Figs. 1 and 3).

    Clip (N, 3, T, H, W) of RGB as `ResNet` expects it -> scores (N, classes) before the softmax, from the mean of the
    encoder's last map over time and space; `parts` adds the flow. frames:
      "clip": the multi-frame network. Kernels are 3 x k x k, also of the deconvolutions; layer2, layer3 and layer4
        halve T (the paper's 16 become 2). Flow "flow4" (N, 2, T, H/4, W/4): from each frame to the next, the last one
        to frame T + 1, which the network does not see.
      "pairs": ActionFlowNet-2F. Two neighbouring frames are the 6 channels of a 2D network; T >= 2 frames are T - 1
        pairs (the paper: T = 2), whose scores are averaged. Flow "flow32", "flow16", "flow8", "flow4", each (N, 2,
        T - 1, H/32, W/32) and so on.
    Sides are rounded up where they are no multiples of 32. A flow is u (right), v (down) in pixels of its own grid.

    The tasks: with both, the multitask network; classes=None: the flow alone, the paper's FlowNet and its multi-frame
    one, whose `forward` gives "flow4"; flow=False: the scores alone, "Scratch" and, from a FlowNet's weights,
    "Fine-tune". The weights of one go into another by `motionspec.models.weights.load`, with drop=(r"decoder\\..*",),
    keep=(r"fc\\..*",) or the like. `forward` does not compute what it does not give. Losses: `multitask_loss`.

    width multiplies the channels; dropout is before the classifier alone (AF18 §4.2). The decoder starts as He's normal
    for its leaky ReLU. Raises `ActionFlowNet: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(
        self,
        classes: int | None = 101,
        *,
        frames: str = "clip",
        flow: bool = True,
        dropout: float = 0.5,
        width: float = 1.0,
    ):
        super().__init__()
        choice("ActionFlowNet", "frames", frames, ("clip", "pairs"))
        positive("ActionFlowNet", "width", width)
        if classes is None and not flow:
            raise ValueError(message("ActionFlowNet", "flow", "True where classes is None", flow))
        self.frames = frames
        if frames == "clip":
            self.backbone = Trunk(depth=18, kind="3D", temporal_stride=2, width=width)
        else:
            self.backbone = Trunk(depth=18, in_channels=6, width=width)
        self.decoder = _Decoder(self.backbone.channels, frames) if flow else None
        self.dropout = nn.Dropout(share("ActionFlowNet", "dropout", dropout))
        self.fc = None
        if classes is not None:
            self.fc = nn.Linear(self.backbone.channels["layer4"], count("ActionFlowNet", "classes", classes))

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """ "scores", and the flows by scale, the coarsest first; without those of a task that the network has not."""
        maps = self.backbone.taps(self._input(clip))
        flows = {} if self.decoder is None else self.decoder(maps)
        return flows if self.fc is None else flows | {"scores": self.fc(self._pooled(maps["layer4"]))}

    def forward(self, clip: Tensor) -> Tensor:
        if self.fc is None:
            return self.parts(clip)["flow4"]
        return self.fc(self._pooled(self.backbone(self._input(clip))))

    def _input(self, clip: Tensor) -> Tensor:
        given("ActionFlowNet", "auto", clip=(clip, "N 3 T H W"))
        if self.frames == "clip":
            return clip
        if clip.shape[2] < 2:
            raise ValueError(message("ActionFlowNet", "clip", "at least T=2 frames", f"T={clip.shape[2]}"))
        return torch.cat([clip[:, :, :-1], clip[:, :, 1:]], 1)

    def _pooled(self, features: Tensor) -> Tensor:
        return self.dropout(features.mean((2, 3, 4)))

    def groups(self, lr: float = 3e-4) -> list[dict[str, Any]]:
        """Parameters for Adam by "name": "backbone", "decoder", "fc"; the paper trains all at one rate (AF18 §4.2)."""
        return _groups(self, lr)


class Stacked(nn.Module):
    """A ResNet-18 on the flow that a FlowNet gives, which stays as it is (AF18 §3.3.1, Fig. 2).

    Clip (N, 3, T, H, W), T >= 2 -> scores (N, classes) before the softmax, the mean of those of the T - 1 pairs (the
    paper: T = 2). `flownet` is ActionFlowNet(None, frames="pairs"): load its weights. Its parameters have no gradient
    and its batch norms keep their statistics. `network` is a ResNet without conv1 and pool1 on its finest flow, in
    pixels of a quarter of the frames' side; upsample=True is the paper's alternative: the whole ResNet on that flow,
    resized to the frames and in their pixels ("slightly worse", and costlier).

    Raises `Stacked: argument: expected ..., got ...`, TypeError or ValueError; of a clip, `ActionFlowNet: ...`.
    """

    def __init__(self, classes: int = 101, *, upsample: bool = False, dropout: float = 0.5, width: float = 1.0):
        super().__init__()
        count("Stacked", "classes", classes)
        positive("Stacked", "width", width)
        self.upsample = upsample
        self.flownet = ActionFlowNet(None, frames="pairs", width=width).requires_grad_(False)
        self.network = ResNet(classes, depth=18, in_channels=2, stem=upsample, dropout=dropout, width=width)
        self.train()

    def train(self, mode: bool = True) -> "Stacked":
        super().train(mode)
        self.flownet.eval()
        return self

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """The flows by scale, as of `ActionFlowNet`; "steps", the scores of each pair (N, T-1, classes); "scores"."""
        flows = self.flownet.parts(clip)
        flow = flows["flow4"]
        if self.upsample:
            size = clip.shape[-2:]
            ratio = [big / small for big, small in zip(size, flow.shape[-2:], strict=True)]
            fine = F.interpolate(_frames(flow), size, mode="bilinear", align_corners=False)
            flow = _clip(fine * fine.new_tensor(ratio[::-1]).reshape(2, 1, 1), flow.shape[2])
        return flows | self.network.parts(flow)

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]

    def groups(self, lr: float = 3e-4) -> list[dict[str, Any]]:
        """The parameters of `network`, for Adam at the paper's rate (AF18 §4.2)."""
        return _groups(self, lr)


@in_float32
def flow_loss(
    parts: Mapping[str, Tensor],
    target: Tensor,
    *,
    alpha: Sequence[float],
    mask: Tensor | None = None,
    reduction: str = "sum",
) -> Tensor:
    """End-point errors of all flows in `parts`, weighted and added: AF18 (1) with alpha=(1,), (3) with four.

    Shapes: target (N, 2, S, H, W), u and v in pixels of the frames, S as in `parts` (frames="clip": the last is that to
    frame T + 1), mask (N, 1, S, H, W) of bool -> (). alpha: a number above 0 for each flow, the coarsest first.
    Coarse targets, gradients and errors: as `ops.losses.multiscale_endpoint_error`; so H and W are multiples of the
    flows' sides (AF18: 224).
    """
    flows = {key: flow for key, flow in parts.items() if key.startswith("flow")}
    shapes = {key: (flow, f"N 2 S H/{key[4:]} W/{key[4:]}") for key, flow in flows.items()}
    shapes["target"] = (target, "N 2 S H W")
    if mask is not None:
        shapes["mask"] = (mask, "N 1 S H W")
    given("flow_loss", "auto", boolean=("mask",), **shapes)
    return losses.multiscale_endpoint_error(
        [_frames(flow) for flow in flows.values()],
        _frames(target),
        alpha=alpha,
        mask=None if mask is None else _frames(mask),
        reduction=reduction,
    )


@in_float32
def multitask_loss(
    parts: Mapping[str, Tensor],
    label: Tensor,
    target: Tensor,
    *,
    lam: float,
    alpha: Sequence[float],
    mask: Tensor | None = None,
    reduction: str = "sum",
) -> Tensor:
    """Cross entropy of "scores" + lam * `flow_loss`: AF18 (2) with alpha=(1,), (4) of clips of two frames with four.

    Shapes: label (N,) of integers in 0 .. K-1, target and mask as `flow_loss` -> (). lam is a number above 0.
    reduction is that of both losses. Errors: as `flow_loss` and `ops.losses.cross_entropy`.
    """
    positive("multitask_loss", "lam", lam)
    recognition = losses.cross_entropy(parts["scores"], label, reduction=reduction)
    return recognition + lam * flow_loss(parts, target, alpha=alpha, mask=mask, reduction=reduction)


class _Decoder(nn.Module):
    """From the encoder's maps to flow, scale by scale: deconvolution beside the skip, as in FlowNet (AF18 §3.1, [5]).

    Of pairs, each scale's flow is an output and is also put beside the next one's features.
    """

    def __init__(self, channels: Mapping[str, int], frames: str):
        super().__init__()
        self.flat = frames == "pairs"
        self.deconvolution, self.flow, self.upsampled = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        inside = channels["layer4"]
        for scale, name in _SKIPS.items():
            self.deconvolution[str(scale)] = self._doubled(inside, channels[name])
            if self.flat:
                self.flow[str(2 * scale)] = nn.Conv2d(inside, 2, 3, padding=1, bias=False)
                self.upsampled[str(scale)] = self._doubled(2, 2)
            inside = 2 * channels[name] + 2 * self.flat
        convolution = nn.Conv2d if self.flat else nn.Conv3d
        self.flow["4"] = convolution(inside, 2, 3, padding=1, bias=False)
        for weight in self.parameters():
            nn.init.kaiming_normal_(weight, a=0.1)

    def _doubled(self, inside: int, outside: int) -> nn.Module:
        """A deconvolution to twice the side and, over time, the adjoint of the encoder's 3 frames at stride 2."""
        if self.flat:
            return nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False)
        return nn.ConvTranspose3d(inside, outside, (3, 4, 4), 2, 1, output_padding=(1, 0, 0), bias=False)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        T = maps["layer4"].shape[2]
        level = {name: _frames(map_) if self.flat else map_ for name, map_ in maps.items()}
        x, flows = level["layer4"], {}
        for scale, name in _SKIPS.items():
            skip = level[name]
            joined = [skip, F.leaky_relu(_like(self.deconvolution[str(scale)](x), skip), 0.1)]
            if self.flat:
                flow = flows[f"flow{2 * scale}"] = self.flow[str(2 * scale)](x)
                joined.append(_like(self.upsampled[str(scale)](flow), skip))
            x = torch.cat(joined, 1)
        flows["flow4"] = self.flow["4"](x)
        return {key: _clip(flow, T) if self.flat else flow for key, flow in flows.items()}


def _like(x: Tensor, other: Tensor) -> Tensor:
    """x without what is beyond the sides of `other`, which were rounded up when they were halved."""
    for axis in range(2, x.ndim):
        x = x.narrow(axis, 0, other.shape[axis])
    return x


def _frames(clip: Tensor) -> Tensor:
    """(N, C, T, H, W) as (N T, C, H, W)."""
    return clip.transpose(1, 2).flatten(0, 1)


def _clip(frames: Tensor, T: int) -> Tensor:
    return frames.unflatten(0, (-1, T)).transpose(1, 2)


def _groups(network: nn.Module, lr: float) -> list[dict[str, Any]]:
    """What learns, by child."""
    groups = [
        {"name": name, "params": [p for p in child.parameters() if p.requires_grad], "lr": lr}
        for name, child in network.named_children()
    ]
    return [group for group in groups if group["params"]]


def _learning(network: Any, clip: Tensor) -> Tensor:
    """Sample k is of class k, where there are scores, and everything moves to the right and up."""
    parts = network.parts(clip)
    flows = [flow for key, flow in parts.items() if key.startswith("flow")]
    N, _, _, H, W = clip.shape
    target = clip.new_tensor([8.0, -4.0]).reshape(1, 2, 1, 1, 1).expand(N, 2, flows[0].shape[2], H, W)
    alpha = [1.0] * len(flows)
    if "scores" not in parts:
        return flow_loss(parts, target, alpha=alpha, reduction="mean")
    label = torch.arange(N, device=clip.device)
    return multitask_loss(parts, label, target, lam=1.0, alpha=alpha, reduction="mean")


_RESNET = "He et al. 2016, Table 1, for 3 x k x k kernels without temporal pooling (AF18 §3.1)"
_HALVED = "AF18 §3.1: time is halved with the side; 16 frames become 2 (§3.2)"
_SKIP = "AF18 §3.1: deconvolutions, as the encoder's; as wide as the skip (docs/networks.md)"
_PAIR = "He et al. 2016, Table 1, at 224 x 224 (AF18 §3.3)"
_FOUR = "AF18 §3.3: four outputs, the finest at a quarter of the side (§3.3.1)"
_STACKED = "AF18 §3.3.1: the ResNet without conv1 and pool1 on a quarter of the side"
_ENCODER = (
    Stage(module="backbone.conv1", shape=(64, 16, 112, 112), source=_RESNET),
    Stage(module="backbone.layer1", shape=(64, 16, 56, 56), source=_RESNET),
    Stage(module="backbone.layer2", shape=(128, 8, 28, 28), source=_HALVED),
    Stage(module="backbone.layer3", shape=(256, 4, 14, 14), source=_HALVED),
    Stage(module="backbone.layer4", shape=(512, 2, 7, 7), source="AF18 §3.2"),
)
_DECODER = (
    Stage(module="decoder.deconvolution.16", shape=(256, 4, 14, 14), source=_SKIP),
    Stage(module="decoder.deconvolution.8", shape=(128, 8, 28, 28), source=_SKIP),
    Stage(module="decoder.deconvolution.4", shape=(64, 16, 56, 56), source=_SKIP),
    Stage(module="decoder.flow.4", shape=(2, 16, 56, 56), source="AF18 §3.1: T flows, the last of the future"),
)
_ENCODER_2F = (
    Stage(module="backbone.conv1", shape=(64, 112, 112), source=_PAIR),
    Stage(module="backbone.layer1", shape=(64, 56, 56), source=_PAIR),
    Stage(module="backbone.layer2", shape=(128, 28, 28), source=_PAIR),
    Stage(module="backbone.layer3", shape=(256, 14, 14), source=_PAIR),
    Stage(module="backbone.layer4", shape=(512, 7, 7), source=_PAIR),
)
_DECODER_2F = (
    Stage(module="decoder.flow.32", shape=(2, 7, 7), source=_FOUR),
    Stage(module="decoder.deconvolution.16", shape=(256, 14, 14), source=_SKIP),
    Stage(module="decoder.flow.16", shape=(2, 14, 14), source=_FOUR),
    Stage(module="decoder.deconvolution.8", shape=(128, 28, 28), source=_SKIP),
    Stage(module="decoder.flow.8", shape=(2, 28, 28), source=_FOUR),
    Stage(module="decoder.deconvolution.4", shape=(64, 56, 56), source=_SKIP),
    Stage(module="decoder.flow.4", shape=(2, 56, 56), source=_FOUR),
)
_FC = Stage(module="fc", shape=(101,), source="UCF101")
NETWORKS = (
    Network(
        name="flownet",
        source="AF18 §3.1",
        build=ActionFlowNet,
        arguments={"classes": None},
        input=(3, 16, 224, 224),
        small={"classes": None, "width": 1 / 8},
        small_input=(3, 4, 32, 32),
        reference="actionflownet.actionflownet",
        variants=({"input": (3, 5, 33, 30)},),
        stages=(*_ENCODER, *_DECODER),
        loss=_learning,
    ),
    Network(
        name="flownet-2f",
        source="AF18 §3.3",
        build=ActionFlowNet,
        arguments={"classes": None, "frames": "pairs"},
        input=(3, 2, 224, 224),
        small={"classes": None, "frames": "pairs", "width": 1 / 8},
        small_input=(3, 2, 32, 64),
        reference="actionflownet.actionflownet",
        variants=({"input": (3, 2, 33, 30)},),
        stages=(*_ENCODER_2F, *_DECODER_2F),
        loss=_learning,
    ),
    Network(
        name="actionflownet",
        source="AF18 §3.1, §3.2, Fig. 1",
        build=ActionFlowNet,
        input=(3, 16, 224, 224),
        small={"classes": 4, "width": 1 / 8},
        small_input=(3, 4, 32, 32),
        reference="actionflownet.actionflownet",
        stages=(
            *_ENCODER,
            *_DECODER,
            Stage(module="dropout", shape=(512,), source="AF18 §3.2, §4.2"),
            _FC,
        ),
        loss=_learning,
    ),
    Network(
        name="actionflownet-2f",
        source="AF18 §3.3, §3.3.2, Fig. 3",
        build=ActionFlowNet,
        arguments={"frames": "pairs"},
        input=(3, 2, 224, 224),
        small={"classes": 4, "frames": "pairs", "width": 1 / 8},
        small_input=(3, 3, 32, 64),
        reference="actionflownet.actionflownet",
        stages=(*_ENCODER_2F, *_DECODER_2F, _FC),
        loss=_learning,
    ),
    Network(
        name="actionflownet-stacked",
        source="AF18 §3.3.1, Fig. 2",
        build=Stacked,
        input=(3, 2, 224, 224),
        small={"classes": 4, "width": 1 / 8},
        small_input=(3, 3, 33, 62),
        reference="actionflownet.stacked",
        variants=({"upsample": True},),
        stages=(
            Stage(module="flownet.decoder.flow.4", shape=(2, 56, 56), source=_FOUR),
            Stage(module="network.layer1", shape=(64, 56, 56), source=_STACKED),
            Stage(module="network.layer2", shape=(128, 28, 28), source=_STACKED),
            Stage(module="network.layer3", shape=(256, 14, 14), source=_STACKED),
            Stage(module="network.layer4", shape=(512, 7, 7), source=_STACKED),
            Stage(module="network.fc", shape=(1, 101), source="UCF101; one pair"),
        ),
    ),
)
