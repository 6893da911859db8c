"""Data sets of labelled videos: list files and class folders, all read into parts such as train1, each a Source.

Every entry of a list becomes a clip, whether its file is there or not: a missing file is a VideoError when it is read,
and `motionspec data check` names them all beforehand. docs/data.md shows the folders.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from motionspec.data.video import Videos

Parts = dict[str, Videos]

SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
"""The names of videos in class folders end so, in any case; in list files they may end as they like."""


class ListError(ValueError):
    """A list or folder that cannot be read as the data set it should be; one line: where, what is wrong."""


def open_videos(path: str | os.PathLike[str], *, split: int = 1, train: bool = True) -> Videos:
    """A part of the data set of videos at `path`: UCF-101, HMDB-51, Kinetics or class folders, by what lies there.

    `split` is that of UCF-101 and HMDB-51, 1 .. 3; the others have one. Without `train` it is the test part, of
    Kinetics and of class folders the validation part if there is one. Raises ListError.
    """
    return open_part(path, ["train"] if train else ["val", "test"], split=split)[1]


def open_part(path: str | os.PathLike[str], wanted: Sequence[str], *, split: int = 1) -> tuple[str, Videos]:
    """The first of these parts that the data set of videos at `path` has, after its name. Raises ListError."""
    parts = read_parts(path)
    name = first_part(path, parts, wanted, split)
    return name, parts[name]


def first_part(data: str | os.PathLike[str], there: Iterable[str], wanted: Sequence[str], split: int = 1) -> str:
    """The first of the wanted parts that there is; test is test1 where there are splits. Raises ListError."""
    for name in (name for part in wanted for name in (f"{part}{split}", part)):
        if name in there:
            return name
    of = f" in split {split}" if any(name[-1].isdigit() for name in there) else ""
    raise ListError(f"{data}: has {', '.join(there)} and no {' or '.join(wanted)}{of}")


def read_parts(path: str | os.PathLike[str]) -> Parts:
    """All parts of the data set of videos at `path`, whichever it is. Raises ListError."""
    return READERS[video_format(path)](path)


def video_format(path: str | os.PathLike[str]) -> str:
    """Which of READERS reads `path`. Raises ListError where none does."""
    root = Path(path)
    if not root.is_dir():
        raise ListError(f"{path}: not a folder; give the folder of a data set")
    for name, is_there in MARKS.items():
        if is_there(root):
            return name
    raise ListError(
        f"{path}: no lists of UCF-101, HMDB-51 or Kinetics here, and no folders with videos named after their class"
    )


# -- list files --------------------------------------------------------------------------------------------------------


def ucf101(root: str | os.PathLike[str]) -> Parts:
    """UCF-101: train1, test1 .. train3, test3, from classInd.txt, trainlist0N.txt and testlist0N.txt.

    Lists and class folders may lie in `root` or one folder below. Labels are numbers of classInd.txt less 1; a line of
    a test list has none and belongs to the class that its folder is named after. Raises ListError.
    """
    lists = find(Path(root), "classInd.txt")[0].parent
    numbered: dict[int, str] = {}
    for where, line in lines(lists / "classInd.txt"):
        number, _, name = line.partition(" ")
        if not number.isdecimal() or not name or int(number) in numbered:
            raise ListError(f"{where}: expected a number of its own and the name of a class, got {line!r}")
        numbered[int(number)] = name.strip()
    if sorted(numbered) != [*range(1, len(numbered) + 1)]:
        raise ListError(f"{lists / 'classInd.txt'}: the classes should have the numbers 1 to {len(numbered)}")
    classes = tuple(numbered[k] for k in sorted(numbered))
    videos = _video_root(Path(root), classes)
    parts = {}
    for split in (1, 2, 3):
        for part in ("train", "test"):
            if (path := lists / f"{part}list0{split}.txt").is_file():
                entries = [_ucf_entry(where, line, classes) for where, line in lines(path)]
                parts[f"{part}{split}"] = _videos(videos, entries, classes, path)
    if not parts:
        raise ListError(f"{lists}: classInd.txt is here, but no trainlist01.txt or testlist01.txt")
    return parts


def _ucf_entry(where: str, line: str, classes: tuple[str, ...]) -> tuple[str, int]:
    name, _, number = line.rpartition(" ")
    if not number.isdecimal():
        name, number = line, ""
    folder = name.split("/")[0]
    if number and not 1 <= int(number) <= len(classes):
        raise ListError(f"{where}: class {number} of 1 to {len(classes)}")
    if not number and folder not in classes:
        raise ListError(f"{where}: no class number, and no class of classInd.txt is called {folder!r}")
    if number and folder in classes and classes[int(number) - 1] != folder:
        raise ListError(f"{where}: class {number} is {classes[int(number) - 1]}, and the folder is {folder}")
    return name.strip(), int(number) - 1 if number else classes.index(folder)


def hmdb51(root: str | os.PathLike[str]) -> Parts:
    """HMDB-51: train1, test1 .. train3, test3, from the 70/30 lists CLASS_test_splitN.txt.

    A line is a file of that class and 1 for training, 2 for test, 0 for neither. Classes by name. Raises ListError.
    """
    files = find(Path(root), "*_test_split[123].txt")
    named = {path: path.stem.rpartition("_test_split") for path in files}
    classes = tuple(sorted({name for name, _, _ in named.values()}))
    videos = _video_root(Path(root), classes)
    entries: dict[str, list[tuple[str, int]]] = {f"{part}{split}": [] for split in "123" for part in ("train", "test")}
    for path, (name, _, split) in sorted(named.items()):
        for where, line in lines(path):
            file, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not file:
                raise ListError(f"{where}: expected a file and 0 (unused), 1 (train) or 2 (test), got {line!r}")
            if use != "0":
                part = f"{'train' if use == '1' else 'test'}{split}"
                entries[part].append((f"{name}/{file.strip()}", classes.index(name)))
    return {part: _videos(videos, found, classes, files[0].parent) for part, found in entries.items() if found}


def kinetics(root: str | os.PathLike[str]) -> Parts:
    """Kinetics: train, val, test from CSV files with the columns label, youtube_id, time_start, time_end.

    train.csv, val.csv (or validate.csv) and test.csv may lie in `root` or one folder below; a file without labels is
    left out. The video of a row is any below `root` called youtube_id or youtube_id_START_END, seconds in 6 digits.
    Classes by name, those of all files. Raises ListError.
    """
    root, rows = Path(root), dict[str, tuple[Path, list[dict[str, str]]]]()
    for path in _kinetics_files(root):
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = [*csv.DictReader(file)]
        if table and "label" in table[0]:
            rows[{"validate": "val"}.get(path.stem, path.stem)] = (path, table)
    if not rows:
        raise ListError(f"{root}: the CSV files of Kinetics here have no column label; without it there are no classes")
    files = {Path(name).stem: name for name in files_below(root) if is_video(name)}
    classes = tuple(sorted({row["label"] for _, table in rows.values() for row in table}))
    number = {name: k for k, name in enumerate(classes)}
    parts = {}
    for part, (path, table) in rows.items():
        entries = []
        for n, row in enumerate(table, 2):
            try:
                key = f"{row['youtube_id']}_{int(row['time_start']):06}_{int(row['time_end']):06}"
            except (KeyError, TypeError, ValueError) as error:
                raise ListError(f"{path}:{n}: expected youtube_id, and whole seconds time_start, time_end") from error
            name = files.get(key) or files.get(row["youtube_id"]) or f"{part}/{row['label']}/{key}.mp4"
            entries.append((name, number[row["label"]]))
        parts[part] = _videos(root, entries, classes, path)
    return parts


def _kinetics_files(root: Path) -> list[Path]:
    found = []
    for path in (p for name in ("train", "val", "validate", "test") for p in find(root, f"{name}.csv")[:1]):
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            if "youtube_id" in file.readline():
                found.append(path)
    return found


# -- folders -----------------------------------------------------------------------------------------------------------

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "validate", "validation", "valid"),
    "test": ("test", "testing"),
}


def class_folders(root: str | os.PathLike[str]) -> Parts:
    """Folders named after their class, videos at any depth below; they may lie in folders train, and val or test.

    Without train, unless val and test are all there is: train and test, all but the last fifth of each class by name
    (one at least, where there are two) and that fifth; neighbours by name are often cut from one video, and so stay
    together. Classes by name, those of all parts; a folder without videos is none. Raises ListError.
    """
    root = Path(root)
    roots = {part: path for part, names in _PARTS.items() for name in names if _folders(path := root / name)}
    clips = {part: _class_folder(path) for part, path in roots.items()}
    parts = {path.name for path in roots.values()}
    if "train" not in roots and (everything := _class_folder(root)).keys() != parts:
        roots, clips = {"train": root, "test": root}, {}
        held = {name: max(len(files) // 5, int(len(files) > 1)) for name, files in everything.items()}
        clips["train"] = {name: files[: len(files) - held[name]] for name, files in everything.items()}
        clips["test"] = {name: files[len(files) - held[name] :] for name, files in everything.items()}
    classes = tuple(sorted({name for found in clips.values() for name in found}))
    return {
        part: _videos(roots[part], [(file, classes.index(c)) for c in found for file in found[c]], classes, roots[part])
        for part, found in clips.items()
        if any(found.values())
    }


def _class_folder(folder: Path) -> dict[str, list[str]]:
    """The videos of each class, both by name."""
    clips = {p.name: sorted(f"{p.name}/{f}" for f in files_below(p) if is_video(f)) for p in _folders(folder)}
    return {name: files for name, files in clips.items() if files}


# -- shared ------------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """FILE:LINE and the text of each line that has one; LF or CRLF. Raises ListError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ListError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: not a text file in UTF-8") from error
    for n, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path}:{n}", line.strip()


def _videos(root: Path, entries: list[tuple[str, int]], classes: tuple[str, ...], where: Path) -> Videos:
    if not entries:
        raise ListError(f"{where}: no clip in it")
    names, labels = zip(*entries, strict=True)
    return Videos(root, names, labels, classes)


def is_video(name: str) -> bool:
    """Whether it is called like a video."""
    return Path(name).suffix.lower() in SUFFIXES


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []


def files_below(root: Path) -> Iterator[str]:
    """Paths below `root`, with slashes, of the files at any depth; without hidden ones and links that lead back up."""
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        above = [p.resolve() for p in (here, *here.parents) if p.is_relative_to(root)]
        shown = [(name, (here / name).resolve()) for name in folders if not name.startswith(".")]
        folders[:] = [name for name, target in shown if not any(p.is_relative_to(target) for p in above)]
        for name in files:
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def find(root: Path, pattern: str) -> list[Path]:
    """Files in `root`, or else in the folders of it."""
    return sorted(root.glob(pattern)) or sorted(root.glob(f"*/{pattern}"))


def _video_root(root: Path, classes: Iterable[str]) -> Path:
    """The folder, `root` or one in it, that has the most of these class folders."""
    return max([root, *_folders(root)], key=lambda folder: sum((folder / name).is_dir() for name in classes))


def _has_videos(root: Path) -> bool:
    """Whether a folder in it, or in its train folder, has a video."""
    return any(_class_folder(folder) for folder in (root, *(root / name for name in _PARTS["train"])))


READERS: dict[str, Callable[[str | os.PathLike[str]], Parts]] = {
    "UCF-101": ucf101,
    "HMDB-51": hmdb51,
    "Kinetics": kinetics,
    "class folders": class_folders,
}
MARKS: dict[str, Callable[[Path], bool]] = {
    "UCF-101": lambda root: bool(find(root, "classInd.txt")),
    "HMDB-51": lambda root: bool(find(root, "*_test_split[123].txt")),
    "Kinetics": lambda root: bool(_kinetics_files(root)),
    "class folders": _has_videos,
}
