"""The one recogniser of folder layouts: which data set lies in a folder, and what its parts and classes are.

`motionspec data check`, `train` and `eval` all ask here, so that none of them reads a folder in its own way. A layout
that could be read in two ways is refused: a wrong guess would be learned as if it were right. docs/data.md shows the
folders.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from motionspec.data.flow_pairs import PATTERNS
from motionspec.data.lists import (
    ListError,
    Parts,
    files_below,
    find,
    first_part,
    folders_in,
    hmdb51,
    is_video,
    kinetics,
    kinetics_files,
    listed_videos,
    ucf101,
)
from motionspec.data.source import Source
from motionspec.data.video import Videos

CLASS_FOLDERS = "class folders"
SEPTUPLETS = "Vimeo-90K septuplets"


@dataclass(frozen=True)
class DataSet:
    """A data set of videos: which one it is, where it lies, and its parts by name."""

    name: str
    root: Path
    parts: Parts

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of all parts; each part's labels are indices of them."""
        return next(iter(self.parts.values())).classes


def class_counts(parts: Mapping[str, Source]) -> dict[str, int]:
    """How many clips each class has in all parts together; one that several parts name counts once."""
    clips = {
        (getattr(source, "root", part), name, k)
        for part, source in parts.items()
        for name, k in zip(source.names, source.labels, strict=True)
    }
    counts = Counter(k for _, _, k in clips)
    (classes, *_) = (source.classes for source in parts.values())
    return {name: counts[k] for k, name in enumerate(classes)}


def unlearned(parts: Mapping[str, Source]) -> list[str]:
    """The classes of which no training part has a clip, though another part has."""
    learned = {k for part, source in parts.items() if part.startswith("train") for k in source.labels}
    judged = {k for source in parts.values() for k in source.labels}
    (classes, *_) = (source.classes for source in parts.values())
    return [classes[k] for k in sorted(judged - learned)] if learned else []


def unjudged(parts: Mapping[str, Source]) -> dict[str, list[str]]:
    """Part -> the classes of which it has no clip, though a training part has; parts that lack none are left out."""
    learned = {k for part, source in parts.items() if part.startswith("train") for k in source.labels}
    missing = {part: learned - {*source.labels} for part, source in parts.items() if not part.startswith("train")}
    return {part: [parts[part].classes[k] for k in sorted(lacks)] for part, lacks in missing.items() if lacks}


def open_videos(path: str | os.PathLike[str], *, split: int = 1, train: bool = True) -> Videos:
    """A part of the data set of videos at `path`: UCF-101, HMDB-51, Kinetics or class folders, by what lies there.

    `split` is that of UCF-101 and HMDB-51, 1 .. 3; the others have one. Without `train` it is the test part, of
    Kinetics and of class folders the validation part if there is one. Raises ListError.
    """
    return open_part(path, ["train"] if train else ["val", "test"], split=split)[1]


def open_part(path: str | os.PathLike[str], wanted: Sequence[str], *, split: int = 1) -> tuple[str, Videos]:
    """The first of these parts that the data set of videos at `path` has, after its name. Raises ListError."""
    parts = open_data(path).parts
    name = first_part(path, parts, wanted, split)
    return name, parts[name]


def open_data(path: str | os.PathLike[str]) -> DataSet:
    """The data set of videos at `path`, whichever it is. Raises ListError."""
    found = locate(path, READERS)
    return DataSet(found.name, found.root, READERS[found.name](found.root))


def too_few_classes(where: object, classes: Sequence[str]) -> str | None:
    """What is wrong where there are not two classes to tell apart, in one line."""
    if len(classes) > 1:
        return None
    return f"{where}: one class only, {classes[0]}: expected two or more, each in its folder"


# -- which data set ----------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A data set by its name in READERS or MARKS, and the folder that it lies in."""

    name: str
    root: Path


def locate(path: str | os.PathLike[str], kinds: Iterable[str]) -> Found:
    """The one data set at `path` or below it, which has to be of these kinds. Raises ListError."""
    root = Path(path)
    if not root.is_dir():
        raise ListError(f"{path}: not a folder; give the folder of a data set")
    found = recognise(root)
    if not found:
        raise ListError(nothing(root))
    if len(found) > 1:
        raise ListError(f"{path}: {_several(root, found)}: expected the folder of one")
    if found[0].name not in (kinds := [*kinds]):
        raise ListError(f"{path}: {found[0].name} lies here: expected {', '.join(kinds)}")
    return found[0]


def recognise(path: Path, depth: int = 2) -> list[Found]:
    """The data sets in `path`, or else in its folders.

    Class folders that are not divided into parts are known as such only where they are looked for, or beside other
    data sets: a folder further down could as well be a person, a session or a class.
    """
    here = [Found(name, path) for name, is_there in MARKS.items() if is_there(path)]
    if here:
        return here
    tops = _sorted_out(path)
    if tops.holding or _dividing(tops):
        return [Found(CLASS_FOLDERS, path)]
    below = [found for folder in folders_in(path) for found in recognise(folder, depth - 1)] if depth else []
    if below and all(map(_undivided, below)):
        return [Found(CLASS_FOLDERS, path)]
    return below


def nothing(root: Path) -> str:
    """What there is to say of a folder in which nothing is recognised, in one line."""
    if loose := _videos_in(root):
        lie = f"{len(loose)} videos lie" if len(loose) > 1 else "1 video lies"
        return (
            f"{root}: {lie} in the folder itself, such as {loose[0]}: "
            "put each into a folder named after its class; docs/data.md shows how"
        )
    return (
        f"{root}: no data set recognised here or two folders below: no lists of UCF-101, HMDB-51 or Kinetics, and no "
        "folders with videos named after their class; docs/data.md shows how each is laid out"
    )


def _several(root: Path, found: Sequence[Found]) -> str:
    """The names of several data sets, with where they lie."""
    if {each.root for each in found} == {root}:
        return f"{_listed([each.name for each in found])} lie here"
    return _listed([f"{name} in {where.relative_to(root)}" for name, where in found])


def _undivided(found: Found) -> bool:
    return found.name == CLASS_FOLDERS and not _dividing(_sorted_out(found.root))


# -- class folders -----------------------------------------------------------------------------------------------------

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "validate", "validation", "valid"),
    "test": ("test", "testing"),
}


def class_folders(root: str | os.PathLike[str]) -> Parts:
    """Folders named after their class, with videos in them; they may lie in folders train, and val or test.

    The parts may be written in any case. Without any: train and test, all but the last fifth of each class by name
    (one at least, where there are two) and that fifth; neighbours by name are often cut from one video, and so stay
    together. What lies in folders of a class belongs to that class. Classes by name, those of all parts; a folder
    without videos is none. Raises ListError for what could be read in two ways.
    """
    root = Path(root)
    roots = _divided(root)
    if roots:
        clips = {part: _classes(folder) for part, folder in roots.items()}
    else:
        roots = {"train": root, "test": root}
        clips = dict(zip(roots, _held_out(_classes(root)), strict=True))
    classes = tuple(sorted({name for found in clips.values() for name in found}))
    _check_names(root, classes)
    return {part: _labelled(roots[part], found, classes) for part, found in clips.items() if any(found.values())}


_Clips = dict[str, list[str]]
"""Class -> paths of its videos."""


def _labelled(root: Path, found: _Clips, classes: tuple[str, ...]) -> Videos:
    entries = [(file, classes.index(name)) for name, files in found.items() for file in files]
    return listed_videos(root, entries, classes, root)


def _held_out(clips: _Clips) -> tuple[_Clips, _Clips]:
    """What is trained on and what is judged, of each class."""
    held = {name: max(len(files) // 5, int(len(files) > 1)) for name, files in clips.items()}
    train = {name: files[: len(files) - held[name]] for name, files in clips.items()}
    test = {name: files[len(files) - held[name] :] for name, files in clips.items()}
    return train, test


def _divided(root: Path) -> dict[str, Path]:
    """Part -> its folder; none where the folders are classes. Raises ListError where they may be either."""
    tops = _sorted_out(root)
    parts = _dividing(tops)
    if not parts:
        return {}
    roots: dict[str, Path] = {}
    for folder in parts:
        part = _part(folder)
        if part in roots:
            raise ListError(
                f"{root}: {roots[part].name} and {folder.name} are both the part {part}: expected one of them"
            )
        roots[part] = folder
    for folder in tops.holding + tops.deeper:
        if folder in parts:
            continue
        if _part(folder):
            raise ListError(_without_classes(root, [folder]))
        raise ListError(
            f"{root}: {_listed([p.name for p in parts])} {'is a part' if len(parts) == 1 else 'are parts'} and "
            f"{folder.name}, which holds videos beside {'it' if len(parts) == 1 else 'them'}, is none: "
            "expected train, val and test alone, each with a folder for each class; rename it or take it away"
        )
    for folder in parts:
        if loose := _videos_in(folder):
            raise ListError(f"{folder}: {loose[0]} lies beside its class folders: put it into that of its class")
    return {part: roots[part] for part in _PARTS if part in roots}


def _classes(folder: Path) -> _Clips:
    """The videos of each class, both by name. Raises ListError where the folders need not be classes."""
    tops = _sorted_out(folder)
    if parts := _dividing(tops):
        raise ListError(f"{folder}: {_listed([p.name for p in parts])} would be parts of a part: move them up")
    named = [top for top in tops.holding if _part(top)]
    if named and (len({_part(top) for top in named}) > 1 or len(named) == len(tops.holding)):
        raise ListError(_without_classes(folder, named))
    for top in tops.holding + tops.deeper:
        for inner in folders_in(top):
            if _part(inner) and _holds_videos(inner):
                raise ListError(
                    f"{folder}: the part {inner.name} lies in {top.name}: "
                    f"expected {inner.name}/{top.name}/clip.mp4, the parts above the classes"
                )
    if tops.deeper:
        raise ListError(_two_readings(folder, tops))
    return {
        top.name: sorted(f"{top.name}/{file}" for file in files_below(top) if is_video(file)) for top in tops.holding
    }


def _without_classes(root: Path, folders: Sequence[Path]) -> str:
    names = sorted(folder.name for folder in folders)
    hold = "hold" if len(names) > 1 else "holds"
    return (
        f"{root}: {_listed(names)} {hold} videos and no class folders: expected {names[0]}/CLASS/clip.mp4, "
        "or folders named after the classes"
    )


def _two_readings(root: Path, tops: "_Tops") -> str:
    """Why videos that lie two folders down, or at two depths, have no clear class."""
    deep = [f"{top.name}/{_holder(top)}" for top in tops.deeper]
    if tops.holding:
        found = f"{tops.holding[0].name} holds videos itself and {deep[0]} does"
    else:
        found = f"videos lie in {_listed(deep[:3])}"
    top, inner = deep[0].split("/")[:2]
    return (
        f"{root}: {found}: which is the class, {top} or {inner}? expected CLASS/clip.mp4 or train/CLASS/clip.mp4: "
        f"move the videos into folders named after their class, or give {tops.deeper[0]} if its folders are the classes"
    )


def _holder(folder: Path) -> str:
    """The path below a folder of the first folder that holds a video itself."""
    return min(file for file in files_below(folder) if is_video(file)).rpartition("/")[0]


def _check_names(root: Path, classes: Sequence[str]) -> None:
    """Raise ListError for a class that no file can name, and for two that would be one to a reader."""
    seen: dict[str, str] = {}
    for name in classes:
        if any(0xD800 <= ord(letter) < 0xE000 for letter in name):  # a byte that is no text: no file can be written so
            raise ListError(f"{root}: the name of the class {name!a} is not UTF-8: rename its folder")
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), name)
        if other != name:
            raise ListError(
                f"{root}: the classes {other!r} and {name!r} differ in case, blanks or accents only: "
                "give them one name, or two that differ"
            )


# -- what a folder holds -----------------------------------------------------------------------------------------------


class _Tops(NamedTuple):
    """The folders of a folder: those that hold videos themselves, and those that hold some further down only."""

    holding: list[Path]
    deeper: list[Path]


def _sorted_out(root: Path) -> _Tops:
    tops = _Tops([], [])
    for folder in folders_in(root):
        if _videos_in(folder):
            tops.holding.append(folder)
        elif _holds_videos(folder):
            tops.deeper.append(folder)
    return tops


def _dividing(tops: _Tops) -> list[Path]:
    """The folders that are parts: named like one, with folders in them that hold videos."""
    holding = [top for top in tops.holding if any(map(_holds_videos, folders_in(top)))]
    return sorted(top for top in tops.deeper + holding if _part(top))


def _part(folder: Path) -> str:
    """The part that a folder is named after, in any case; "" where it is named after none."""
    name = folder.name.casefold()
    return next((part for part, names in _PARTS.items() if name in names), "")


def _videos_in(folder: Path) -> list[str]:
    """The names of the videos that lie in the folder itself."""
    return sorted(path.name for path in folder.iterdir() if is_video(path.name) and _shown(path))


def loose_videos(roots: Iterable[Path]) -> list[Path]:
    """The videos that lie beside class folders and so belong to no class."""
    return sorted(root / name for root in roots if root.is_dir() for name in _videos_in(root))


def _holds_videos(folder: Path) -> bool:
    return any(map(is_video, files_below(folder)))


def _shown(path: Path) -> bool:
    return not path.name.startswith(".") and not path.is_dir()


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# -- all that is known -------------------------------------------------------------------------------------------------


def _has(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: any(next(path.glob(pattern), None) for pattern in patterns)


READERS: dict[str, Callable[[str | os.PathLike[str]], Parts]] = {
    "UCF-101": ucf101,
    "HMDB-51": hmdb51,
    "Kinetics": kinetics,
    CLASS_FOLDERS: class_folders,
}
"""The data sets of videos."""
MARKS: dict[str, Callable[[Path], bool]] = {
    "UCF-101": lambda root: bool(find(root, "classInd.txt")),
    "HMDB-51": lambda root: bool(find(root, "*_test_split[123].txt")),
    "Kinetics": lambda root: bool(kinetics_files(root)),
    **{name: _has(*patterns) for name, patterns in PATTERNS.items()},
    SEPTUPLETS: _has("sep_trainlist.txt", "sep_testlist.txt"),
    "ImageNet VID": _has("Data/VID"),
}
"""What every data set but class folders has, by which it is known."""
