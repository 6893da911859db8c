"""`motionspec demo --model`: a network on a clip, with the maps between."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionspec.cli.demo import Picture, wheel
from motionspec.cli.media import read_clip
from motionspec.cli.networks import find, readable
from motionspec.cli.runner import CannotRun
from motionspec.data.video import Image
from motionspec.flow import flow_to_color
from motionspec.models.table import Frames
from motionspec.models.weights import load
from motionspec.progress import Progress


@dataclass
class Ran:
    """What the report says of a network."""

    name: str
    text: list[str]
    pictures: list[Picture]
    shares: Sequence[tuple[str, float]] = ()


def run_network(
    name: str, video: str, weights: str | None, options: Mapping[str, str], device: str, progress: Progress
) -> Ran:
    """The network on frames in a row from the middle of the video. Raises CannotRun or VideoError with one line."""
    row = find(name)
    torch.manual_seed(0)
    said = "random weights, so its scores mean nothing"
    try:
        network: Any = row.build(**{**row.arguments, **{key: _value(text) for key, text in options.items()}}).eval()
        if weights is not None:
            with readable(weights):
                said = f"weights of {Path(weights).name}: {load(network, weights)}"
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        raise CannotRun(str(error)) from error
    _, T, H, W = row.input
    images = read_clip(video, T, lambda done, total: progress(f"decoding {Path(video).name}", done, total))
    clip = clip_of(images, row.frames, H, W).to(device)
    progress(name, 0, None)
    try:
        with torch.no_grad():
            parts = {key: part.cpu() for key, part in network.to(device).parts(clip).items()}
    except ValueError as error:
        raise CannotRun(str(error)) from error
    text = [
        f"{name} [{row.source}] on {T} frames in a row from the middle of {Path(video).name}: {said}.",
        f"Frames of {W} x {H}: the middle of each, scaled; {row.frames}.",
    ]
    scores = parts.get("scores")  # FlowNets give none
    if scores is not None and scores.ndim == 2:
        top = scores[0].double().softmax(0).topk(min(5, scores.shape[1]))
        shares = [f"class {k}: {100 * share:.2f} %" for share, k in zip(top.values, top.indices, strict=True)]
        text.append(f"Highest scores: {', '.join(shares)}.")
    return Ran(name, text, [Picture("first frame of the clip", images[0]), *map_pictures(parts)])


def _value(text: str) -> Any:
    """A number, tuple, True, None; anything else is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def clip_of(images: Sequence[Image], values: Frames, H: int, W: int) -> Tensor:
    """RGB frames as a clip (1, 3, T, H, W) of these values: as much of the middle as has that shape, scaled."""
    import cv2

    h, w = images[0].shape[:2]
    height, width = max(1, min(h, round(w * H / W))), max(1, min(w, round(h * W / H)))
    top, left = (h - height) // 2, (w - width) // 2
    frames = [
        cv2.resize(image[top : top + height, left : left + width], (W, H), interpolation=cv2.INTER_AREA)
        for image in images
    ]
    clip = (np.stack(frames)[..., values.order] - np.array(values.mean)) / np.array(values.scale)
    return torch.tensor(clip.transpose(3, 0, 1, 2)[None], dtype=torch.float32)


def map_pictures(parts: Mapping[str, Tensor]) -> list[Picture]:
    """Those of the parts that are maps, (1, C, T, H, W), at up to three times.

    A flow is what has two channels, or all u then all v and "flow" in its name: the mean over either, as a colour; the
    wheel of the colours comes last. Of other maps the root mean square over the channels, white at the 99th percentile.
    """
    pictures: list[Picture] = []
    colours: list[Picture] = []
    for key, part in parts.items():
        if part.ndim != 5 or max(part.shape[-2:]) == 1:
            continue
        values = np.nan_to_num(part[0].double().numpy())
        C, T = values.shape[:2]
        times = sorted({0, T // 2, T - 1})
        if C == 2 or (C % 2 == 0 and key.startswith("flow")):
            flow = values.reshape(2, C // 2, *values.shape[1:]).mean(1)
            limit = float(np.percentile(np.hypot(*flow), 95)) or 1.0
            images, of = [flow_to_color(flow[:, t], limit) for t in times], f"full colour at {limit:.2g} px"
            colours = [wheel()]
        else:
            size = np.sqrt((values**2).mean(0))
            limit = float(np.percentile(size, 99)) or 1.0
            level = (255 * np.clip(size / limit, 0, 1)).astype(np.uint8)
            images, of = [np.repeat(level[t, ..., None], 3, axis=2) for t in times], f"white at {limit:.2g}"
        pictures += [
            Picture(f"{key}, {t + 1} of {T}; {of}", image, exact=True) for t, image in zip(times, images, strict=True)
        ]
    return pictures + colours
