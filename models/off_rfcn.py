"""R-FCN with OFF, which detects objects in video frames (OFF20 §6)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionspec.checks import choice, count, message, positive
from motionspec.models.layers import OFF
from motionspec.models.resnet import Trunk
from motionspec.models.table import Network, Stage
from motionspec.ops import detection, losses
from motionspec.ops.checks import given, tensors

__all__ = ["NETWORKS", "RFCN"]

_ANCHORS = 9  # of a cell: those of `detection.anchors`
_STRIDE = 16


class RFCN(nn.Module):
    """R-FCN on ResNet-101 whose map is blended with the motion towards the next frame (OFF20 §6.1, Fig. 5).

    Clip (N, 3, T, H, W), T >= 2 -> the maps that detection needs, of each frame but the last, side by side: (N, C, T-1,
    H/16, W/16), rounded up. `split` takes them apart, `detections` makes boxes of them, `detect` does both. The frames
    are resized so that the shorter side is 600, the longer at most 1000 (FGFA); torchvision's weights, which
    `weights.load` puts into `backbone`, expect RGB in [0, 1] less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).
    How far apart frames are the clip decides.

    The last map of the ResNet is reduced by a 3 x 3 to 1024-d. OFF of frames t and t+1 on it, beside frame t's map
    itself, goes through residual blocks, whose result takes the map's place: its first 512 channels go to the region
    proposal network, the last 512 to R-FCN.
    scales: "single" is that; "multi" has OFF on the 512-d map of layer2 too, whose blocks halve it and hand it to those
      of the 1024-d map; "none" is R-FCN, for which each frame counts, also of T = 1.
    se: squeeze and excitation in the residual blocks. blocks: how many on each scale; the paper says several.
    classes: besides the background. k: parts of a region along each side. depth, width: of the ResNet, as `Trunk` says;
      width multiplies all channels but those of the last maps.
    freeze: conv1, layer1 and all batch norms, with their statistics, stay as they are (FGFA).

    The layers behind the ResNet start at normal 0.01, bias 0, those of OFF at He's. docs/networks.md says what is
    decided here and why.
    Raises `RFCN: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(
        self,
        classes: int = 30,
        *,
        scales: str = "multi",
        se: bool = True,
        blocks: int = 3,
        k: int = 7,
        depth: int = 101,
        freeze: bool = True,
        width: float = 1.0,
    ):
        super().__init__()
        choice("RFCN", "scales", scales, ("multi", "single", "none"))
        count("RFCN", "blocks", blocks)
        positive("RFCN", "width", width)

        def wide(channels: int) -> int:
            return max(1, round(channels * width))

        self.scales, self.freeze = scales, freeze
        self.classes, self.k = count("RFCN", "classes", classes), count("RFCN", "k", k)
        self.sizes = {
            "rpn_scores": 2 * _ANCHORS,
            "rpn_boxes": 4 * _ANCHORS,
            "class_maps": (classes + 1) * k**2,
            "box_maps": 4 * k**2,
        }
        self.backbone = Trunk(depth=depth, width=width, output_stride=_STRIDE)
        half, lower = wide(512), 0
        self.reduce = nn.Conv2d(self.backbone.channels["layer4"], 2 * half, 3, padding=6, dilation=6)
        if scales == "multi":
            lower = wide(512)
            self.off512 = OFF(self.backbone.channels["layer2"], wide(128))
            self.refine512 = _refinement(3 * wide(128), lower, blocks, se, stride=2)
        if scales != "none":
            self.off1024 = OFF(2 * half, wide(128))
            self.refine1024 = _refinement(2 * half + 3 * wide(128) + lower, 2 * half, blocks, se)
        self.rpn = nn.Conv2d(half, half, 3, padding=1)
        heads = tuple(nn.Conv2d(half, channels, 1) for channels in self.sizes.values())
        self.rpn_scores, self.rpn_boxes, self.class_maps, self.box_maps = heads
        for layer in (self.reduce, self.rpn, *heads):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # each has one
        if freeze:
            self.backbone.conv1.requires_grad_(False)
            self.backbone.layer1.requires_grad_(False)
            for norm in self._norms():
                norm.requires_grad_(False)
        self.train()

    def _norms(self) -> list[nn.Module]:
        return [m for m in self.backbone.modules() if isinstance(m, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> "RFCN":
        super().train(mode)
        if self.freeze:
            for norm in self._norms():
                norm.eval()
        return self

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """The maps of the detector, and [Fx | Fy | Ft] that they are made of, as clips of T-1 (or T) frames.

        "off512" (multi), "off1024" (unless none): OFF of each scale, (N, 3 C, T-1, H/8 or H/16, ...); "rpn_scores":
        background of each anchor, then object of each; "rpn_boxes": four numbers for each anchor; "class_maps": k^2 of
        the background, then of each class; "box_maps": k^2 of each of four numbers, as `ops.detection.ps_roi_pool` and
        `decode_boxes` take them; "scores": the last four on channels, in this order.
        """
        frames = self.frame_wise(clip)
        if self.scales != "none" and clip.shape[2] < 2:
            raise ValueError(message("RFCN", "clip", "at least T=2 frames", f"T={clip.shape[2]}"))
        return self.together(frames, self.pair_wise(frames))

    # For `motionspec.models.inference.Streaming`.
    streams = True

    def frame_wise(self, clip: Tensor) -> dict[str, Tensor]:
        """What of a clip belongs to its frames: the maps that OFF takes, or where there is none all maps."""
        given("RFCN", "auto", clip=(clip, "N 3 T H W"))
        frames, x = {}, clip
        for block in range(1, 6):
            x = self.backbone.block(block, x)
            if block == 3 and self.scales == "multi":
                frames["512"] = x
        x = F.relu(self.reduce(_frames(x)))
        if self.scales == "none":
            return {"scores": _clip(self._heads(x), clip.shape[2])}
        return frames | {"1024": _clip(x, clip.shape[2])}

    def pair_wise(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """What belongs to the pairs of these: OFF, and all maps, "scores"."""
        if self.scales == "none":
            return {}
        pairs = {"off1024": self.off1024(frames["1024"])}
        sides = [_frames(frames["1024"][:, :, :-1]), _frames(pairs["off1024"])]
        if self.scales == "multi":
            pairs["off512"] = self.off512(frames["512"])
            sides.append(self.refine512(_frames(pairs["off512"])))
        maps = self._heads(self.refine1024(torch.cat(sides, 1)))
        return pairs | {"scores": _clip(maps, pairs["off1024"].shape[2])}

    def together(self, frames: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts."""
        scores = (frames | pairs)["scores"]
        return {key: pair for key, pair in pairs.items() if key != "scores"} | self.split(scores) | {"scores": scores}

    def _heads(self, x: Tensor) -> Tensor:
        first, last = x.chunk(2, 1)
        proposing = F.relu(self.rpn(first))
        maps = [self.rpn_scores(proposing), self.rpn_boxes(proposing), self.class_maps(last), self.box_maps(last)]
        return torch.cat(maps, 1)

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]

    def split(self, maps: Tensor) -> dict[str, Tensor]:
        """What the network gave, (N, C, ...), by name: views of it."""
        return dict(zip(self.sizes, maps.split([*self.sizes.values()], 1), strict=True))

    def detect(self, clip: Tensor, **options: Any) -> Tensor:
        """The objects in each frame of a clip: `detections` of what the network gives, with its options."""
        with torch.no_grad():
            return self.detections(self(clip), *clip.shape[-2:], **options)

    @torch.no_grad()
    def detections(
        self,
        maps: Tensor,
        height: int,
        width: int,
        *,
        proposals: int = 300,
        overlap: float = 0.3,
        threshold: float = 0.001,
    ) -> Tensor:
        """The objects in frames of height x width, from what the network (exported or not) gave for them.

        maps (N, C, T, H/16, W/16) -> (D, 7), a line each: image, class, score, x1, y1, x2, y2, corners inclusive, as
        `metrics.mean_average_precision` takes it; image n T + t is frame t of clip n, class 0 the first that is not the
        background. Image by image, by falling score. proposals: how many regions of a frame are looked at; they have 16
        pixels at least on either side. A class keeps its boxes above the `threshold` but those that overlap a better
        one by more than `overlap`.

        How many there are depends on the values, so that it is in no graph: RuntimeError where one is being made.
        """
        if torch.compiler.is_compiling():
            expected = (
                "to run outside a graph, for the values decide how many boxes there are: export the network itself, "
                "and give detections what that returns"
            )
            raise RuntimeError(message("RFCN", "detections", expected, "a call being compiled or exported"))
        (maps,) = tensors("RFCN", "auto", maps=(maps, f"N {sum(self.sizes.values())} T h w"))
        h, w = (-(-count("RFCN", name, side) // _STRIDE) for name, side in (("height", height), ("width", width)))
        if maps.shape[-2:] != (h, w):
            expected = f"{h} x {w} cells for frames of {height} x {width}"
            raise ValueError(message("RFCN", "maps", expected, " x ".join(map(str, maps.shape[-2:]))))
        anchors = detection.anchors(h, w, _STRIDE, dtype=maps.dtype, device=maps.device)
        limits = torch.tensor([width, height] * 2, dtype=maps.dtype, device=maps.device) - 1
        found = [maps.new_zeros(0, 7)]
        for image, frame in enumerate(_frames(maps)):
            part = self.split(frame[None])
            objects = part["rpn_scores"].unflatten(1, (2, _ANCHORS)).softmax(1)[0, 1].permute(1, 2, 0).flatten()
            deltas = part["rpn_boxes"].unflatten(1, (_ANCHORS, 4))[0].permute(2, 3, 0, 1).flatten(0, 2)
            regions, _, valid = detection.propose(
                deltas, objects, anchors, height=height, width=width, post_nms=proposals
            )
            regions = regions[valid]
            rois = F.pad(regions, (1, 0))
            scores = detection.ps_roi_pool(part["class_maps"], rois, self.k, 1 / _STRIDE).mean((2, 3)).softmax(1)
            moved = detection.ps_roi_pool(part["box_maps"], rois, self.k, 1 / _STRIDE).mean((2, 3))
            boxes = detection.decode_boxes(moved, regions).clamp(min=0).minimum(limits)
            lines = []
            for label in range(self.classes):
                score = scores[:, label + 1]
                line = torch.cat([torch.full_like(boxes[:, :2], image), score[:, None], boxes], 1)
                line[:, 1] = label
                line = line[score > threshold]
                lines.append(line[detection.nms(line[:, 3:], line[:, 2], overlap)])
            line = torch.cat(lines)
            found.append(line[line[:, 2].argsort(descending=True, stable=True)])
        return torch.cat(found)


def _frames(clip: Tensor) -> Tensor:
    """Clips (N, C, T, H, W) as frames (N T, C, H, W)."""
    return clip.transpose(1, 2).flatten(0, 1)


def _clip(frames: Tensor, T: int) -> Tensor:
    return frames.unflatten(0, (-1, T)).transpose(1, 2)


def _refinement(inside: int, outside: int, blocks: int, se: bool, stride: int = 1) -> nn.Sequential:
    first = _Block(inside, outside, se, stride)
    return nn.Sequential(first, *(_Block(outside, outside, se) for _ in range(blocks - 1)))


class _Block(nn.Module):
    """Bottleneck of He et al. without batch norm, the stride on its 3 x 3; the branch is weighted if `se`."""

    def __init__(self, inside: int, outside: int, se: bool, stride: int = 1):
        super().__init__()
        inner = max(1, outside // 4)
        self.conv1 = nn.Conv2d(inside, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1)
        self.conv3 = nn.Conv2d(inner, outside, 1)
        self.squeeze = _Squeeze(outside) if se else nn.Identity()
        self.branch = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1, stride)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # each has one

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(self.squeeze(y) + self.branch(x))


class _Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al.): a weight between 0 and 1 for each channel, from the means of all."""

    def __init__(self, channels: int):
        super().__init__()
        self.down = nn.Linear(channels, max(1, channels // 16))
        self.up = nn.Linear(max(1, channels // 16), channels)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * weight[:, :, None, None]


def whole_frame(network: nn.Module, clip: Tensor) -> Tensor:
    """What R-FCN learns of a region, its class, with the whole frame as the region: sample k is of class k."""
    assert isinstance(network, RFCN)
    maps = network.parts(clip)["class_maps"]
    N, (H, W) = maps.shape[0], clip.shape[-2:]
    regions = torch.tensor([[n, 0, 0, W - 1, H - 1] for n in range(N)], dtype=maps.dtype, device=maps.device)
    votes = detection.ps_roi_pool(maps[:, :, 0], regions, network.k).mean((2, 3))
    return losses.cross_entropy(votes, torch.arange(1, N + 1, device=maps.device), reduction="mean")


_HE = "He et al. 2016, Table 1, which OFF20 §6.1 takes; at 600 x 1000 (FGFA)"
_FIGURE = "OFF20 Fig. 5"
_RFCN = "OFF20 §6.1, R-FCN"
NETWORKS = (
    Network(
        name="off-rfcn",
        source="OFF20 §6",
        build=RFCN,
        input=(3, 2, 600, 1000),
        small={"classes": 3, "depth": 18, "width": 1 / 8, "k": 2, "blocks": 1},
        small_input=(3, 2, 43, 50),
        reference="off_rfcn.rfcn",
        variants=(
            {"scales": "single", "se": False, "blocks": 2, "input": (3, 3, 33, 16)},
            {"scales": "none", "depth": 50, "width": 1 / 32, "input": (3, 1, 17, 40)},
        ),
        stages=(
            Stage(module="backbone.conv1", shape=(64, 300, 500), source=_HE),
            Stage(module="backbone.layer2", shape=(512, 75, 125), source=f"{_HE}; {_FIGURE}: 512-d"),
            Stage(module="backbone.layer4", shape=(2048, 38, 63), source=f"{_HE}; R-FCN: stride 16"),
            Stage(module="reduce", shape=(1024, 38, 63), source="OFF20 §6.1: 3 x 3 to 1024"),
            Stage(module="off512", shape=(384, 1, 75, 125), source=f"{_FIGURE}; §4.1.3: Fx, Fy, Ft of 128"),
            Stage(module="refine512", shape=(512, 38, 63), source=f"{_FIGURE}; docs/networks.md"),
            Stage(module="off1024", shape=(384, 1, 38, 63), source=f"{_FIGURE}; §4.1.3: Fx, Fy, Ft of 128"),
            Stage(module="refine1024", shape=(1024, 38, 63), source=f"{_FIGURE}: split to 512 and 512"),
            Stage(module="rpn", shape=(512, 38, 63), source=_RFCN),
            Stage(module="rpn_scores", shape=(18, 38, 63), source=f"{_RFCN}: 9 anchors"),
            Stage(module="rpn_boxes", shape=(36, 38, 63), source=f"{_RFCN}: 9 anchors"),
            Stage(module="class_maps", shape=(1519, 38, 63), source="OFF20 §6.1: k = 7; §6.2: 30 classes"),
            Stage(module="box_maps", shape=(196, 38, 63), source=f"{_RFCN}: one box for all classes"),
        ),
        loss=whole_frame,
    ),
)
