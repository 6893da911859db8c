"""TV-L1 flow of the frames of any source, computed once and kept on disk."""

import hashlib
import inspect
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from motionspec import __version__
from motionspec.checks import message
from motionspec.data.augment import GREY
from motionspec.data.source import Flow, Images, Source, cache_folder
from motionspec.files import replaced
from motionspec.ops import tvl1

_OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(tvl1.pyramid_flow).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "impl"  # implementations differ by rounding
}


class TVL1:
    """A source that has the flow which `ops.tvl1.pyramid_flow` finds between its frames, all of it known.

    options: those of pyramid_flow but `impl`. Frames are made grey (BT.601) as they are decoded.

    An entry of the cache is one file for one pair of frames, `XX/X...X.npy` in `folder` (default: "flow" in the cache
    folder), float16 (2, H, W), 4 bytes a pixel. Its name is a hash of the pixels of both frames, all options and
    motionspec's version: it can be neither outdated nor of another video. It is written under another name and renamed
    when it is on the disk, so that processes may share the folder and a kill leaves at most a `.part` file, which
    nothing reads. Rounding to float16 is off by up to 2^-11 of the value: 0.001 px at 2 px, 0.008 at 16. (8 bits for
    +-20 px, as TSN keeps its flow, are off by up to 0.08 px everywhere.)
    Raises TypeError for unknown options; pyramid_flow's errors and VideoError when flow is asked for.
    """

    def __init__(self, source: Source, folder: str | os.PathLike[str] | None = None, **options: float | None) -> None:
        for name in options:
            if name not in _OPTIONS:
                raise TypeError(message("TVL1", "options", "of " + ", ".join(_OPTIONS), name))
        self.source, self.options = source, _OPTIONS | options
        self.folder = cache_folder() / "flow" if folder is None else Path(folder)
        self.classes, self.labels, self.names = source.classes, source.labels, source.names
        self._last: tuple[int, dict[int, Images]] = (-1, {})

    def __len__(self) -> int:
        return len(self.source)

    def length(self, i: int) -> int:
        """As the source's."""
        return self.source.length(i)

    def read(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Images:
        """As the source's; frames that the last flow was made of are not decoded again."""
        clip, known = self._last
        if clip == i and all(int(t) in known for t in frames):
            return np.stack([known[int(t)] for t in frames])
        return self.source.read(i, frames)

    def flow(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Flow:
        """The flow from each of these frames to the next."""
        numbers = sorted({int(t) + k for t in frames for k in (0, 1)})
        self._last = i, dict(zip(numbers, self.source.read(i, numbers), strict=True))
        pictures = self._last[1]
        pixels = {t: hashlib.blake2b(picture.tobytes()).digest() for t, picture in pictures.items()}
        found: dict[int, NDArray[np.float32]] = {}
        for t in {int(t) for t in frames}:
            shape = str(pictures[t].shape)
            key = json.dumps([__version__, self.options, shape], sort_keys=True).encode() + pixels[t] + pixels[t + 1]
            name = hashlib.blake2b(key, digest_size=16).hexdigest()
            found[t] = self._entry(self.folder / name[:2] / f"{name}.npy", pictures[t], pictures[t + 1])
        flow = np.stack([found[int(t)] for t in frames])
        return flow, np.ones((len(flow), *flow.shape[-2:]), bool)

    def _entry(self, path: Path, first: Images, second: Images) -> NDArray[np.float32]:
        try:
            return np.load(path).astype(np.float32)
        except (FileNotFoundError, EOFError, ValueError):  # none, or damaged
            pass
        grey = torch.from_numpy(np.stack([first, second]) @ GREY).float()[:, None]
        flow = tvl1.pyramid_flow(grey[:1], grey[1:], **self.options)[0].numpy().astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{uuid.uuid4().hex}.part")
        with replaced(path, part) as file:
            np.save(file, flow)
        return flow.astype(np.float32)
