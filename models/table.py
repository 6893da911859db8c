"""The networks of the papers as data: what `tests/test_networks.py` builds, walks and compares, one row a network."""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from motionspec.models.layers import DisplacementMap, RepresentationFlow
from motionspec.operations import OPERATIONS
from motionspec.ops import losses

__all__ = ["CAFFE", "STEMS", "TORCHVISION", "UNIT", "Frames", "Network", "Stage", "networks", "operations"]

STEMS = (
    "bn_inception",
    "resnet",
    "off_tsn",
    "off_tsm",
    "off_rfcn",
    "off_dncnn",
    "repflow",
    "disentangled",
    "actionflownet",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A line of a stage table: what the module of this name gives for one sample (its output without the first axis).

    Of a module that is called more than once, what its first call gives.
    """

    module: str
    shape: tuple[int, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What the published weights of a network take a frame as: RGB in [0, 255] in this order, less mean, over scale."""

    order: tuple[int, ...] = (0, 1, 2)
    mean: tuple[float, ...] = (0, 0, 0)
    scale: tuple[float, ...] = (1, 1, 1)

    def __str__(self) -> str:
        order = "".join("RGB"[k] for k in self.order)
        return f"{order} in [0, 255] less {self.mean} over {self.scale}"


CAFFE = Frames(order=(2, 1, 0), mean=(104, 117, 123))
TORCHVISION = Frames(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))
UNIT = Frames(scale=(255, 255, 255))


def classification(network: nn.Module, clip: Tensor) -> Tensor:
    """What most networks learn: sample k is of class k."""
    scores = network(clip)
    label = torch.arange(len(scores), device=scores.device)
    return losses.cross_entropy(scores, label, reduction="mean")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of a paper, or one that a paper's network is built on.

    build(**arguments) is the paper's full size, for clips (N, *input), input = (C, T, H, W); build(**small) is the same
    network, narrow, for clips (N, *small_input) that a test affords. reference is "stem.function" under
    `motionspec.refimpl`: called with the state_dict as float64 arrays, a clip, and those of the arguments that it has a
    parameter for; it gives what `parts` gives. A variant is arguments to put on `small` that change what is computed
    and, where the clip must differ too, its (C, T, H, W) under "input". exempt are regular expressions of the
    parameters that may have no gradient in training, such as biases before a batch norm. loss is what a few samples
    are learned by: loss(network, clip). frames is what the values of a clip should be where they are RGB.
    """

    name: str
    source: str
    build: Callable[..., nn.Module]
    input: tuple[int, int, int, int]
    small: Mapping[str, Any]
    small_input: tuple[int, int, int, int]
    reference: str
    stages: tuple[Stage, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Mapping[str, Any], ...] = ()
    exempt: tuple[str, ...] = ()
    loss: Callable[[nn.Module, Tensor], Tensor] = classification
    frames: Frames = TORCHVISION

    def cases(self) -> list[tuple[dict[str, Any], tuple[int, int, int, int]]]:
        """Arguments and clip shape of the small network and of each variant of it."""
        cases = []
        for variant in ({}, *self.variants):
            arguments = {**self.small, **variant}
            shape = arguments.pop("input", self.small_input)
            cases.append((arguments, shape))
        return cases

    def cost(self) -> tuple[int, int]:
        """Parameters of the full size, and `operations` of one clip; takes neither memory nor a device."""
        with torch.device("meta"):
            network = self.build(**self.arguments).eval()
            clip = torch.empty(1, *self.input)
        return sum(p.numel() for p in network.parameters()), operations(network, clip)


def operations(network: nn.Module, clip: Tensor) -> int:
    """Floating-point operations of a forward, a multiply-add as two.

    Those of convolutions and matrix products, as torch counts them; those of displacement maps and representation flow
    as `motionspec.operations` does, whichever implementation runs.
    """
    more, before = 0, []
    with FlopCounterMode(display=False) as counter, torch.no_grad(), contextlib.ExitStack() as hooks:

        def enter(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            before.append(counter.get_total_flops())

        def leave(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal more
            more += _of(layer, inputs[0].shape) - (counter.get_total_flops() - before.pop())

        for layer in network.modules():
            if isinstance(layer, DisplacementMap | RepresentationFlow):
                hooks.enter_context(layer.register_forward_pre_hook(enter))
                hooks.enter_context(layer.register_forward_hook(leave))
        network(clip)
    return counter.get_total_flops() + more


def _of(layer: nn.Module, clip: torch.Size) -> int:
    """Of an operator's layer on a clip."""
    N, C, T, H, W = clip
    sizes: dict[str, Any] = {"N": N * (T - 1), "C": C, "H": H, "W": W}
    if isinstance(layer, RepresentationFlow):
        return OPERATIONS["tvl1.representation_flow"](sizes | {"n_iter": layer.n_iter})[0]
    assert isinstance(layer, DisplacementMap)
    return OPERATIONS["costvol.displacement_map"](sizes | {"radius": layer.radius})[0]


def networks() -> dict[str, Network]:
    """Every network by name, stem by stem."""
    rows: list[Network] = []
    for stem in STEMS:
        name = f"motionspec.models.{stem}"
        if importlib.util.find_spec(name) is not None:
            rows += importlib.import_module(name).NETWORKS
    return {row.name: row for row in rows}
