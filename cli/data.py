"""`motionspec data check`: which data sets lie in a folder, what they hold, and what is wrong with them."""

import json
import multiprocessing
import os
import signal
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from motionspec.checks import printable
from motionspec.cli.runner import CannotRun
from motionspec.cli.text import some, table
from motionspec.data import layouts, lists
from motionspec.data.flow_pairs import FlowPairs, flying_chairs, kitti, middlebury, sintel
from motionspec.data.frames import VID_CLASSES, FrameFolders, Snippets, imagenet_vid, read_objects, septuplets
from motionspec.data.source import cache_folder
from motionspec.data.video import Index, Info, VideoError, read_image
from motionspec.files import write_text
from motionspec.flow import opencv
from motionspec.progress import Progress

SHOWN = 10  # problems of one kind that are printed
MANY_CLASSES = 30  # of more, the clips of each are not printed
POOL = 64  # from so many files on, several processes decode them


@dataclass
class Report:
    """What one data set holds, as facts to print and as data, and what is wrong, by kind."""

    name: str
    path: str
    facts: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def wrong(self, kind: str, lines: Iterable[str]) -> None:
        """Add problems, a line each."""
        if lines := [*lines]:
            self.problems.setdefault(kind, []).extend(lines)

    def text(self) -> str:
        """For a terminal."""
        blocks = [f"{self.name} in {printable(self.path)}"]
        blocks += ["\n".join(map(printable, fact.split("\n"))) for fact in self.facts]
        for kind, lines in self.problems.items():
            more = [f"... and {len(lines) - SHOWN} more; --json FILE has them all"] if len(lines) > SHOWN else []
            shown = [printable(line.removeprefix(f"{self.path}/")) for line in lines[:SHOWN]]
            blocks.append("\n  ".join([f"{kind}: {len(lines)}", *shown, *more]))
        n = sum(map(len, self.problems.values()))
        return "\n\n".join([*blocks, f"{n} problem{'s' * (n > 1)}" if n else "all good"])


def check(path: str, json_file: str | None, progress: Progress) -> tuple[str, int]:
    """The text for the terminal and the exit status, 0 all good, 1 something wrong. Raises CannotRun."""
    if json_file is not None and (Path(json_file).is_dir() or not Path(json_file).parent.is_dir()):
        raise CannotRun(f"--json {json_file}: expected the name of a file in a folder that exists")
    if not Path(path).is_dir():
        raise CannotRun(f"{path}: not a folder; give the folder of a data set, or one that has some")
    reports = []
    try:
        opencv()
        for name, root in layouts.recognise(Path(path)):
            reports.append(report := Report(name, str(root)))
            try:
                CHECKS[name](report, root, progress)
            except lists.ListError as error:
                report.wrong("not read", [str(error)])
    except OSError as error:
        raise CannotRun(f"{error.filename}: {error.strerror}") from error
    except ImportError as error:
        raise CannotRun(str(error)) from error
    if not reports:
        raise CannotRun(layouts.nothing(Path(path)))
    if json_file is not None:
        try:
            write_text(Path(json_file), json.dumps([asdict(r) for r in reports], indent=2) + "\n")
        except OSError as error:
            raise CannotRun(f"--json {json_file}: {error.strerror}") from error
    return "\n\n\n".join(r.text() for r in reports), int(any(r.problems for r in reports))


# -- decoding ----------------------------------------------------------------------------------------------------------


def scan(task: Callable[[Any], Any], items: Sequence[Any], what: str, progress: Progress) -> Iterator[Any]:
    """task(item) for each, in several processes where there are many. Raises CannotRun where a decoder crashes."""
    done = 0
    progress(what, 0, len(items))
    for result in map(task, items) if len(items) < POOL else _pooled(task, items):
        progress(what, done := done + 1, len(items))
        yield result


def _pooled(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pool = ProcessPoolExecutor(os.cpu_count(), context, initializer=signal.signal, initargs=ignore)
    done = 0
    try:
        for result in pool.map(task, items, chunksize=8):
            yield result
            done += 1
    except BrokenProcessPool as error:
        raise CannotRun(f"decoding crashed at {items[done]} or soon after; take that file away") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_INDEX: dict[Path, Index] = {}


def _video(path: Path) -> Info | str:
    index = _INDEX.setdefault(file := cache_folder() / "videos.jsonl", Index(file))
    try:
        return index(path)
    except VideoError as error:
        return str(error)


def _image(path: Path) -> tuple[int, int] | str:
    try:
        return read_image(path).shape[:2]
    except VideoError as error:
        return str(error)


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    """Widths and heights, the most frequent first."""
    counted = Counter(sizes).most_common()
    shown = ", ".join(f"{w} x {h} ({n})" for (h, w), n in counted[:5])
    return shown + (f" and {len(counted) - 5} more sizes" if len(counted) > 5 else "")


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}, median {statistics.median(numbers):g}"


# -- videos ------------------------------------------------------------------------------------------------------------


def _check_videos(report: Report, root: Path, progress: Progress) -> None:
    parts = layouts.READERS[report.name](root)
    classes = next(iter(parts.values())).classes
    report.wrong("one class", filter(None, [layouts.too_few_classes(root, classes)]))
    report.wrong("no training clip", (f"{name}: a class of the others only" for name in layouts.unlearned(parts)))
    named: dict[Path, list[str]] = {}
    for part, videos in parts.items():
        for name in videos.names:
            named.setdefault(videos.root / name, []).append(part)
        twice = [name for name, n in Counter(videos.names).items() if n > 1]
        report.wrong("twice in a list", (f"{name}: in {part}" for name in twice))
    both = (
        f"{path}: in train{split} and {part}"
        for path, found in named.items()
        for split in ("", "1", "2", "3")
        for part in (f"test{split}", f"val{split}")
        if {f"train{split}", part} <= {*found}
    )
    report.wrong("in training and test", both)

    there = [path for path in named if path.is_file()]
    infos = dict(zip(there, scan(_video, there, "decoding videos", progress), strict=True))
    good = {path: info for path, info in infos.items() if isinstance(info, Info)}
    others = _other_files(report.name, {v.root for v in parts.values()}, named)
    stems = {path.with_suffix(""): path for path in others}
    report.wrong(
        "missing",
        (
            f"{path}: no such file, named in {', '.join(found)}"
            + (f"; there is {stems[stem].name}: rename it" if (stem := path.with_suffix("")) in stems else "")
            for path, found in named.items()
            if path not in infos
        ),
    )
    report.wrong("damaged", (info for info in infos.values() if isinstance(info, str)))
    report.wrong("one frame only", (f"{p}: a picture, or cut short" for p, i in good.items() if i.frames == 1))

    usable = {part: [v.root / name in good for name in v.names] for part, v in parts.items()}
    rows = [[p, str(len(v)), str(sum(usable[p])), str(len({*v.labels}))] for p, v in parts.items()]
    header = ("part", "clips", "usable", "classes")
    report.facts.append(table(header, rows, right=header[1:]))
    report.facts += [f"{part} has no clip of {some(lacks)}" for part, lacks in layouts.unjudged(parts).items()]
    if report.name == layouts.CLASS_FOLDERS:
        if {v.root for v in parts.values()} == {root}:
            report.facts.append("test is the last fifth of each class by name, where there are two clips or more")
        report.wrong(
            "not called like a video",
            (f"{p}: read only if it ends in .avi, .mp4, ...; rename it or take it away" for p in others),
        )
        roots = {root, *(videos.root for videos in parts.values())}
        empty = {folder for each in roots for folder in lists.folders_in(each)}
        report.wrong("in no class folder", (f"{p}: left out" for p in layouts.loose_videos(roots)))
        empty -= {folder for path in named for folder in path.parents}
        report.wrong("folder without videos", (f"{folder}: no class" for folder in sorted(empty)))
    elif spare := [path for path in others if lists.is_video(path.name)]:
        report.facts.append(f"videos in no list: {len(spare)}, such as {spare[0].relative_to(root)}")
    label = {v.root / name: label for v in parts.values() for name, label in zip(v.names, v.labels, strict=True)}
    a_class = Counter(classes[label[path]] for path in good)
    report.facts += [_about_videos(good), _about_classes(classes, a_class)]
    report.found = {
        "parts": {p: {"clips": len(v), "usable": sum(usable[p])} for p, v in parts.items()},
        "usable clips of each class": {name: a_class[name] for name in classes},
        "videos": {str(path): asdict(info) for path, info in good.items()},
    }


def _other_files(name: str, roots: Iterable[Path], named: Mapping[Path, object]) -> list[Path]:
    """Files in the class folders that no list names; of class folders, those that are not called like videos."""
    found = {root / file for root in roots for file in lists.files_below(root) if "/" in file} - {*named}
    return sorted(path for path in found if name != layouts.CLASS_FOLDERS or not lists.is_video(path.name))


def _about_videos(good: Mapping[Path, Info]) -> str:
    if not good:
        return "no video is usable"
    frames = [info.frames for info in good.values()]
    counted = {path: info for path, info in good.items() if info.declared}
    lacks = {path: max(0, info.declared - info.frames) for path, info in counted.items()}
    short = [n for n in lacks.values() if n]
    text = f"frames of a video: {_span(frames)}; {sum(frames)} in all"
    text += f"\nresolutions: {_sizes((info.height, info.width) for info in good.values())}"
    if short:
        some = "a frame" if max(short) == 1 else f"up to {max(short)} frames"
        text += (
            f"\n{len(short)} of {len(good)} videos decode to {some} fewer than declared: what decodes counts; so few "
        )
        text += "missing are no truncation"
    usual = min(statistics.multimode(lacks.values()), default=0)
    odd = [_said(path, good[path].frames, str(counted[path].declared)) for path, n in lacks.items() if n > usual]
    text += _noted("these lack more than is usual here, as damage does:", odd)
    fewer = [
        _said(path, info.frames, f"about {info.estimated}") for path, info in good.items() if info.may_be_truncated
    ]
    return text + _noted("these may be truncated, or have sound longer than the picture, or a rate that varies:", fewer)


def _said(path: Path, frames: int, of: str) -> str:
    return f"  {printable(str(path))}: {frames} of {of}"


def _noted(text: str, lines: Sequence[str]) -> str:
    """A note and the first of the files that it is about; nothing where there are none."""
    if not lines:
        return ""
    more = [f"  and {len(lines) - SHOWN} more; --json FILE has them all"] if len(lines) > SHOWN else []
    return "\n".join(["", text, *lines[:SHOWN], *more])


def _about_classes(classes: Sequence[str], clips: Mapping[str, int]) -> str:
    numbers = [clips[name] for name in classes]
    text = f"classes: {len(classes)}; usable clips of one: {_span(numbers)}"
    if 0 in numbers:
        text += f"; classes without: {numbers.count(0)}"
    if len(classes) <= MANY_CLASSES:
        listed = ", ".join(f"{printable(name)} {clips[name]}" for name in classes)
        text += "\n" + textwrap.fill(listed, 100, initial_indent="  ", subsequent_indent="  ")
    return text


# -- flow pairs --------------------------------------------------------------------------------------------------------

FlowReaders = Mapping[str, Callable[[Path], FlowPairs]]


def _check_flow(readers: FlowReaders, report: Report, root: Path, progress: Progress) -> None:
    for name, reader in readers.items():
        try:
            source = reader(root)
        except lists.ListError:
            continue  # KITTI may have one of its two kinds of flow; `recognise` has seen one
        found = [*scan(partial(_pair, source), range(len(source)), f"reading {name}", progress)]
        report.wrong("damaged or missing", (line for errors, _ in found for line in errors))
        good = [facts for errors, facts in found if not errors]
        text = f"{name}: {len(good)} of {len(source)} usable"
        if good:
            text += f"\n  resolutions: {_sizes(facts['size'] for facts in good)}"
            text += f"\n  known flow: {np.mean([facts['known'] for facts in good]):.1%} of the pixels"
            text += f", up to {max(facts['largest'] for facts in good):.1f} px"
            if masked := [facts["occluded"] for facts in good if facts["occluded"] is not None]:
                text += f"\n  occluded: {np.mean(masked):.1%} of the pixels (pairs with a mask: {len(masked)})"
        report.facts.append(text)
        report.found[name] = {"pairs": len(source), "usable": len(good)}


def _pair(source: FlowPairs, i: int) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with the files of a pair, else its facts."""
    pair, errors = source.pairs[i], []
    sizes: dict[str, tuple[int, ...]] = {}
    for name in filter(None, (pair.first, pair.second, pair.occlusions, pair.invalid)):
        size = _image(source.root / name)
        if isinstance(size, str):
            errors.append(size)
        else:
            sizes[name] = size
    try:
        (flow,), (known,) = source.flow(i)
        sizes[pair.flow] = known.shape
    except VideoError as error:
        errors.append(str(error))
    if len({*sizes.values()}) > 1:
        listed = ", ".join(f"{name} {w} x {h}" for name, (h, w) in sizes.items())
        errors.append(f"{source.root / pair.flow}: not of one size: {listed}")
    if errors:
        return [*dict.fromkeys(errors)], {}
    largest = float(np.hypot(*flow[:, known]).max(initial=0))
    occluded = source.occluded(i)
    share = None if occluded is None else float(occluded.mean())
    return [], {"size": known.shape, "known": float(known.mean()), "largest": largest, "occluded": share}


# -- frame folders -----------------------------------------------------------------------------------------------------


def _check_septuplets(report: Report, root: Path, progress: Progress) -> None:
    parts = septuplets(root)
    if len(parts) == 1:
        report.facts.append(f"only the list of {' and '.join(parts)} is here")
    for part, source in parts.items():
        there = [i for i, name in enumerate(source.names) if (source.root / name).is_dir()]
        gone = sorted({*range(len(source))} - {*there})
        report.wrong("missing", (f"{source.root / source.names[i]}: no such folder, named in {part}" for i in gone))
        _check_frames(report, part, source, there, progress)


def _check_frames(report: Report, part: str, source: FrameFolders, there: Sequence[int], progress: Progress) -> None:
    """Decode the frames of these folders."""
    folders = {i: source.paths(i) for i in there}
    images = [path for paths in folders.values() for path in paths]
    sizes = dict(zip(images, scan(_image, images, f"reading {part}", progress), strict=True))
    report.wrong("damaged or missing", (size for size in sizes.values() if isinstance(size, str)))
    usable = 0
    for i, paths in folders.items():
        good = {size for path in paths if not isinstance(size := sizes[path], str)}
        usable += len(good) == 1 and all(not isinstance(sizes[path], str) for path in paths)
        if len(good) > 1:
            report.wrong("not of one size", [f"{source.root / source.names[i]}: {_sizes(good)}"])
    decoded = [size for size in sizes.values() if not isinstance(size, str)]
    text = f"{part}: {usable} of {len(source)} frame folders usable; frames that decode: {len(decoded)}"
    report.facts.append(text + (f"\n  resolutions: {_sizes(decoded)}" if decoded else ""))
    report.found[part] = {"folders": len(source), "usable": usable, "frames": len(decoded)}


def _check_vid(report: Report, root: Path, progress: Progress) -> None:
    parts = imagenet_vid(root)
    for part, source in parts.items():
        _check_frames(report, part, source, range(len(source)), progress)
    for part in ("train", "val", "test"):
        _check_boxes(report, part, root / "Annotations" / "VID" / part, parts.get(part), progress)
    for path in sorted((root / "ImageSets").glob("*.txt")) + sorted((root / "ImageSets" / "VID").glob("*.txt")):
        _check_image_set(report, path, parts)


def _check_boxes(report: Report, part: str, folder: Path, source: Snippets | None, progress: Progress) -> None:
    frames = [(n, path) for i, n in enumerate(source.names) for path in source.paths(i)] if source else []
    wanted = {folder / name / f"{path.stem}.xml" for name, path in frames}
    files = {*folder.glob("**/*.xml")}
    without = {
        "frames without boxes": set() if part == "test" else wanted - files,  # those of the test are not published
        "boxes without frames": files - wanted,
    }
    for kind, paths in without.items():
        snippets = Counter(path.parent for path in sorted(paths))
        report.wrong(kind, (f"{snippet}: {n} XML files" for snippet, n in snippets.items()))
    objects: Counter[str] = Counter()
    for result in scan(_objects, sorted(files), f"reading boxes of {part}", progress):
        if isinstance(result, str):
            report.wrong("damaged or missing", [result])
        else:
            objects.update(result)
    if objects:
        listed = ", ".join(f"{name} {n}" for name, n in objects.most_common())
        report.facts.append(f"{part}: boxes by class: {listed}")
    report.found.setdefault(part, {})["boxes"] = dict(objects)


def _objects(path: Path) -> list[str] | str:
    try:
        return [[*VID_CLASSES.values()][k] for k in read_objects(path).classes]
    except VideoError as error:
        return str(error)


def _check_image_set(report: Report, path: Path, parts: Mapping[str, Snippets]) -> None:
    """A list of ILSVRC (SNIPPET 1, SNIPPET/FRAME 1) or of FGFA (PART/SNIPPET, two numbers, its number of frames)."""
    there = {f"{part}/{name}": len(s.paths(i)) for part, s in parts.items() for i, name in enumerate(s.names)}
    part = next((p for p in ("train", "val", "test") if p in path.stem), "")
    named = {}
    for _, line in lists.lines(path):
        name, *numbers = line.split()
        name = name if name.startswith(f"{part}/") else f"{part}/{name}"
        snippet = name.rpartition("/")[0] if name.rpartition("/")[2].isdigit() else name
        named[snippet] = numbers[2] if len(numbers) == 3 else None
    report.facts.append(f"{path.name}: frames of {len(named.keys() & there)} of {len(named)} snippets are there")
    if part in parts:
        report.wrong("missing", (f"{name}: no frames, named in {path.name}" for name in sorted(named.keys() - there)))
        report.wrong(
            "fewer or more frames than listed",
            (
                f"{name}: {there[name]} frames, and {path.name} says {n}"
                for name, n in named.items()
                if name in there and n is not None and n != str(there[name])
            ),
        )


CHECKS: dict[str, Callable[[Report, Path, Progress], None]] = {
    **dict.fromkeys(layouts.READERS, _check_videos),
    "FlyingChairs": partial(_check_flow, {"pairs with flow": flying_chairs}),
    "MPI-Sintel": partial(_check_flow, {f"pairs of {r} frames": partial(sintel, render=r) for r in ("clean", "final")}),
    "KITTI": partial(_check_flow, {f"pairs with {f}": partial(kitti, flow=f) for f in ("flow_occ", "flow_noc")}),
    "Middlebury": partial(_check_flow, {"pairs with flow": middlebury}),
    "Vimeo-90K septuplets": _check_septuplets,
    "ImageNet VID": _check_vid,
}
