"""What every reader of a data set, and the generated motion benchmark, looks like to the rest of motionspec."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""(n, H, W, 3), RGB."""
Flow = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Flow (n, 2, H, W) in pixels per frame, x to the right, y down, NaN where unknown; where it is known (n, H, W)."""

NO_LABEL = -1
"""The label of a clip of a data set that has no classes of clips: flow pairs, septuplets, detection."""


@runtime_checkable
class Source(Protocol):
    """Clips by number. Picklable, and it reads nothing before it is asked to but lists of names.

    names: of each clip: its path below the data set's folder, or a key
    labels: of each clip, an index of `classes`, or NO_LABEL
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> tuple[int, ...]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def length(self, i: int) -> int:
        """The number of frames of clip i that decode. Raises VideoError where the clip cannot be used."""
        ...

    def read(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Images:
        """Frames of clip i by number from 0, in any order, repeats allowed. Raises VideoError as `length`."""
        ...


@runtime_checkable
class FlowSource(Source, Protocol):
    """A source with ground truth."""

    def flow(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Flow:
        """The flow of clip i from each of these frames t to t + 1. Raises VideoError where there is none."""
        ...


def cache_folder() -> Path:
    """Where motionspec keeps what it can make again: $MOTIONSPEC_CACHE, or motionspec in the user's cache folder."""
    if folder := os.environ.get("MOTIONSPEC_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motionspec"
