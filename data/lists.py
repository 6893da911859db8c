"""Data sets of labelled videos by their list files, all read into parts such as train1, each a Source.

Every entry of a list becomes a clip, whether its file is there or not: a missing file is a VideoError when it is read,
and `motionspec data check` names them all beforehand. docs/data.md shows the folders.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from motionspec.data.video import Videos, is_pipe

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
    lists = _once(Path(root), "classInd.txt")[0].parent
    numbered: dict[int, str] = {}
    for where, line in lines(lists / "classInd.txt"):
        found = _CLASS.fullmatch(line)
        if not found or int(found["number"]) in numbered:
            raise ListError(f"{where}: expected a number of its own and the name of a class, got {_short(line)}")
        if found["name"] in numbered.values():
            number = next(k for k, name in numbered.items() if name == found["name"])
            raise ListError(f"{where}: {found['name']} is class {number} already")
        numbered[int(found["number"])] = found["name"]
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


# What stands between a file and its label: blanks, tabs, commas or semicolons. A file's name may have them too.
_CLASS = re.compile(r"(?P<number>[0-9]{1,9})[ \t,;]+(?P<name>.+)", re.DOTALL)
_FILE = re.compile(r"(?P<name>.*?[^ \t,;])[ \t,;]+(?P<label>[0-9]{1,9})", re.DOTALL)
_BEHIND = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})[ \t,;]", re.IGNORECASE)


def _ucf_entry(where: str, line: str, classes: tuple[str, ...]) -> tuple[str, int]:
    found = _FILE.fullmatch(line)
    name, number = (found["name"], int(found["label"])) if found else (line, None)
    if not is_video(name) and _BEHIND.search(name):
        raise ListError(f"{where}: expected a file and the number of its class, got {_short(line)}")
    below(where, name)
    folder = name.split("/")[0]
    if number is None:
        if folder not in classes:
            raise ListError(f"{where}: no class number, and no class of classInd.txt is called {folder!r}")
        return name, classes.index(folder)
    if not 1 <= number <= len(classes):
        raise ListError(f"{where}: class {number} of 1 to {len(classes)}")
    if folder in classes and classes[number - 1] != folder:
        raise ListError(f"{where}: class {number} is {classes[number - 1]}, and the folder is {folder}")
    return name, number - 1


def hmdb51(root: str | os.PathLike[str]) -> Parts:
    """HMDB-51: train1, test1 .. train3, test3, from the 70/30 lists CLASS_test_splitN.txt.

    A line is a file of that class and 1 for training, 2 for test, 0 for neither. Classes by name. Raises ListError.
    """
    files = _once(Path(root), "*_test_split[123].txt")
    named = {path: path.stem.rpartition("_test_split") for path in files}
    for path, (name, _, split) in named.items():
        if not name:
            raise ListError(f"{path}: expected CLASS_test_split{split}.txt")
    classes = tuple(sorted({name for name, _, _ in named.values()}))
    videos = _video_root(Path(root), classes)
    entries: dict[str, list[tuple[str, int]]] = {f"{part}{split}": [] for split in "123" for part in ("train", "test")}
    for path, (name, _, split) in sorted(named.items()):
        for where, line in lines(path):
            found = _FILE.fullmatch(line)
            if not found or found["label"] not in ("0", "1", "2"):
                expected = "a file and 0 (unused), 1 (train) or 2 (test)"
                raise ListError(f"{where}: expected {expected}, got {_short(line)}")
            if found["label"] != "0":
                part = f"{'train' if found['label'] == '1' else 'test'}{split}"
                entries[part].append((f"{name}/{below(where, found['name'])}", classes.index(name)))
    return {part: listed_videos(videos, found, classes, files[0].parent) for part, found in entries.items() if found}


def kinetics(root: str | os.PathLike[str]) -> Parts:
    """Kinetics: train, val, test from CSV files with the columns label, youtube_id, time_start, time_end.

    train.csv, val.csv (or validate.csv) and test.csv may lie in `root` or one folder below; a file without labels is
    left out. The video of a row is any below `root` called youtube_id or youtube_id_START_END, seconds in 6 digits.
    Classes by name, those of all files. Raises ListError.
    """
    root = Path(root)
    tables: dict[str, tuple[Path, list[Row]]] = {}
    for path in kinetics_files(root):
        part = {"validate": "val"}.get(path.stem, path.stem)
        if part in tables:
            raise ListError(f"{root}: {tables[part][0].name} and {path.name} are both the part {part}: expected one")
        rows = [*_rows(path)]
        if any(row.get("label") for _, row in rows):
            tables[part] = path, rows
    if not tables:
        raise ListError(f"{root}: the CSV files of Kinetics here have no column label; without it there are no classes")
    for where, row in (row for _, rows in tables.values() for row in rows):
        if not row.get("label"):
            raise ListError(f"{where}: expected a label, which is the name of a class, got none")
    files = {Path(name).stem: name for name in files_below(root) if is_video(name)}
    classes = tuple(sorted({row["label"] for _, rows in tables.values() for _, row in rows}))
    number = {name: k for k, name in enumerate(classes)}
    parts = {}
    for part, (path, rows) in tables.items():
        entries = [(_kinetics_file(where, row, part, files), number[row["label"]]) for where, row in rows]
        parts[part] = listed_videos(root, entries, classes, path)
    return parts


Row = tuple[str, dict[str, str]]
"""FILE:LINE, and the cells of a row of a CSV file by the names of their columns."""


def _kinetics_file(where: str, row: Mapping[str, str], part: str, files: Mapping[str, str]) -> str:
    """The path of the video of a row: that of a file that is there, or where it should be."""
    video = row.get("youtube_id", "")
    try:
        start, end = int(row["time_start"]), int(row["time_end"])
    except (KeyError, ValueError) as error:
        raise ListError(f"{where}: expected youtube_id, and whole seconds time_start, time_end") from error
    if not video:
        raise ListError(f"{where}: expected youtube_id, and whole seconds time_start, time_end")
    key = f"{below(where, video)}_{start:06}_{end:06}"
    return files.get(key) or files.get(video) or f"{part}/{below(where, row['label'])}/{key}.mp4"


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file, whichever of comma, semicolon and tab its header has most of. Raises ListError."""
    text = _text(path)
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    cells = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, restval="", strict=True
    )
    try:
        for row in cells:
            named = {name.strip().lower(): cell.strip() for name, cell in row.items() if name is not None}
            yield f"{path}:{cells.line_num}", named
    except csv.Error as error:
        n = min(cells.line_num, text.count("\n")) + 1  # of the line that could not be read, which is not counted yet
        raise ListError(f"{path}:{n}: {error}") from error


def kinetics_files(root: Path) -> list[Path]:
    """The CSV files of Kinetics, in `root` or one folder below. Raises ListError where there are two of a name."""
    found = []
    for name in ("train", "val", "validate", "test"):
        there = [path for path in find(root, f"{name}.csv") if _begins_as_kinetics(path)]
        found += _none_twice(root, there)
    return found


def _begins_as_kinetics(path: Path) -> bool:
    """Whether a column is called youtube_id, in UTF-16 too, which is refused by name when it is read."""
    if is_pipe(path):
        return False
    try:
        with path.open("rb") as file:
            return b"youtube_id" in file.readline(10_000).replace(b"\0", b"").lower()
    except OSError:
        return False


# -- shared ------------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """FILE:LINE and the text of each line that has one; LF or CRLF. Raises ListError."""
    for n, line in enumerate(_text(path).split("\n"), 1):
        text = line.strip(" \t\r")  # no more: what else Python takes for a blank may be part of a file's name
        if "\r" in text:
            raise ListError(f"{path}:{n}: a carriage return in the middle of a line: save it with line feeds")
        if text := text.rstrip(",; \t"):
            yield f"{path}:{n}", text


def _text(path: Path) -> str:
    """What a text file in UTF-8 says. Raises ListError that names the line that is none."""
    if is_pipe(path):
        raise ListError(f"{path}: a pipe or device, no file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        n = data.count(b"\n", 0, error.start) + 1
        raise ListError(f"{path}:{n}: not text in UTF-8 (byte {data[error.start]:#x}); save it as UTF-8") from error
    if "\0" in text:
        n = text.count("\n", 0, text.index("\0")) + 1
        raise ListError(f"{path}:{n}: a zero byte, so this is no text: damaged; fetch it again")
    return text


_LONGEST = 255  # bytes of a name, in all usual file systems


def below(where: str, name: str) -> str:
    """A name of a list, which stays below the folder of its data set. Raises ListError for one that does not.

    Also for one that no file can have.
    """
    steps = re.split(r"[/\\]", name)
    if ".." in steps or not steps[0] or re.fullmatch("[A-Za-z]:", steps[0]):
        raise ListError(f"{where}: {_short(name)} leaves the data set: expected a path below it")
    if max(len(step.encode()) for step in steps) > _LONGEST:
        raise ListError(f"{where}: {_short(name)} is longer than the name of a file may be")
    return name


def _short(text: str) -> str:
    """Quoted, and cut where it is no name any more but a file without line ends."""
    return repr(text if len(text) <= 120 else f"{text[:120]}...")


def _once(root: Path, pattern: str) -> list[Path]:
    """As `find`. Raises ListError where two folders have a list of one name."""
    return _none_twice(root, find(root, pattern))


def _none_twice(root: Path, files: list[Path]) -> list[Path]:
    seen: dict[str, Path] = {}
    for path in files:
        other = seen.setdefault(path.name, path)
        if other != path:
            folders = f"{other.parent.name} and in {path.parent.name}"
            raise ListError(f"{root}: {path.name} lies in {folders}: expected it once")
    return files


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
    """Files in `root`, or else in the folders of it; hidden ones are none."""
    folders = [root, *folders_in(root)]
    here, *below = ([path for path in sorted(each.glob(pattern)) if path.name[0] != "."] for each in folders)
    return here or [path for found in below for path in found]


def _video_root(root: Path, classes: Iterable[str]) -> Path:
    """The folder, `root` or one in it, that has the most of these class folders."""
    return max([root, *folders_in(root)], key=lambda folder: sum((folder / name).is_dir() for name in classes))
