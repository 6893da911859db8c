"""Disentangled dynamics: static appearance, apparent motion and appearance change of a snippet (DC18 §3).

Of the paper's supplement, which had the layers, nothing is left: `docs/networks.md` says what is decided here, and why.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from motionspec.checks import choice, count, message, positive, radii, share
from motionspec.models.bn_inception import BNInception
from motionspec.models.layers import DisplacementMap, WarpedDifference
from motionspec.models.table import CAFFE, Network, Stage
from motionspec.models.weights import mean_over_colours
from motionspec.ops import costvol, losses, pool3d, tvl1
from motionspec.ops.checks import given

__all__ = ["BRANCHES", "NETWORKS", "Disentangled"]

BRANCHES = ("static", "motion", "change")
_FLOWS = ("map", "wta", "tvl1")
_POOLED = ("pool2", "inception_3c", "inception_4e")  # what "gradual" pooling over time follows (DC18 §4.2)


class Disentangled(nn.Module):
    """The network of DC18 Figure 2: three branches on one convolution, their scores averaged.

    Clip (N, 3, T, H, W) of one snippet of T = `frames` consecutive frames, or of several in turn, as TSN samples them
    (Table 5), H, W >= 7 -> scores (N, classes) before the softmax: the mean over snippets and branches. Pairs of frames
    are formed within snippets. Published weights of BN-Inception expect BGR in [0, 255] less 104, 117, 123.

    The shared map is BN-Inception's conv1 with batch norm and ReLU, 64 channels, at `stride` 1 (the paper's 224 x 224)
    or 2 (112 x 112). On it stand `branches`, some or all of
      "static" (§3.2): the rest of BN-Inception, frame by frame, with maxima over two frames each after pool2, 3c and 4e
        (pooling="gradual"), and over all that are left at the end, or only there ("late", Table 1);
      "motion" (§3.3): BN-Inception of the frames - 1 displacement maps, 2 channels each;
      "change" (§3.4): BN-Inception of the frames - 1 warped differences, of the shared map (difference="feature", 64
        channels each) or of the frames ("rgb", 3, Table 4); warping=False takes them unwarped.
    Each ends with the mean over the map, 1024 features, dropout and a linear layer. flow is what moves (Table 3):
      "map": the displacement map within `radius`, None: 10 over the stride, at temperature tau. It learns from both
        branches that use it.
      "wta": winner takes all, in whole pixels, without a derivative.
      "tvl1": `ops.tvl1.pyramid_flow` of the frames, without a derivative; they must span [0, 255], less any mean. It
        compiles, but cannot be exported.
    Unused parts are not built; a network of some branches fits the weights of the whole.

    dropout: TSN's 0.8, the paper gives none. partial_bn (§4.1, for UCF101): the batch norms keep their statistics in
    training but for the first of the shared map, of the displacements and of the differences. width multiplies the
    channels. The classifiers start at normal 0.001, bias 0, as TSN's.
    Raises `Disentangled: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(
        self,
        classes: int = 101,
        *,
        frames: int = 8,
        stride: int = 1,
        branches: Sequence[str] = BRANCHES,
        flow: str = "map",
        radius: int | tuple[int, int] | None = None,
        tau: float = 0.03,
        difference: str = "feature",
        warping: bool = True,
        pooling: str = "gradual",
        dropout: float = 0.8,
        partial_bn: bool = True,
        width: float = 1.0,
    ):
        super().__init__()
        name = "Disentangled"
        count(name, "classes", classes)
        positive(name, "width", width)
        self.width = width
        chosen = tuple(branch for branch in BRANCHES if branch in branches)
        if not chosen or len(chosen) != len(branches):
            expected = "a tuple of some of " + ", ".join(map(repr, BRANCHES))
            raise ValueError(message(name, "branches", expected, repr(branches)))
        if stride not in (1, 2):
            raise ValueError(message(name, "stride", "1 or 2", stride))
        choice(name, "flow", flow, _FLOWS)
        choice(name, "difference", difference, ("feature", "rgb"))
        choice(name, "pooling", pooling, ("gradual", "late"))
        pairs = count(name, "frames", frames, least=1 if chosen == ("static",) else 2) - 1
        radius = 10 // stride if radius is None else radius
        radii(name, radius)
        positive(name, "tau", tau)

        self.branches, self.frames, self.stride, self.radius = chosen, frames, stride, radius
        self.flow, self.difference, self.warping, self.pooling = flow, difference, warping, pooling
        self.partial_bn = partial_bn
        self.moves = "motion" in chosen or ("change" in chosen and warping)
        of_features = "change" in chosen and difference == "feature"
        base = BNInception(stride=stride, width=width)
        self.channels = base.channels
        stages = OrderedDict(base.named_children())
        conv1 = stages.pop("conv1")
        shared = "static" in chosen or of_features or (self.moves and flow != "tvl1")
        self.conv1 = conv1 if shared else nn.Identity()
        if self.moves and flow == "map":
            self.displacement = DisplacementMap(radius, tau=tau)
        if "static" in chosen:
            self.static = nn.Sequential(stages)
        if "motion" in chosen:
            self.motion = BNInception(2 * pairs, stride=2 // stride, width=width)
        if "change" in chosen:
            self.warped_difference = WarpedDifference()
            inside = base.channels["conv1"] if of_features else 3
            self.change = BNInception(inside * pairs, stride=2 // stride, width=width)
        self.dropout = nn.Dropout(share(name, "dropout", dropout))
        classifiers = {branch: nn.Linear(base.channels["inception_5b"], classes) for branch in chosen}
        for fc in classifiers.values():
            nn.init.normal_(fc.weight, std=0.001)
            nn.init.zeros_(fc.bias)
        self.fc = nn.ModuleDict(classifiers)
        self.train()

    def train(self, mode: bool = True) -> "Disentangled":
        super().train(mode)
        if self.partial_bn:
            for name, module in self.named_modules():
                if isinstance(module, nn.BatchNorm2d) and "conv1." not in name:
                    module.eval()
        return self

    def parts(self, clip: Tensor) -> dict[str, Tensor]:
        """The scores of each branch by its name (N, classes) and their mean, "scores"; the maps that they look at.

        "displacement" (N, 2, S, h, w): u (right), v (down), in pixels of the shared map, whichever the flow; "warped
        difference", or "difference" if warping=False, (N, 64, S, h, w), of "rgb" (N, 3, S, h, w). S = T - 1 for one
        snippet; of several all pairs in turn. h, w are those of the shared map: H, W over the stride, rounded up.
        """
        given("Disentangled", "auto", clip=(clip, "N 3 T H W"))
        N, _, T, H, W = clip.shape
        if T % self.frames:
            expected = f"T a multiple of frames={self.frames}"
            raise ValueError(message("Disentangled", "clip", expected, f"T={T}"))
        if min(H, W) < 7:
            raise ValueError(message("Disentangled", "clip", "H and W of at least 7", tuple(clip.shape)))
        snippets = T // self.frames
        rgb = clip.unflatten(2, (snippets, self.frames)).transpose(1, 2).flatten(0, 1)
        frames = self.frame_wise(rgb)
        parts = self.together(frames, self.pair_wise(frames))
        parts = {key: part.unflatten(0, (N, snippets)) for key, part in parts.items()}
        return {
            key: part.transpose(1, 2).flatten(2, 3) if part.ndim == 6 else losses.consensus(part)
            for key, part in parts.items()
        }

    # For `motionspec.models.inference.Streaming`: of one snippet.
    streams = True

    def frame_wise(self, rgb: Tensor) -> dict[str, Tensor]:
        """Snippets (N, 3, T, H, W) and their shared maps (N, C, T, h, w)."""
        return {"rgb": rgb, "low": _each_frame(self.conv1, rgb)}

    def pair_wise(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """The maps of the pairs of these, as `parts` names them."""
        rgb, low = frames["rgb"], frames["low"]
        # The operators take each frame as planes: turned once where the channels are innermost, not once for each use.
        low = low.transpose(1, 2).contiguous().transpose(1, 2)
        maps = {}
        if self.moves:
            maps["displacement"] = self._flow(rgb, low)
        if "change" in self.branches:
            # conv1's windows are centred on every stride-th pixel, so these are the frames on the grid of its map.
            of = low if self.difference == "feature" else rgb[..., :: self.stride, :: self.stride]
            if self.warping:
                maps["warped difference"] = self.warped_difference(of, maps["displacement"])
            else:
                maps["difference"] = of[:, :, 1:] - of[:, :, :-1]
        return maps

    def together(self, frames: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scores of the branches and their mean, of each snippet; and the maps."""
        features = {}
        if "static" in self.branches:
            features["static"] = self._static(frames["low"])
        if "motion" in self.branches:
            features["motion"] = self.motion(_stacked(pairs["displacement"]))
        if "change" in self.branches:
            features["change"] = self.change(_stacked([*pairs.values()][-1]))
        scores = {branch: self.fc[branch](self.dropout(x.mean((2, 3)))) for branch, x in features.items()}
        return {**pairs, **scores, "scores": losses.consensus(torch.stack([*scores.values()], 1))}

    def forward(self, clip: Tensor) -> Tensor:
        return self.parts(clip)["scores"]

    @torch.no_grad()
    def start_from(self, backbone: BNInception) -> None:
        """All branches begin with the weights of a BN-Inception of RGB and the same width, such as ImageNet's (§4.1).

        The first convolutions of motion and change take its mean over the colours (TSN); the classifiers stay.
        """
        if backbone.in_channels != 3 or backbone.channels != self.channels:
            expected = f"a BNInception of 3 channels, then {self.channels['conv1']}"
            got = f"{backbone.in_channels}, then {backbone.channels['conv1']}"
            raise ValueError(message("Disentangled", "backbone", expected, got))
        weights, first = backbone.state_dict(), "conv1.7x7_s2.conv.weight"
        for key, own in self.state_dict().items():
            module, _, rest = key.partition(".")
            if module != "fc":
                weight = weights[key if module == "conv1" else rest]
                own.copy_(mean_over_colours(weight, own.shape[1]) if module != "conv1" and rest == first else weight)

    def groups(self, lr: float = 0.001, faster: float = 5) -> list[dict[str, Any]]:
        """Parameters for an optimizer: motion and change learn at 5 times the rate, as on UCF101 (§4.1).

        Of the convolution that all share the paper says nothing: it learns at that of the static branch, as the layers
        that ImageNet's weights fit. On Kinetics all learn at 0.01: faster=1.
        """
        modules = {"shared": [self.conv1]} | {b: [self.get_submodule(b), self.fc[b]] for b in self.branches}
        rates = {"shared": lr, "static": lr, "motion": faster * lr, "change": faster * lr}
        parameters = {name: [p for module in group for p in module.parameters()] for name, group in modules.items()}
        return [{"name": name, "params": group, "lr": rates[name]} for name, group in parameters.items() if group]

    def _static(self, low: Tensor) -> Tensor:
        """Snippets (N, C, T, h, w) -> (N, 1024, H/32, W/32)."""
        # Every second pixel of conv1 at stride 1 is conv1 at stride 2, which BN-Inception goes on from.
        x = low[..., ::2, ::2] if self.stride == 1 else low
        for name, stage in self.static.named_children():
            x = _each_frame(stage, x)
            if self.pooling == "gradual" and name in _POOLED:
                x = pool3d.gradual(x, spatial="none")
        return pool3d.late(x)

    def _flow(self, rgb: Tensor, low: Tensor) -> Tensor:
        """Snippets (N, 3, T, H, W) and their maps (N, C, T, h, w) -> (N, 2, T-1, h, w) in pixels of the map."""
        if self.flow == "map":
            return self.displacement(low)
        if self.flow == "wta":
            return _each_pair(lambda a, b: costvol.hard_displacement(costvol.cosine(a, b, radius=self.radius)), low)
        if torch.compiler.is_exporting():
            expected = "'map' or 'wta' to export, because each iteration of TV-L1 would be written out"
            raise ValueError(message("Disentangled", "flow", expected, "'tvl1'"))
        grey = rgb.detach().mean(1, keepdim=True)  # whatever the order of the channels
        return _each_pair(tvl1.pyramid_flow, grey)[..., :: self.stride, :: self.stride] / self.stride


def _each_frame(layer: nn.Module, clip: Tensor) -> Tensor:
    """The layer on all frames of a clip (N, C, T, H, W): a clip of what it gives."""
    frames = layer(clip.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)


def _each_pair(flow: Callable[[Tensor, Tensor], Tensor], clip: Tensor) -> Tensor:
    """The flow of each frame of a clip (N, C, T, H, W) to the next: (N, 2, T-1, H, W)."""
    return torch.stack([flow(clip[:, :, t], clip[:, :, t + 1]) for t in range(clip.shape[2] - 1)], 2)


def _stacked(clip: Tensor) -> Tensor:
    """A clip (N, C, T, H, W) as one map (N, T C, H, W): the channels of each frame together, as TSN stacks flow."""
    return clip.transpose(1, 2).flatten(1, 2)


_TEXT = "DC18 §3.1: 64 channels; §4.4: 224 x 224"
_BASE = "DC18 §3.1: follows BN-Inception, whose side this is"
_GATHERED = "DC18 §3.2-§3.4: 1024 features"
NETWORKS = (
    Network(
        name="disentangled",
        source="DC18 §3",
        build=Disentangled,
        frames=CAFFE,
        input=(3, 8, 224, 224),
        small={"classes": 3, "width": 1 / 8, "frames": 3, "radius": 2},
        small_input=(3, 3, 24, 19),
        reference="disentangled.disentangled",
        variants=(
            {"stride": 2, "radius": (1, 3), "tau": 0.1, "input": (3, 6, 28, 21)},
            {"flow": "wta", "difference": "rgb"},
            {"difference": "rgb", "branches": ("change",), "frames": 2, "input": (3, 2, 21, 19)},
            {"flow": "tvl1", "difference": "rgb", "stride": 2, "frames": 2, "input": (3, 2, 17, 20)},
            {"branches": ("static",), "frames": 9, "input": (3, 9, 24, 19)},
            {"branches": ("static", "change"), "warping": False, "pooling": "late"},
        ),
        stages=(
            Stage(module="conv1", shape=(64, 224, 224), source=_TEXT),
            Stage(module="displacement", shape=(2, 7, 224, 224), source="DC18 §3.3; §4.4: 224 x 224; §4.2: 8 frames"),
            Stage(module="warped_difference", shape=(64, 7, 224, 224), source="DC18 §3.4: of feature maps"),
            Stage(module="static.pool1", shape=(64, 56, 56), source=_BASE),
            Stage(module="static.pool2", shape=(192, 28, 28), source=_BASE),
            Stage(module="static.inception_3c", shape=(576, 14, 14), source=_BASE),
            Stage(module="static.inception_4e", shape=(1056, 7, 7), source=_BASE),
            Stage(module="static.inception_5b", shape=(1024, 7, 7), source=_GATHERED),
            Stage(module="motion.conv1", shape=(64, 112, 112), source=_BASE),
            Stage(module="motion.inception_5b", shape=(1024, 7, 7), source=_GATHERED),
            Stage(module="change.conv1", shape=(64, 112, 112), source=_BASE),
            Stage(module="change.inception_5b", shape=(1024, 7, 7), source=_GATHERED),
            Stage(module="fc.static", shape=(101,), source="DC18 §4.1: UCF101"),
            Stage(module="fc.motion", shape=(101,), source="DC18 §4.1: UCF101"),
            Stage(module="fc.change", shape=(101,), source="DC18 §4.1: UCF101"),
        ),
        exempt=(r"(motion\.|change\.)?conv1\.7x7_s2\.conv\.bias",),  # the batch norm behind it takes the mean away
    ),
)
