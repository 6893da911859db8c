"""The operators as layers to put into a network: a clip goes in, what holds for each pair of its frames comes out.

A clip is (N, C, T, H, W) with T >= 2; result t of T-1 belongs to frames t and t+1 of the same clip. A pair of maps is a
clip of T = 2: `torch.stack([f0, f1], 2)`. bfloat16 and float16 are computed in float32 and rounded once, also where the
parameters are float32, as under autocast. Bad input raises `layer: argument: expected ..., got ...`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from motionspec.checks import choice, count, message, positive, radii
from motionspec.ops import costvol, off, tvl1, warp
from motionspec.ops.autocast import promoted
from motionspec.ops.checks import tensors

__all__ = ["OFF", "DisplacementMap", "RepresentationFlow", "WarpedDifference"]

_FORWARD = (((0, 0, 0), (1, -1, 0), (0, 0, 0)), ((0, 1, 0), (0, -1, 0), (0, 0, 0)))  # for true convolution
_SPAN = math.log(1000)


class RepresentationFlow(nn.Module):
    """The flow of every channel between the frames of a clip, by TV-L1 that can be trained (RF19 §3.2, Alg. 1).

    Clip (N, C, T, H, W) -> flow (N, 2C, T-1, H, W): all u channels (right), then all v channels (down), in pixels,
    F_t(p) = F_(t+1)(p + flow(p)). The 1x1 convolutions that reduce to C and widen 2C again belong to the network.

    The numbers tau, lam and theta expect values that span [0, 255]: on [0, 1] the flow is near 0. So each clip is
    stretched to [0, 255] by its smallest and largest value (`ops.tvl1.normalise`); with `value_range=(low, high)` it is
    from that range instead, the same for all clips, and (0, 255) takes values as they are.

    n_iter, scheme, memory: as in `ops.tvl1.representation_flow`. tau, w_x, w_y and the flow kernels have no effect
    before the second iteration.

    Each switch makes parameters of what the operator otherwise holds fixed (RF19 Table 2, whose best is the default):
      learn_numbers: tau, lam, theta, which begin at the values given. Each is that value times e^x, x being `log_tau`,
        `log_lam`, `log_theta`, 0 at first: positive, exactly the value given at first, and a step changes it by a share
        of itself. |x| is bounded by log 1000 (softly, as 6.9 tanh(x / 6.9)), beyond which e^x could underflow to 0.
      learn_divergence: w_x, w_y of RF19 (9), `wx` and `wy` (2,).
      learn_image_kernel, learn_flow_kernel: those of RF19 (8) and (10), `image_kernel` and `flow_kernel` (2, 3, 3), for
        true convolution. All channels share them.

    >>> clip = torch.rand(2, 32, 4, 14, 14)  # features of four frames
    >>> layer = RepresentationFlow(n_iter=20, learn_image_kernel=True)
    >>> flow = layer(clip)
    >>> flow.shape, layer.theta.item()
    (torch.Size([2, 64, 3, 14, 14]), 0.30000001192092896)
    """

    wx: nn.Parameter | None
    wy: nn.Parameter | None
    image_kernel: nn.Parameter | None
    flow_kernel: nn.Parameter | None

    def __init__(
        self,
        *,
        n_iter: int = 10,
        tau: float = 0.25,
        lam: float = 0.15,
        theta: float = 0.3,
        scheme: str = "classic",
        value_range: tuple[float, float] | None = None,
        learn_numbers: bool = True,
        learn_divergence: bool = True,
        learn_image_kernel: bool = False,
        learn_flow_kernel: bool = False,
        memory: str = "all",
    ):
        super().__init__()
        name = "RepresentationFlow"
        choice(name, "scheme", scheme, tuple(tvl1._SCHEMES))
        choice(name, "memory", memory, ("all", "sqrt"))
        self.n_iter, self.scheme, self.memory = count(name, "n_iter", n_iter, least=0), scheme, memory
        self.value_range = _range(value_range)
        self._start = {key: positive(name, key, value) for key, value in (("tau", tau), ("lam", lam), ("theta", theta))}
        image, flow, _ = tvl1._SCHEMES[scheme]
        initial: dict[str, tuple[bool, Any]] = {
            "log_tau": (learn_numbers, 0.0),
            "log_lam": (learn_numbers, 0.0),
            "log_theta": (learn_numbers, 0.0),
            "wx": (learn_divergence, tvl1._BACKWARD),
            "wy": (learn_divergence, tvl1._BACKWARD),
            "image_kernel": (learn_image_kernel, tvl1._CENTRAL if image == "released" else tvl1._IMAGE[image]),
            "flow_kernel": (learn_flow_kernel, tvl1._SOBEL if flow == "paper" else _FORWARD),
        }
        for key, (learn, value) in initial.items():
            value = torch.tensor(value, dtype=torch.get_default_dtype())
            self.register_parameter(key, nn.Parameter(value) if learn else None)

    @property
    def tau(self) -> Tensor | float:
        return self._number("tau")

    @property
    def lam(self) -> Tensor | float:
        return self._number("lam")

    @property
    def theta(self) -> Tensor | float:
        return self._number("theta")

    def _number(self, name: str) -> Tensor | float:
        x = getattr(self, f"log_{name}")
        if x is None:
            return self._start[name]
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # in a half type 0.15 and 0.3 would not be themselves
        return self._start[name] * torch.exp(_SPAN * torch.tanh(x / _SPAN))

    def forward(self, clip: Tensor) -> Tensor:
        a = _clip("RepresentationFlow", clip)
        if self.value_range is None:
            a = tvl1.normalise(a)
        else:
            low, high = self.value_range
            a = (a - low) * (255 / (high - low))
        learned = {
            name: value.to(a.dtype) if isinstance(value := getattr(self, name), Tensor) else value
            for name in ("tau", "lam", "theta", "wx", "wy", "image_kernel", "flow_kernel")
        }
        options: dict[str, Any] = {"n_iter": self.n_iter, "scheme": self.scheme, "memory": self.memory} | learned
        return _clip_of(tvl1.representation_flow(*_pairs(a), **options), clip)

    def extra_repr(self) -> str:
        shown = [
            f"n_iter={self.n_iter}, scheme={self.scheme!r}, value_range={self.value_range}, memory={self.memory!r}"
        ]
        shown += [f"{name}={torch.as_tensor(getattr(self, name)).item():.4g}" for name in self._start]
        return ", ".join([*shown, f"learned=({', '.join(name for name, _ in self.named_parameters())})"])


class OFF(nn.Module):
    """The OFF layer: a 1x1 convolution, then `[Fx | Fy | Ft]` of each pair of neighbouring frames (OFF18 §4.1, Fig. 4).

    Clip (N, in_channels, T, H, W) -> (N, 3 channels, T-1, H, W), Fx and Fy of the earlier frame, Fx = +6 df/dx, Fy =
    -6 df/dy per pixel (y down; kernel="sobel": 8), Ft later minus earlier; zeros outside the map. The convolution
    `reduce`, with bias, is the same for all frames and is all that is learned. What follows in an OFF unit (features of
    the lower level, residual blocks) belongs to the network, and so does a ReLU, of which the paper says nothing. 128
    channels is the paper's number.

    >>> clip = torch.rand(2, 256, 7, 28, 28)  # features of seven segments
    >>> layer = OFF(256)
    >>> layer(clip).shape
    torch.Size([2, 384, 6, 28, 28])
    """

    def __init__(self, in_channels: int, channels: int = 128, *, kernel: str = "paper"):
        super().__init__()
        choice("OFF", "kernel", kernel, tuple(off._MIDDLE))
        self.kernel = kernel
        self.reduce = nn.Conv3d(count("OFF", "in_channels", in_channels), count("OFF", "channels", channels), 1)

    def forward(self, clip: Tensor) -> Tensor:
        _clip("OFF", clip)
        if clip.shape[1] != self.reduce.in_channels:
            expected = f"C={self.reduce.in_channels} channels"
            raise ValueError(message("OFF", "clip", expected, f"C={clip.shape[1]}"))
        return off.clip_features(self.reduce(clip), self.kernel)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel!r}"


class DisplacementMap(nn.Module):
    """The apparent motion between the frames of a clip, by cosine similarity over a window (DC18 §3.3, Fig. 4).

    Clip (N, C, T, H, W) -> (N, 2, T-1, H, W): u (right), v (down), in pixels, from each frame to the next. radius: an
    int or (R_h, R_w), the farthest displacement. tau: the temperature of the softmax, a fixed number; the paper gives
    none: at 0.01 to 0.1 sub-pixel shifts come out better than by winner-takes-all, at 1 all is drawn towards 0. border:
    what is outside the map has similarity 0 ("zero"), or does not take part ("exclude"). Nothing is learned here.

    >>> clip = torch.rand(2, 64, 8, 28, 28) - 0.5  # features of eight frames
    >>> layer = DisplacementMap(radius=3)
    >>> layer(clip).shape
    torch.Size([2, 2, 7, 28, 28])
    """

    def __init__(self, radius: int | tuple[int, int], *, tau: float = 0.03, border: str = "zero"):
        super().__init__()
        radii("DisplacementMap", radius)
        choice("DisplacementMap", "border", border, ("zero", "exclude"))
        self.radius, self.tau, self.border = radius, positive("DisplacementMap", "tau", tau), border

    def forward(self, clip: Tensor) -> Tensor:
        f0, f1 = _pairs(_clip("DisplacementMap", clip))
        return _clip_of(costvol.displacement_map(f0, f1, radius=self.radius, tau=self.tau, border=self.border), clip)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, tau={self.tau:g}, border={self.border!r}"


class WarpedDifference(nn.Module):
    """The change that motion does not explain: each frame less the one before it moved along the flow (DC18 §3.4).

    Clip (N, C, T, H, W), flow (N, 2, T-1, H, W), u (right), v (down), in pixels, from each frame to the next ->
    (N, C, T-1, H, W): F_(t+1)(p) - F_t(p - flow_t(p)), bilinear. outside: the moved frame is 0 where its source lies
    outside the map ("zero"), or only the taps outside count as 0 ("blend"). The flow gets its gradient; nothing is
    learned here.

    >>> clip = torch.rand(2, 64, 8, 28, 28)  # features of eight frames
    >>> flow = DisplacementMap(radius=3)(clip)
    >>> layer = WarpedDifference()
    >>> layer(clip, flow).shape
    torch.Size([2, 64, 7, 28, 28])
    """

    def __init__(self, *, outside: str = "zero"):
        super().__init__()
        choice("WarpedDifference", "outside", outside, ("zero", "blend"))
        self.outside = outside

    @promoted
    def forward(self, clip: Tensor, flow: Tensor) -> Tensor:
        a = _clip("WarpedDifference", clip)
        _, v = tensors("WarpedDifference", "auto", clip=(clip, "N C T H W"), flow=(flow, "N 2 S H W"))
        T = clip.shape[2]
        if v.shape[2] != T - 1:
            raise ValueError(message("WarpedDifference", "flow", f"T-1={T - 1} pairs for T={T} frames", v.shape[2]))
        return _clip_of(warp.difference(*_pairs(a), v.transpose(1, 2).flatten(0, 1), outside=self.outside), clip)

    def extra_repr(self) -> str:
        return f"outside={self.outside!r}"


def _clip(layer: str, clip: Tensor) -> Tensor:
    """A clip of two frames or more, in the type to compute in."""
    (a,) = tensors(layer, "auto", clip=(clip, "N C T H W"))
    if clip.shape[2] < 2:
        raise ValueError(message(layer, "clip", "at least T=2 frames", f"T={clip.shape[2]}"))
    return a


def _pairs(clip: Tensor) -> tuple[Tensor, Tensor]:
    """The earlier and the later frames of all pairs, (N (T-1), C, H, W)."""
    frames = clip.transpose(1, 2)
    return frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)


def _clip_of(maps: Tensor, clip: Tensor) -> Tensor:
    """Maps (N (T-1), D, H, W) of the pairs of `clip` as (N, D, T-1, H, W), in its dtype."""
    return maps.unflatten(0, (clip.shape[0], clip.shape[2] - 1)).transpose(1, 2).to(clip.dtype)


def _range(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    good = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
    if not good or not -math.inf < value[0] < value[1] < math.inf:
        expected = "None or (low, high), finite, low < high"
        raise ValueError(message("RepresentationFlow", "value_range", expected, value))
    return value[0], value[1]
