"""Data sets of labelled videos by their list files, all read into parts such as train1, each a Source.

Every entry of a list becomes a clip, whether its file is there or not: a missing file is a VideoError when it is read,
and `motionspec data check` names them all beforehand. docs/data.md shows the folders.
"""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
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


def first_part(data: str | os.PathLike[str], there: Iterable[str], wanted: Sequence[str], split: int = 1) -> str:
    """The first of the wanted parts that there is; test is test1 where there are splits. Raises ListError."""
    for name in (name for part in wanted for name in (f"{part}{split}", part)):
        if name in there:
            return name
    of = f" in split {split}" if any(name[-1].isdigit() for name in there) else ""
    raise ListError(f"{data}: has {', '.join(there)} and no {' or '.join(wanted)}{of}")


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
                parts[f"{part}{split}"] = listed_videos(videos, entries, classes, path)
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
    return {part: listed_videos(videos, found, classes, files[0].parent) for part, found in entries.items() if found}


def kinetics(root: str | os.PathLike[str]) -> Parts:
    """Kinetics: train, val, test from CSV files with the columns label, youtube_id, time_start, time_end.

    train.csv, val.csv (or validate.csv) and test.csv may lie in `root` or one folder below; a file without labels is
    left out. The video of a row is any below `root` called youtube_id or youtube_id_START_END, seconds in 6 digits.
    Classes by name, those of all files. Raises ListError.
    """
    root, rows = Path(root), dict[str, tuple[Path, list[dict[str, str]]]]()
    for path in kinetics_files(root):
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
        parts[part] = listed_videos(root, entries, classes, path)
    return parts


def kinetics_files(root: Path) -> list[Path]:
    """The CSV files of Kinetics, in `root` or one folder below."""
    found = []
    for path in (p for name in ("train", "val", "validate", "test") for p in find(root, f"{name}.csv")[:1]):
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            if "youtube_id" in file.readline():
                found.append(path)
    return found


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


def listed_videos(root: Path, entries: list[tuple[str, int]], classes: tuple[str, ...], where: Path) -> Videos:
    """A part of these names and labels. Raises ListError where there are none."""
    if not entries:
        raise ListError(f"{where}: no clip in it")
    names, labels = zip(*entries, strict=True)
    return Videos(root, names, labels, classes)


def is_video(name: str) -> bool:
    """Whether it is called like a video."""
    return Path(name).suffix.lower() in SUFFIXES


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, links to folders included; without hidden ones and links that lead back up."""
    if not root.is_dir():
        return []
    return sorted(
        path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir() and not _leads_up(path)
    )


def files_below(root: Path) -> Iterator[str]:
    """Paths below `root`, with slashes, of the files at any depth; without hidden ones and links that lead back up."""
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_up(here / name)]
        for name in files:
            if not name.startswith("."):
                yield (here / name).relative_to(root).as_posix()


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to one of those on its own path, or to one above them."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any(above.resolve().is_relative_to(target) for above in folder.absolute().parents)


def find(root: Path, pattern: str) -> list[Path]:
    """Files in `root`, or else in the folders of it."""
    return sorted(root.glob(pattern)) or sorted(root.glob(f"*/{pattern}"))


def _video_root(root: Path, classes: Iterable[str]) -> Path:
    """The folder, `root` or one in it, that has the most of these class folders."""
    return max([root, *folders_in(root)], key=lambda folder: sum((folder / name).is_dir() for name in classes))
