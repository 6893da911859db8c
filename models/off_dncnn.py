"""DnCNN with OFF, which takes compression artifacts out of video frames (OFF20 §7)."""

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import count, message, positive
from motionspec.models.layers import OFF
from motionspec.models.table import UNIT, Network, Stage
from motionspec.ops.checks import given

__all__ = ["NETWORKS", "DnCNN"]


class DnCNN(nn.Module):
    """DnCNN that sees the motion between a frame and its neighbours (OFF20 §7.2, Fig. 6).

    Clip (N, 3, frames, H, W) -> frame t restored, (N, 3, H, W), in the units of the clip (RGB in [0, 1], say), not
    clipped: D = I - N, N being what 20 convolutions of 3 x 3, 64 wide, without batch norm, find. H and W are any.

    frames: 2 are (t, t+1), 3 are (t-1, t, t+1); 1 is DnCNN as it is, without OFF. Each frame goes through the first
    three convolutions; each pair of neighbours through an OFF layer and five more; what they give is added to the
    feature of frame t, which goes through the rest. All frames share weights, and so do both pairs. rest: how many
    convolutions that is; 17 make the 20, 18 are printed too. width multiplies all channels.

    ReLU behind every convolution but the last (the paper says every one, but N has both signs) and the 1x1 in the OFF
    layer. Weights start as Xavier's uniform (§7.3), biases at 0. docs/networks.md says what is decided here and why.
    Raises `DnCNN: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(self, *, frames: int = 3, rest: int = 17, width: float = 1.0):
        super().__init__()
        if count("DnCNN", "frames", frames) > 3:
            raise ValueError(message("DnCNN", "frames", "1, 2 or 3", frames))
        count("DnCNN", "rest", rest)
        wide = max(1, round(64 * positive("DnCNN", "width", width)))
        self.frames = frames
        self.features = _convolutions([3, wide, wide, wide])
        if frames > 1:
            self.off = OFF(wide, wide)
            self.motion = _convolutions([3 * wide, *[wide] * 5])
        self.rest = _convolutions([*[wide] * rest, 3], last_relu=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # each has one

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """The restored frame, its noise, and what is seen between the frames.

        "off": [Fx | Fy | Ft] of each pair (N, 3 C, pairs, H, W), "motion": what is made of it and added, (N, C, pairs,
        H, W), both only with 2 frames or 3; "noise": N; "scores": D, the restored frame.
        """
        given("DnCNN", "auto", clip=(clip, f"N 3 {self.frames} H W"))
        frames = self.frame_wise(clip)
        return self.together(frames, self.pair_wise(frames))

    # For `motionspec.models.inference.Streaming`.
    streams = True

    def frame_wise(self, clip: Tensor) -> dict[str, Tensor]:
        """Frames of a clip and their features."""
        given("DnCNN", "auto", clip=(clip, "N 3 T H W"))
        return {"frames": clip, "features": _each(self.features, clip)}

    def pair_wise(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "off" and "motion" of the pairs of these."""
        if self.frames == 1:
            return {}
        off = self.off(frames["features"])
        return {"off": off, "motion": _each(self.motion, off)}

    def together(self, frames: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts."""
        t = (self.frames - 1) // 2
        x = frames["features"][:, :, t]
        noise = self.rest(x + pairs["motion"].sum(2) if pairs else x)
        return pairs | {"noise": noise, "scores": frames["frames"][:, :, t] - noise}

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]


def _each(layers: nn.Module, clip: Tensor) -> Tensor:
    """What layers of maps give for each map of a clip, as a clip."""
    maps: Tensor = layers(clip.transpose(1, 2).flatten(0, 1))
    return maps.unflatten(0, (-1, clip.shape[2])).transpose(1, 2)


def _convolutions(channels: list[int], *, last_relu: bool = True) -> nn.Sequential:
    """conv1, relu1, conv2, relu2 ... from one number of channels to the next."""
    layers: dict[str, nn.Module] = {}
    for k, (inside, outside) in enumerate(pairwise(channels), start=1):
        layers[f"conv{k}"] = nn.Conv2d(inside, outside, 3, padding=1)
        if last_relu or k < len(channels) - 1:
            layers[f"relu{k}"] = nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(layers))


def restoration(network: nn.Module, clip: Tensor) -> Tensor:
    """What a DnCNN learns: to take noise out. Here the noise is what a 3 x 3 mean of a frame leaves of it."""
    middle = clip[:, :, (clip.shape[2] - 1) // 2]
    return F.mse_loss(network(clip), F.avg_pool2d(middle, 3, 1, 1))


_WHOLE = "OFF20 §7.2: 448 x 256, no up-sampling or down-sampling"
NETWORKS = (
    Network(
        name="off-dncnn",
        source="OFF20 §7",
        build=DnCNN,
        frames=UNIT,
        input=(3, 3, 256, 448),
        small={"width": 1 / 4, "rest": 5},  # all 17 learn too slowly for a test
        small_input=(3, 3, 13, 10),
        reference="off_dncnn.dncnn",
        variants=(
            {"frames": 1, "rest": 17, "input": (3, 1, 1, 8)},
            {"frames": 2, "rest": 18, "input": (3, 2, 9, 11)},
        ),
        stages=(
            Stage(module="features", shape=(64, 256, 448), source=_WHOLE),
            Stage(
                module="off", shape=(192, 2, 256, 448), source="OFF20 §4.1.3: Fx, Fy, Ft; §7.2: of (t-1, t), (t, t+1)"
            ),
            Stage(module="motion", shape=(64, 256, 448), source="OFF20 §7.2: added to the feature, so of its size"),
            Stage(module="rest", shape=(3, 256, 448), source=_WHOLE),
        ),
        loss=restoration,
    ),
)
