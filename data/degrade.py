"""Artifacts of JPEG 2000 (OFF20 §7.3), made by OpenCV's encoder while training."""

from collections.abc import Sequence

import numpy as np

from motionspec.checks import count, message, positive
from motionspec.data.source import Images
from motionspec.data.video import VideoError
from motionspec.flow import encoded, opencv

__all__ = ["jpeg2000", "rate_for"]

_LEAST = 32  # pixels of a side that the encoder takes
_MOST = 1000  # OpenCV's rate: thousandths of the bytes that the pixels take


def jpeg2000(frames: Images, rate: int) -> Images:
    """Each of the frames (n, H, W, 3), uint8 RGB, as it is after coding at `rate` thousandths of its bytes, 1 .. 1000.

    A rate that is more than a frame needs loses nothing. The encoder halves a picture five times: a frame with a side
    below 32 is coded with its last rows or columns repeated up to that, and the rate is of what is coded.
    Raises TypeError or ValueError for the rate; VideoError where OpenCV cannot code a frame, for want of JPEG 2000 too.
    """
    cv2 = opencv()
    if count("degrade.jpeg2000", "rate", rate) > _MOST:
        raise ValueError(message("degrade.jpeg2000", "rate", f"at most {_MOST}", rate))
    if not cv2.haveImageWriter(".jp2"):
        raise VideoError("this OpenCV has no JPEG 2000: pip install opencv-contrib-python-headless")
    out = np.empty_like(frames)
    for frame, degraded in zip(frames, out, strict=True):
        # The encoder changes colours to luma and chroma, for which it takes the channels as OpenCV's BGR.
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        height, width = bgr.shape[:2]
        border = (0, max(0, _LEAST - height), 0, max(0, _LEAST - width))
        whole = cv2.copyMakeBorder(bgr, *border, cv2.BORDER_REPLICATE)
        data = encoded(".jp2", whole, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, rate])
        decoded = None if data is None else cv2.imdecode(data, cv2.IMREAD_COLOR)
        if decoded is None:
            raise VideoError(f"degrade.jpeg2000: OpenCV could not code a frame of {width} x {height} pixels")
        degraded[...] = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)[:height, :width]
    return out


def rate_for(psnr: float, frames: Sequence[Images]) -> tuple[int, float]:
    """The rate at which the degraded frames, each (H, W, 3), have a mean PSNR of about `psnr` dB, and what they have.

    Scales of quality differ from codec to codec (OFF20's q20 and q40 are FFmpeg's), the PSNR of the degraded frames
    does not: state it. Found by bisection; of the last two rates, one too low and one too high, the nearer is taken.
    Raises ValueError for no frames and where even rate 1 has a higher PSNR.
    """
    positive("degrade.rate_for", "psnr", psnr)
    if not len(frames):
        raise ValueError(message("degrade.rate_for", "frames", "at least one", 0))

    def reached(rate: int) -> float:
        return float(np.mean([_psnr(frame, jpeg2000(frame[None], rate)[0]) for frame in frames]))

    low, high = 1, _MOST
    worst, best = reached(low), reached(high)
    if psnr < worst:
        raise ValueError(message("degrade.rate_for", "psnr", f"at least {worst:.2f}, that of rate 1", psnr))
    while high - low > 1:
        middle = (low + high) // 2
        value = reached(middle)
        if value < psnr:
            low, worst = middle, value
        else:
            high, best = middle, value
    return (low, worst) if psnr - worst <= best - psnr else (high, best)


def _psnr(frame: Images, degraded: Images) -> float:
    """As `metrics.psnr` with peak 255; infinite where nothing is lost."""
    error = np.mean((frame.astype(np.float64) - degraded) ** 2)
    return float(20 * np.log10(255) - 10 * np.log10(error)) if error else np.inf
