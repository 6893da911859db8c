"""Who else computes the same: plain forms, torch.compile of them, and other people's libraries.

That a peer of `tests/test_peers.py` computes the same thing is what the judge said there; all, the plain forms too, are
compared with the operator on the very inputs that are timed, and left untimed where they differ.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import adapters
import numpy as np
import plain
import torch
from test_peers import PEERS, asked
from workloads import TARGETS, Workload

from motionspec import ops
from motionspec.fused import FUSED
from motionspec.refimpl.equations import EQUATIONS


@dataclass(frozen=True)
class Peer:
    """A function of the equation's arguments by position, and of those options that it takes."""

    name: str
    function: Callable[..., Any]
    package: str = "torch"  # that must be installed
    framework: str = "torch"
    gradient: bool = True
    compiled: bool = False  # by its first call, which says nothing of its time then

    @property
    def installed(self) -> bool:
        """Whether it can be called here."""
        return importlib.util.find_spec(self.package) is not None


PACKAGES = {"opencv": "cv2"}  # where an adapter's prefix is not the package
# That they are defined for sides of length 1 as well is no matter here.
AGREES = ("", "sides of length 1 (all else agrees)")
# Where minutes would pass: the eager form of a whole pyramid.
NO_EAGER = {"tvl1.pyramid_flow"}


def judged() -> dict[str, list[dict[str, Any]]]:
    """By equation, the variants in which some peer agrees."""
    found: dict[str, list[dict[str, Any]]] = {}
    for equation, _, words, differs in PEERS:
        if differs in AGREES:
            found.setdefault(equation, []).append(asked(words)[1])
    return found


def _adapters(workload: Workload) -> list[Peer]:
    """Those of `tests/test_peers.py` that agree in this workload's variant: named there, taken, or the row's first."""
    found = []
    for equation, peer, words, differs in PEERS:
        if equation != workload.operator or differs not in AGREES:
            continue
        adapter, variant, _, gradient = asked(words)
        function = getattr(adapters, adapter)
        told = dict(EQUATIONS[equation].variants[0]) | variant
        free = taken(function, workload.options).keys() - variant.keys()
        if all(k in free or str(told.get(k)) == str(v) for k, v in workload.options.items()):
            prefix = adapter.partition("_")[0]
            framework = "torch" if prefix in ("torch", "kornia", "torchmetrics") else "numpy"
            found.append(Peer(peer, function, PACKAGES.get(prefix, prefix), framework, gradient))
    return found


def _tvl1(image0: np.ndarray, image1: np.ndarray) -> np.ndarray:
    import cv2

    grey = [image[0, 0].round().astype(np.uint8) for image in (image0, image1)]
    return cv2.optflow.DualTVL1OpticalFlow_create().calc(*grey, None).transpose(2, 0, 1)[None]


def _skimage_tvl1(image0: np.ndarray, image1: np.ndarray) -> np.ndarray:
    from skimage.registration import optical_flow_tvl1

    return np.stack(optical_flow_tvl1(image0[0, 0] / 255, image1[0, 0] / 255)[::-1])[None]


def _sampler(f0: torch.Tensor, f1: torch.Tensor, radius: int) -> torch.Tensor:
    from spatial_correlation_sampler import spatial_correlation_sample

    unit = (torch.nn.functional.normalize(f, dim=1) for f in (f0, f1))
    return spatial_correlation_sample(*unit, kernel_size=1, patch_size=2 * radius + 1).permute(0, 3, 4, 1, 2)


def _flex(*arguments: Any, **options: Any) -> torch.Tensor:
    return plain.flex_displacement_map(*arguments, **options, compiled=_compiled_flex())


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _compiled_slices(f1: torch.Tensor, f2: torch.Tensor, n_iter: int) -> torch.Tensor:
    return plain.representation_flow(f1, f2, n_iter=n_iter, wrap=_compiled_iteration)


@functools.cache
def _compiled_iteration(step: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(step, dynamic=False)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        return _compile(function, tuple(options.items()))(*arguments)

    return call


@functools.cache
def _compile(function: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return torch.compile(functools.partial(function, **dict(options)), dynamic=False)


def eager(operator: str) -> Callable[..., Any]:
    """The operator in plain PyTorch."""
    stem, name = operator.split(".")
    return functools.partial(getattr(getattr(ops, stem), name), impl="torch")


# Plain forms by operator.
PLAIN: dict[str, dict[str, Callable[..., Any]]] = {
    "off.spatial_gradient": {"depthwise convolutions": plain.depthwise_gradient},
    "off.features": {"depthwise convolutions": plain.depthwise_features},
    "off.clip_features": {"depthwise convolutions": plain.depthwise_clip_features},
    "warp.bilinear": {"grid_sample": plain.grid_sample},
    "warp.motion": {"grid_sample": plain.grid_sample_motion},
    "warp.difference": {"grid_sample": plain.grid_sample_difference},
    "losses.endpoint_error": {"norm of difference": plain.norm_of_difference},
    "tvl1.representation_flow": {
        "released layer": plain.released_layer,
        "slices": plain.representation_flow,
        "compiled slices": _compiled_slices,  # an iteration at a time: of all at once inductor makes slower code
    },
    "costvol.displacement_map": {"loop": plain.displacement_loop},
}
# These are compiled whole as well. The operator's eager form of `off` is slices, which inductor fuses.
COMPILED = {
    "off.features": {"compiled eager": _compiled(eager("off.features"))},
    "off.clip_features": {"compiled eager": _compiled(eager("off.clip_features"))},
    "warp.difference": {"compiled grid_sample": _compiled(plain.grid_sample_difference)},
    "losses.endpoint_error": {"compiled norm of difference": _compiled(plain.norm_of_difference)},
    "costvol.displacement_map": {"compiled loop": _compiled(plain.displacement_loop)},
}
# inductor takes minutes on two cores.
CUDA_ONLY = ("compiled loop", "FlexAttention")
ELSEWHERE = {
    "tvl1.pyramid_flow": [
        Peer("OpenCV DualTVL1", _tvl1, "cv2", "numpy", False),
        Peer("scikit-image TV-L1", _skimage_tvl1, "skimage", "numpy", False),
    ],
    "costvol.cosine": [Peer("spatial-correlation-sampler", _sampler, "spatial_correlation_sampler")],
    "costvol.displacement_map": [Peer("FlexAttention", _flex, compiled=True)],
}


def peers(workload: Workload, device: str) -> list[Peer]:
    """All that compute this workload's operator on this device, installed or not."""
    operator, found = workload.operator, []
    if operator in {*FUSED, *(target.operator for target in TARGETS)} - NO_EAGER:
        found.append(Peer("eager", eager(operator)))
    plain_forms = PLAIN.get(operator, {}) | COMPILED.get(operator, {})
    found += [Peer(name, function, compiled=name.startswith("compiled")) for name, function in plain_forms.items()]
    found += _adapters(workload) + ELSEWHERE.get(operator, [])
    if device == "cpu":
        return [peer for peer in found if peer.name not in CUDA_ONLY]
    return [peer for peer in found if peer.framework == "torch"]


def taken(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that the function has a parameter for."""
    parameters = inspect.signature(function).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {k: v for k, v in options.items() if every or k in parameters}
