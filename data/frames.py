"""Data sets of frame folders: Vimeo-90K septuplets and ImageNet VID with its boxes."""

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motionspec.checks import message
from motionspec.data.lists import ListError, below, lines
from motionspec.data.source import NO_LABEL, Images
from motionspec.data.video import VideoError, is_pipe, read_images

VID_CLASSES = {
    "n02691156": "airplane", "n02419796": "antelope", "n02131653": "bear", "n02834778": "bicycle",
    "n01503061": "bird", "n02924116": "bus", "n02958343": "car", "n02402425": "cattle", "n02084071": "dog",
    "n02121808": "domestic cat", "n02503517": "elephant", "n02118333": "fox", "n02510455": "giant panda",
    "n02342885": "hamster", "n02374451": "horse", "n02129165": "lion", "n01674464": "lizard", "n02484322": "monkey",
    "n03790512": "motorcycle", "n02324045": "rabbit", "n02509815": "red panda", "n02411705": "sheep",
    "n01726692": "snake", "n02355227": "squirrel", "n02129604": "tiger", "n04468005": "train", "n01662784": "turtle",
    "n04530566": "watercraft", "n02062744": "whale", "n02391049": "zebra",
}  # fmt: skip
"""The 30 classes of ImageNet VID by WordNet number, in the order of its results."""


@dataclass(frozen=True)
class FrameFolders:
    """A Source of folders of images; `names` are their paths below `root`, `files` their frames in order.

    Without `files` a folder's frames are its images by name.
    """

    root: Path
    names: tuple[str, ...]
    files: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        return (NO_LABEL,) * len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def paths(self, i: int) -> list[Path]:
        """The frames of folder i. Raises VideoError where there are none."""
        folder = self.root / self.names[i]
        if not folder.is_dir():
            raise VideoError(f"{folder}: no such folder")
        paths = [folder / name for name in self.files] or sorted(
            path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg", ".png")
        )
        if not paths:
            raise VideoError(f"{folder}: no images in it")
        return paths

    def length(self, i: int) -> int:
        """The number of frames that folder i has; they are not decoded. Raises VideoError where one is missing."""
        paths = self.paths(i)
        for path in paths:
            if not path.is_file():
                raise VideoError(f"{path}: no such file")
        return len(paths)

    def read(self, i: int, frames: Sequence[int] | NDArray[np.integer]) -> Images:
        """Frames by number from 0, in any order, repeats allowed: uint8 (n, H, W, 3), RGB.

        Raises VideoError for an image that cannot be read, for frames that differ in size or that there are not.
        """
        return read_images(self.paths(i), frames, str(self.root / self.names[i]))


# -- Vimeo-90K ---------------------------------------------------------------------------------------------------------


def septuplets(root: str | os.PathLike[str]) -> dict[str, FrameFolders]:
    """Vimeo-90K septuplets: train and test, the lines of sep_trainlist.txt and sep_testlist.txt.

    The seven frames of a line are sequences/LINE/im1.png .. im7.png. Raises ListError.
    """
    root, parts = Path(root), {}
    for part in ("train", "test"):
        if (path := root / f"sep_{part}list.txt").is_file():
            names = tuple(below(where, line) for where, line in lines(path))
            parts[part] = FrameFolders(root / "sequences", names, tuple(f"im{k}.png" for k in range(1, 8)))
    if not parts:
        raise ListError(f"{root}: no sep_trainlist.txt and no sep_testlist.txt")
    return parts


# -- ImageNet VID ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objects:
    """The n objects of a frame.

    boxes: float64 (n, 4), x1, y1, x2, y2 in pixels from 0, both corners inclusive, as `refimpl.detection` has them
    classes: int64 (n,), indices of the source's `classes`
    tracks: int64 (n,), the same number for the same object in all frames of a snippet
    occluded, generated: bool (n,); generated boxes are interpolated, not drawn
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    tracks: NDArray[np.int64]
    occluded: NDArray[np.bool_]
    generated: NDArray[np.bool_]


@dataclass(frozen=True)
class Snippets(FrameFolders):
    """ImageNet VID: FrameFolders with the boxes of their frames; `annotations` is the folder like `root` of the XML."""

    annotations: Path = Path()

    def objects(self, i: int, t: int) -> Objects:
        """What frame t of snippet i shows; nothing (n = 0) is possible. Raises VideoError, as for a missing XML."""
        paths = self.paths(i)
        if not 0 <= t < len(paths):
            raise VideoError(message("objects", "t", f"a frame from 0 to {len(paths) - 1} of {self.names[i]}", t))
        return read_objects(self.annotations / self.names[i] / f"{paths[t].stem}.xml")


def read_objects(path: str | os.PathLike[str]) -> Objects:
    """The objects of an XML file of ImageNet VID, their boxes clipped to the image as FGFA's code does.

    Raises VideoError for a missing or damaged file, a class that is none of the 30 and a box that is inside out.
    """
    if is_pipe(path):
        raise VideoError(f"{path}: a pipe or device; give the path of a file that can be read")
    try:
        tree = ET.parse(path).getroot()
        size = [int(_text(tree, f"size/{side}")) for side in ("width", "height")]
        rows = []
        for found in tree.iterfind("object"):
            x1, y1, x2, y2 = (float(_text(found, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            box = [max(x1, 0), max(y1, 0), min(x2, size[0] - 1), min(y2, size[1] - 1)]
            if not (box[0] <= box[2] and box[1] <= box[3]):  # nor NaN
                raise ValueError(f"box {x1:g}, {y1:g}, {x2:g}, {y2:g} is inside out or outside the image")
            if (name := _text(found, "name")) not in VID_CLASSES:
                raise ValueError(f"{name} is none of the 30 classes")
            numbers = [int(_text(found, field)) for field in ("trackid", "occluded", "generated")]
            if max(map(abs, numbers)) >= 1 << 63:
                raise ValueError("a number beyond 64 bits")
            rows.append((box, [*VID_CLASSES].index(name), *numbers))
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from error
    except (ET.ParseError, ValueError, LookupError, RecursionError) as error:  # LookupError: an unknown encoding
        raise VideoError(f"{path}: not an annotation of ImageNet VID, or damaged ({error})") from error
    boxes, classes, tracks, occluded, generated = zip(*rows, strict=True) if rows else ((),) * 5
    return Objects(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(tracks, np.int64),
        np.array(occluded, bool),
        np.array(generated, bool),
    )


def _text(element: ET.Element, path: str) -> str:
    if (text := element.findtext(path)) is None:
        raise ValueError(f"no {path} in <{element.tag}>")
    return text.strip()


def imagenet_vid(root: str | os.PathLike[str]) -> dict[str, Snippets]:
    """ImageNet VID: train, val and test, the snippets in Data/VID/PART with their boxes in Annotations/VID/PART.

    `root` is ILSVRC2015, or ILSVRC. A snippet is a folder that has files. Raises ListError.
    """
    root, parts = Path(root), {}
    for part in ("train", "val", "test"):
        data = root / "Data" / "VID" / part
        names = sorted(Path(folder).relative_to(data).as_posix() for folder, _, files in os.walk(data) if files)
        if names:
            annotations = root / "Annotations" / "VID" / part
            parts[part] = Snippets(data, tuple(names), (), tuple(VID_CLASSES.values()), annotations)
    if not parts:
        raise ListError(f"{root}: no frames in Data/VID/train, val or test")
    return parts
