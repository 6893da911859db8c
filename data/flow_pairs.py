"""Data sets of frame pairs with ground-truth flow: FlyingChairs, MPI-Sintel, KITTI 2012 and 2015, Middlebury."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motionspec.checks import choice, message
from motionspec.data.lists import ListError, find, first_part, lines
from motionspec.data.source import NO_LABEL, Flow, Images
from motionspec.data.video import VideoError, read_image, read_images
from motionspec.flow import read_flow


@dataclass(frozen=True)
class Pair:
    """Paths below the root: two frames, the flow from the first to the second, and Sintel's masks."""

    first: str
    second: str
    flow: str
    occlusions: str | None = None
    invalid: str | None = None


@dataclass(frozen=True)
class FlowPairs:
    """A FlowSource of clips of two frames; there is a clip for each flow file, whose path is its name."""

    root: Path
    pairs: tuple[Pair, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(pair.flow for pair in self.pairs)

    @property
    def labels(self) -> tuple[int, ...]:
        return (NO_LABEL,) * len(self.pairs)

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return len(self.pairs)

    def length(self, i: int) -> int:
        """2."""
        return 2

    def read(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Images:
        """Frames 0 and 1 of pair i, as often as asked for: uint8 (n, H, W, 3), RGB.

        Raises VideoError for a file that cannot be read, frames that differ in size and other numbers.
        """
        pair = self.pairs[i]
        return read_images([self.root / pair.first, self.root / pair.second], frames, str(self.root / pair.flow))

    def flow(self, i: int, frames: Sequence[int] | NDArray[np.integer] = (0,)) -> Flow:
        """Flow float32 (n, 2, H, W), NaN where unknown or marked invalid, and known (n, H, W); `frames` may be 0 only.

        Raises VideoError for a file that cannot be read, a mask of another size and for other frames.
        """
        if any(int(t) != 0 for t in frames):
            raise VideoError(message("flow", "frames", "0: a pair has one flow", [*frames]))
        path = self.root / self.pairs[i].flow
        try:
            flow, known = read_flow(path)
        except (OSError, ValueError) as error:
            raise VideoError(f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)) from error
        if (invalid := self._mask(i, self.pairs[i].invalid, known.shape)) is not None:
            known &= ~invalid
            flow[:, ~known] = np.nan
        return np.stack([flow] * len(frames)), np.stack([known] * len(frames))

    def occluded(self, i: int) -> NDArray[np.bool_] | None:
        """Where the second frame does not show what the first does (H, W); their flow is known. None: not told."""
        return self._mask(i, self.pairs[i].occlusions, None)

    def _mask(self, i: int, name: str | None, shape: tuple[int, ...] | None) -> NDArray[np.bool_] | None:
        if name is None:
            return None
        mask = read_image(self.root / name).max(axis=-1) > 0
        if shape not in (None, mask.shape):
            raise VideoError(f"{self.root / name}: the mask is {mask.shape} and the flow {shape}")
        return mask


PATTERNS: dict[str, tuple[str, ...]] = {
    "FlyingChairs": ("*_flow.flo", "data/*_flow.flo"),
    "MPI-Sintel": ("training/flow/*/frame_*.flo", "flow/*/frame_*.flo"),
    "KITTI": tuple(f"{top}{flow}/*_10.png" for top in ("training/", "") for flow in ("flow_occ", "flow_noc")),
    "Middlebury": ("other-gt-flow/*/flow10.flo",),
}
"""Data set -> where its flow lies."""
_CHAIRS_PARTS = "FlyingChairs_train_val.txt"


def pairs_format(root: str | os.PathLike[str]) -> str | None:
    """Which of PATTERNS lies in `root`, if one does."""
    return next((name for name, patterns in PATTERNS.items() if _there(root, patterns)), None)


def _there(root: str | os.PathLike[str], patterns: Iterable[str]) -> bool:
    return any(any(Path(root).glob(pattern)) for pattern in patterns)


def open_pairs(root: str | os.PathLike[str], wanted: Sequence[str]) -> tuple[str, FlowPairs]:
    """The first of these parts that the data set of flow pairs at `root` has, after its name. Raises ListError."""
    parts = pair_parts(root)
    part = first_part(root, parts, wanted)
    return part, parts[part]


def pair_parts(root: str | os.PathLike[str]) -> dict[str, FlowPairs]:
    """The parts of the data set of flow pairs at `root`, whichever it is. Raises ListError.

    FlyingChairs has train and val by its list; all other published flow is train. Sintel's frames are the clean ones.
    """
    name = pairs_format(root)
    if name == "FlyingChairs":
        listed = ("train", "val") if find(Path(root), _CHAIRS_PARTS) else ()
        return {part: flying_chairs(root, part) for part in listed} or {"train": flying_chairs(root)}
    if name == "KITTI":
        occluded = _there(root, [pattern for pattern in PATTERNS[name] if "flow_occ" in pattern])
        return {"train": kitti(root, "flow_occ" if occluded else "flow_noc")}
    return {"train": sintel(root) if name == "MPI-Sintel" else middlebury(root)}


def flying_chairs(root: str | os.PathLike[str], part: str | None = None) -> FlowPairs:
    """FlyingChairs: NNNNN_img1.ppm, _img2.ppm and _flow.flo in `root` or its folder data.

    `part` "train" or "val" takes the pairs that FlyingChairs_train_val.txt (a 1 or 2 a line, pair by pair) assigns.
    """
    flows = _found(root, PATTERNS["FlyingChairs"])
    stems = [name.removesuffix("_flow.flo") for name in flows]
    pairs = [Pair(f"{s}_img1.ppm", f"{s}_img2.ppm", f"{s}_flow.flo") for s in stems]
    if part is not None:
        choice("flying_chairs", "part", part, ("train", "val"))
        lists = find(Path(root), _CHAIRS_PARTS)
        if not lists:
            raise ListError(f"{root}: no {_CHAIRS_PARTS} to tell {part} by")
        marks = [mark for _, mark in lines(lists[0])]
        if len(marks) != len(pairs) or not {"1", "2"} >= {*marks}:
            raise ListError(f"{lists[0]}: expected a 1 or 2 for each of {len(pairs)} pairs, got {len(marks)} lines")
        pairs = [pair for pair, mark in zip(pairs, marks, strict=True) if mark == {"train": "1", "val": "2"}[part]]
    return FlowPairs(Path(root), tuple(pairs))


def sintel(root: str | os.PathLike[str], render: str = "clean") -> FlowPairs:
    """MPI-Sintel: the pairs of training/flow with the frames of training/clean or final, by `render`, and the masks.

    `root` is the folder of training, or training itself. A mask that is not there is left out.
    """
    choice("sintel", "render", render, ("albedo", "clean", "final"))
    pairs = []
    for name in _found(root, PATTERNS["MPI-Sintel"]):
        flow = Path(name)
        top, scene, number = flow.parents[2], flow.parent.name, int(flow.stem.removeprefix("frame_"))
        first, second = ((top / render / scene / f"frame_{number + k:04}.png").as_posix() for k in (0, 1))
        masks = {kind: (top / kind / scene / f"{flow.stem}.png").as_posix() for kind in ("occlusions", "invalid")}
        there = {kind: mask for kind, mask in masks.items() if (Path(root) / mask).is_file()}
        pairs.append(Pair(first, second, name, **there))
    return FlowPairs(Path(root), tuple(pairs))


def kitti(root: str | os.PathLike[str], flow: str = "flow_occ") -> FlowPairs:
    """KITTI 2012 and 2015: training/flow_occ or flow_noc, by `flow`, with the frames NNNNNN_10.png and _11.png.

    The frames are those of colored_0, image_2 or image_0, the first there is: 2015 has image_2; 2012 colour and grey.
    Where `flow` is flow_noc, pixels that leave the image are unknown.
    """
    choice("kitti", "flow", flow, ("flow_occ", "flow_noc"))
    flows = _found(root, [pattern for pattern in PATTERNS["KITTI"] if flow in pattern])
    top = Path(flows[0]).parents[1]
    images = next((d for d in ("colored_0", "image_2", "image_0") if (Path(root) / top / d).is_dir()), "image_2")
    names = [(name, (top / images / Path(name).stem.removesuffix("_10")).as_posix()) for name in flows]
    return FlowPairs(Path(root), tuple(Pair(f"{frame}_10.png", f"{frame}_11.png", name) for name, frame in names))


def middlebury(root: str | os.PathLike[str]) -> FlowPairs:
    """Middlebury: other-gt-flow/SCENE/flow10.flo with frame10.png and frame11.png of other-data/SCENE."""
    flows = _found(root, PATTERNS["Middlebury"])
    scenes = [f"other-data/{Path(name).parent.name}" for name in flows]
    pairs = [Pair(f"{s}/frame10.png", f"{s}/frame11.png", name) for s, name in zip(scenes, flows, strict=True)]
    return FlowPairs(Path(root), tuple(pairs))


def _found(root: str | os.PathLike[str], patterns: Iterable[str]) -> list[str]:
    """Paths below `root`, by name, of the files of the first pattern that has any. Raises ListError."""
    for pattern in patterns:
        if files := sorted(path.relative_to(root).as_posix() for path in Path(root).glob(pattern)):
            return files
    raise ListError(f"{root}: no {' and no '.join(patterns)}")
