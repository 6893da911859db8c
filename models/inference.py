"""Networks at full speed on clips of one shape, and frame by frame on a stream."""

import contextlib
import copy
import functools
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from motionspec.checks import choice, count, message
from motionspec.models.layers import DisplacementMap

__all__ = ["TOLERANCE", "Inference", "Streaming"]

# Largest difference of a result from the plain float32 forward, by the type to compute in, relative to the largest
# magnitude of the result. Sums are in another order; bfloat16 has 8 bits, and a deep network adds up their errors.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}


class Inference:
    """A network, in inference mode, made fast for clips of one shape.

    A copy of the network, its weights and its input with the channels innermost if it has convolutions of maps (on CUDA
    also of clips), the operators' kernels, one buffer for the input, which the CPU does without where the clip lies as
    the network takes it, and `torch.compile`, which on the CPU folds batch norms into convolutions (freezing), but for
    networks with displacement maps; on CUDA also autocast to bfloat16 by default, and CUDA graphs in latency mode.
    Weights that the network gets later are not seen. All calls share the buffer: one at a time.

    clip_shape: (N, C, T, H, W) of all clips. device: default that of the network. dtype: float32, the CPU's default, or
    bfloat16, CUDA's. mode: "batch", most clips a second, for N of some size; "latency", one clip soonest: CUDA graphs
    save the launches of kernels; on the CPU there is no difference. compile=False saves the minutes of compiling.

    Call it with a clip, float, on any device: its scores, float32, on the device, in a tensor of their own. They differ
    from those of the plain float32 forward by at most `TOLERANCE[dtype]` times the largest magnitude.
    Raises `Inference: argument: expected ..., got ...`, TypeError or ValueError.

    >>> from motionspec.models.bn_inception import TSN
    >>> fast = Inference(TSN(width=1 / 8), (2, 3, 3, 64, 64), compile=False)
    >>> fast(torch.rand(2, 3, 3, 64, 64)).shape
    torch.Size([2, 101])
    """

    def __init__(
        self,
        network: nn.Module,
        clip_shape: tuple[int, int, int, int, int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        mode: str = "batch",
        compile: bool = True,
    ):
        choice("Inference", "mode", mode, ("batch", "latency"))
        if len(clip_shape) != 5 or min(clip_shape) < 1:
            raise ValueError(message("Inference", "clip_shape", "(N, C, T, H, W), each at least 1", clip_shape))
        parameter = next(network.parameters(), torch.empty(0))
        self.device = torch.device(parameter.device if device is None else device)
        cuda = self.device.type == "cuda"
        self.dtype = dtype or (torch.bfloat16 if cuda else torch.float32)
        if self.dtype not in TOLERANCE:
            raise ValueError(message("Inference", "dtype", "torch.float32 or torch.bfloat16", self.dtype))
        self.network = copy.deepcopy(network).to(self.device, torch.float32).eval().requires_grad_(False)
        self.clip = torch.empty(clip_shape, device=self.device)
        formats = {4: torch.channels_last} | ({5: torch.channels_last_3d} if cuda else {})
        for p in self.network.parameters():
            if p.ndim in formats:
                p.data = p.contiguous(memory_format=formats[p.ndim])
                # The frames of such a clip are maps with the channels innermost, without a copy. The operators alone
                # take planes: the displacement map of 64 channels would be a quarter slower; and so do convolutions
                # over time on the CPU, by a hundredth.
                self.clip = self.clip.contiguous(memory_format=torch.channels_last_3d)
        self.run: Any = self.network
        self.settings: Any = contextlib.nullcontext
        if compile:
            options: dict[str, Any] = {"triton.cudagraphs": cuda and mode == "latency"}
            self.run = torch.compile(self.network, fullgraph=True, dynamic=False, options=options)
            # A frozen convolution gives the channels innermost; to turn them into planes for the displacement map takes
            # longer than is won: 0.89 of plain eager for the change branch, 0.96 to 0.99 without.
            if not cuda and not any(isinstance(layer, DisplacementMap) for layer in self.network.modules()):
                from torch._inductor import config  # takes long

                # Weights as constants. Not an option of torch.compile: dynamo, which does not see those, would have
                # made them inputs by then.
                self.settings = functools.partial(config.patch, freezing=True)

    def __call__(self, clip: Tensor) -> Tensor:
        if not clip.is_floating_point():
            raise TypeError(message("Inference", "clip", "a float tensor", clip.dtype))
        if clip.shape != self.clip.shape:
            raise ValueError(message("Inference", "clip", f"shape {tuple(self.clip.shape)}", tuple(clip.shape)))
        clip = clip.detach()
        if self.device.type == "cuda" or _kind(clip) != _kind(self.clip):
            clip = self.clip.copy_(clip, non_blocking=True)
        half = self.dtype == torch.bfloat16
        autocast = torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext()
        with torch.inference_mode(), autocast, self.settings():
            scores = self.run(clip)
        # A CUDA graph gives the same memory again at the next call.
        return scores.to(torch.float32, copy=True)


def _kind(clip: Tensor) -> tuple[Any, ...]:
    """What the network is compiled for, beside the shape."""
    return clip.device, clip.dtype, clip.stride(), clip.is_inference()


class Streaming:
    """A network on a stream: for each new frame what `network.parts` gives of the last T, each frame looked at once.

    What belongs to a frame (maps, scores) is computed when it comes, what belongs to a pair (OFF, displacement) when
    its later frame comes, and only what looks at the whole window is computed for every window: of TSN and OFFNetwork
    nothing but sums; of RepFlowResNet too, if it is 2D with one flow layer and a `value_range`, without which the flow
    depends on the whole clip; of Disentangled its three branches; of RFCN nothing; of DnCNN the convolutions behind the
    motion. The result is that of `parts`, but for rounding.
    A network streams if it has `streams = True` and three methods: `frame_wise(clip)`, a dictionary of clips (N, C, T,
    H, W) or rows (N, T, K), each frame on its own; `pair_wise(those)`, the same with T-1; `together(both)`, the parts.

    network: is put into inference mode. frames: T, of the window. Call it with a frame (N, C, H, W): None before the
    T-th, then the parts. `restart()` forgets all frames.
    Raises `Streaming: argument: expected ..., got ...`, TypeError or ValueError.

    >>> from motionspec.models.off_tsn import OFFNetwork
    >>> stream = Streaming(OFFNetwork(width=1 / 8), 2)
    >>> [stream(torch.rand(1, 3, 64, 64)) is None for _ in range(3)]
    [True, False, False]
    """

    def __init__(self, network: Any, frames: int):
        if not getattr(network, "streams", False):
            expected = (
                "TSN, OFFNetwork, Disentangled, RFCN, DnCNN or a RepFlowResNet whose flows depend on their frames alone"
            )
            raise ValueError(message("Streaming", "network", expected, type(network).__name__))
        T = count("Streaming", "frames", frames)
        if getattr(network, "frames", T) != T:
            raise ValueError(message("Streaming", "frames", f"{network.frames}, those of a snippet", T))
        self.network = network.eval()
        self.frames: deque[dict[str, Tensor]] = deque(maxlen=T)
        self.pairs: deque[dict[str, Tensor]] = deque(maxlen=T - 1)
        self.shape: torch.Size | None = None

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> dict[str, Tensor] | None:
        if frame.ndim != 4 or self.shape not in (None, frame.shape):
            expected = "shape (N, C, H, W)" + (f", {tuple(self.shape)} as before" if self.shape else "")
            raise ValueError(message("Streaming", "frame", expected, tuple(frame.shape)))
        new = self.network.frame_wise(frame[:, :, None])
        if self.frames and self.pairs.maxlen:
            self.pairs.append(self.network.pair_wise(_joined([self.frames[-1], new])))
        self.frames.append(new)
        self.shape = frame.shape
        if len(self.frames) < (self.frames.maxlen or 0):
            return None
        return self.network.together(_joined(self.frames), _joined(self.pairs))

    def restart(self) -> None:
        """The next frame is the first."""
        self.frames.clear()
        self.pairs.clear()
        self.shape = None


def _joined(moments: Any) -> dict[str, Tensor]:
    """Along time, which is axis 2 of clips and axis 1 of rows."""
    keys = moments[0] if moments else ()
    return {key: torch.cat([m[key] for m in moments], 2 if moments[0][key].ndim == 5 else 1) for key in keys}
