"""The `motionspec` command."""

import argparse
import ast
import functools
import inspect
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import motionspec
from motionspec.checks import printable
from motionspec.cli.cases import DEFAULT_CASES, DTYPES
from motionspec.cli.check import Verdict, judge
from motionspec.cli.inventory import ROOT, find, planned
from motionspec.cli.networks import as_json, details, listing
from motionspec.cli.results import judge_results
from motionspec.cli.runner import CannotRun, Runner
from motionspec.cli.text import report, settings, table
from motionspec.cli.vectors import Vectors, write
from motionspec.files import write_text
from motionspec.fused import FUSED
from motionspec.refimpl.equations import EQUATIONS, SINGLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 done or agrees, 1 differs, 2 cannot run, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is shown as its number
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except CannotRun as error:
        print(f"motionspec: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `motionspec list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that closing stdout does not complain again
        return 0
    except KeyboardInterrupt as interrupt:
        print(f"\nmotionspec: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like everything here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="motionspec",
        description="Is a motion operator right? The equations of five papers, and a judge for any implementation.",
    )
    parser.add_argument("--version", action="version", version=f"motionspec {motionspec.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="every equation: source, what it says, implementations, state")
    one.add_argument("--markdown", action="store_true", help="the equations by stem, as in the README")
    one.set_defaults(run=list_equations)

    one = commands.add_parser("show", help="one equation: definition, conventions, deviations, where everything stands")
    one.add_argument("id", metavar="ID", help="an equation such as warp.bilinear")
    one.set_defaults(run=show)

    one = commands.add_parser(
        "models", help="the networks of the papers: parameters, FLOPs, input; one with its stages"
    )
    one.add_argument("name", nargs="?", metavar="NAME", help="a network such as tsn: its arguments and stage table")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="the list as a Markdown table")
    form.add_argument("--json", action="store_true", help="all that is shown, as JSON")
    one.set_defaults(run=show_networks)

    one = commands.add_parser(
        "check",
        help="hold our operators, or anyone's callable, against the equations",
        description="Hold our operators, or anyone's callable, against the equations. "
        "Exit status: 0 agrees; 1 a number, shape or type is wrong, or it raises, crashes or never returns in a case; "
        "2 cannot run: an import or option that fails, no such callable, one that does not take these arguments, or "
        "one that takes or returns another framework's arrays in every case.",
        epilog="example: motionspec check warp.bilinear --impl adapters.py:remap --variant outside=blend",
    )
    one.add_argument("ids", nargs="*", metavar="ID", help="equations such as warp.bilinear; with --impl exactly one")
    one.add_argument("--all", action="store_true", help="every equation that has an operator")
    one.add_argument(
        "--impl",
        metavar="TARGET",
        help="judge this instead: package.module:function or FILE.py:function. It gets the arrays by position",
    )
    one.add_argument(
        "--variant",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="judge this variant only (a callable without the keyword is held against it); default: all "
        "that the keywords it takes can ask for; the report names the others",
    )
    one.add_argument(
        "--framework",
        choices=["numpy", "torch"],
        help="what the callable takes and returns; default: numpy with --impl",
    )
    one.add_argument("--device", default="cpu", help="torch device of the inputs (default: cpu)")
    one.add_argument(
        "--dtype",
        help=f"one or more of {','.join(DTYPES)} (default: float64). Types other than float64 add a table of what they "
        "cost: per equation the worst absolute and relative error and the error in units in the last place",
    )
    one.add_argument(
        "--grad", action="store_true", help="also hold the gradients against the reference's central differences"
    )
    one.add_argument(
        "--cases",
        type=_positive(int),
        default=DEFAULT_CASES,
        metavar="N",
        help=f"inputs per equation and variant (default: {DEFAULT_CASES})",
    )
    one.add_argument("--seed", type=_natural, default=0, metavar="S", help="other inputs (default: 0)")
    one.add_argument(
        "--timeout", type=_positive(float), default=60.0, metavar="SECONDS", help="for one call (default: 60)"
    )
    one.add_argument("--json", metavar="FILE", help="also write the verdicts there")
    one.add_argument(
        "--vectors-result",
        metavar="DIR",
        help="judge result files instead, which another program made of the files of `motionspec vectors`. "
        "--dtype: one, default that of the files; --impl, --framework, --device, --cases, --timeout do not apply",
    )
    one.add_argument(
        "--vectors", metavar="DIR", help="the vectors that --vectors-result answers (default: those of --seed, anew)"
    )
    one.set_defaults(run=check)

    one = commands.add_parser(
        "vectors",
        help="write inputs and expected outputs and gradients as .npz files, for programs in any language",
        description="Write golden vectors: per case an .npz of inputs, expected outputs, output cotangents and input "
        "gradients, and a manifest.json with parameters, tolerances and citations. Result files that a program makes "
        "of them are judged by `motionspec check ID --vectors-result DIR`.",
        epilog="example: motionspec vectors warp costvol.cosine -o vectors",
    )
    one.add_argument("ids", nargs="*", metavar="ID", help="equations, or stems such as warp (default: every equation)")
    one.add_argument("-o", "--output", required=True, metavar="DIR", help="a new or empty folder")
    one.add_argument("--seed", type=_natural, default=0, metavar="S", help="other inputs (default: 0)")
    one.set_defaults(run=write_vectors)

    one = commands.add_parser(
        "demo",
        help="every operator on real frames, with a picture report",
        description="Run every operator on frame pairs, hold it against the oracle, time it, and write a "
        "self-contained report.html. Without files: a photograph moved by a known flow.",
        epilog="example: motionspec demo frame10.png frame11.png --flow flow10.flo -o rubberwhale",
    )
    one.add_argument("files", nargs="*", metavar="VIDEO | IMAGE0 IMAGE1", help="a video, or two images of one size")
    one.add_argument(
        "--flow", metavar="FILE", help="ground truth from IMAGE0 to IMAGE1: .flo, KITTI 16-bit .png or .npy"
    )
    one.add_argument(
        "-o",
        "--output",
        default="motionspec-demo",
        metavar="DIR",
        help="folder of report.html (default: motionspec-demo)",
    )
    one.add_argument(
        "--pairs", type=_positive(int), default=3, metavar="K", help="frame pairs taken from a video (default: 3)"
    )
    one.add_argument("--device", default="cpu", help="torch device of the operators (default: cpu)")
    one.add_argument(
        "--model", metavar="NAME", help="also run this network of `motionspec models` on frames in a row of the video"
    )
    one.add_argument("--weights", metavar="FILE", help="its weights, .safetensors or a state_dict (default: random)")
    one.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="an argument of it, such as classes=51"
    )
    one.set_defaults(run=run_demo)

    one = commands.add_parser("data", help="the data sets on this machine")
    of_data = one.add_subparsers(metavar="COMMAND", required=True)
    one = of_data.add_parser(
        "check",
        help="which data sets lie in a folder, what they hold, and what is wrong with them",
        description="Find out which data sets lie in a folder, decode every file of them, and say what they hold and "
        "what is wrong. Exit status: 0 all good, 1 something is wrong, 2 cannot run.",
        epilog="example: motionspec data check datasets/UCF101",
    )
    one.add_argument("path", metavar="PATH", help="the folder of a data set, or one that has some")
    one.add_argument("--json", metavar="FILE", help="also write what was found there")
    one.set_defaults(run=check_data)

    one = commands.add_parser(
        "train",
        help="train a network by a recipe of the papers",
        description="Train a network by a recipe of the papers, on a data set or on the motion benchmark, which is "
        "generated. The folder of the run has the weights, the log, and what it takes to go on.",
        epilog="example: motionspec train motion-off --data motion:tiny --out run --set lr=0.01",
    )
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe of --list")
    one.add_argument("--list", action="store_true", help="the recipes; with RECIPE its numbers and their sources")
    one.add_argument("--data", metavar="PATH", help="the folder of a data set, or motion:tiny, small, medium, large")
    one.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="of UCF-101 and HMDB-51 (default: 1)")
    one.add_argument("-o", "--out", dest="output", metavar="RUN", help="the folder of the run")
    one.add_argument(
        "--weights",
        metavar="FILE",
        help="begin with these, of an earlier run or published; other classes get a new last layer (default: random)",
    )
    one.add_argument("--resume", action="store_true", help="go on where the run stopped, with the same settings")
    one.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a setting: batch, ema, length, lr, clip ..., network.width, view.size, of a stage alone off.lr",
    )
    one.add_argument("--seed", type=_natural, default=0, metavar="S", help="of all that is random (default: 0)")
    one.add_argument("--device", help="torch device (default: CUDA if there is any)")
    one.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    one.add_argument(
        "--accumulate",
        type=_positive(int),
        default=1,
        metavar="N",
        help="parts that a batch is computed in (default: 1)",
    )
    one.add_argument("--workers", type=_natural, default=0, metavar="N", help="processes that read clips (default: 0)")
    one.add_argument(
        "--save-every", type=_positive(int), default=100, metavar="N", help="steps between saves (default: 100)"
    )
    one.add_argument(
        "--measure-every", type=_positive(int), default=1, metavar="N", help="epochs between measurings (default: 1)"
    )
    one.add_argument("--tensorboard", action="store_true", help="the curves for TensorBoard too, in RUN/tensorboard")
    one.add_argument(
        "--broken",
        choices=("raise", "skip"),
        default="raise",
        help="a video that cannot be read ends the run, or is named and the next good one taken (default: raise)",
    )
    one.set_defaults(run=train)

    one = commands.add_parser(
        "eval",
        help="a trained network on a data set: accuracies, a confusion matrix, what was skipped",
        description="Judge a network that `motionspec train` made on a part of a data set. Writes result.json, "
        "classes.csv, confusion.csv, confusion.png and scores.csv. A video's score is the mean over its views before "
        "the softmax (OFF18 (8), AF18 §4.2).",
        epilog="example: motionspec eval rgb-run --data UCF-101 --protocol 25-segments,10-crop --fuse flow-run=0.5",
    )
    one.add_argument("run_folder", metavar="RUN", help="the folder of a run of `motionspec train`")
    one.add_argument(
        "--data", required=True, metavar="PATH", help="the folder of a data set, or motion:tiny, small, medium, large"
    )
    one.add_argument(
        "--split", type=int, choices=(1, 2, 3), help="of UCF-101 and HMDB-51 (default: that of the training)"
    )
    one.add_argument("--part", choices=("train", "val", "test"), help="of the data (default: test, else val)")
    one.add_argument(
        "--fuse",
        metavar="RUN=WEIGHT",
        action="append",
        default=[],
        help="add the scores of this run too, times the weight (those of RUN: times 1; OFF18 §4.3)",
    )
    one.add_argument(
        "--broken",
        choices=("raise", "skip"),
        default="raise",
        help="a video that cannot be read ends the command, or is named, counted and left out (default: raise)",
    )
    one.add_argument("--workers", type=_natural, default=0, metavar="N", help="processes that read clips (default: 0)")
    one.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder of the results (default: RUN/eval); it keeps those of other settings",
    )
    _judging(one)
    one.set_defaults(run=evaluate)

    one = commands.add_parser(
        "predict",
        help="a trained network on a video: the highest scores, a report with its motion maps",
        description="What a network that `motionspec train` made says of a video: the highest scores, and report.html "
        "with the frames it sees and the maps between.",
        epilog="example: motionspec predict clip.avi --run my-run -o clip",
    )
    one.add_argument("video", metavar="VIDEO", help="any video that OpenCV can read")
    one.add_argument(
        "--run", required=True, metavar="RUN", dest="run_folder", help="the folder of a run of `motionspec train`"
    )
    one.add_argument("--top", type=_positive(int), default=5, metavar="K", help="classes that are shown (default: 5)")
    one.add_argument("--json", metavar="FILE", help="also write all scores there")
    one.add_argument(
        "-o",
        "--output",
        default="motionspec-predict",
        metavar="DIR",
        help="folder of report.html (default: motionspec-predict)",
    )
    _judging(one)
    one.set_defaults(run=predict)
    return parser


def _judging(parser: argparse.ArgumentParser) -> None:
    """What `eval` and `predict` have in common."""
    parser.add_argument(
        "--protocol",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME[,NAME]",
        help="how a video is seen: 25-segments (OFF18 §4.3), 10-crop (TSN), both, or 64-random (AF18 §4.2); default: "
        "as in training when it measures",
    )
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), default="best", help="which weights of the run (default: best)"
    )
    parser.add_argument(
        "--batch", type=_positive(int), default=8, metavar="N", help="views in one forward pass (default: 8)"
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="S", help="of random crops (default: 0)")
    parser.add_argument("--device", help="torch device (default: CUDA if there is any)")


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {text}")
    return value


_natural.__name__ = "int"  # argparse puts it into its message


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0 or not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse puts it into its message
    return parse


# -- list and show -----------------------------------------------------------------------------------------------------


@functools.cache  # `list` asks a file once per equation
def _functions(path: Path) -> dict[str, ast.FunctionDef]:
    """Top-level functions of a Python file; none if there is no such file. Imports nothing."""
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _speaks_of(test: ast.FunctionDef, name: str) -> bool:
    """Whether a test calls `something.name` or hands `"name"` to a helper."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == name)
        or (isinstance(node, ast.Constant) and node.value == name)
        for node in ast.walk(test)
    )


def _has_operator(equation: str) -> bool:
    stem, name = equation.split(".")
    return name in _functions(ROOT / "ops" / f"{stem}.py")


def markdown_index() -> str:
    """The README's index: a line per stem, with the source of each equation."""
    stems: dict[str, list[str]] = {}
    sources = {row.id: row.source for row in EQUATIONS.values()} | {id: source for id, (source, _) in SINGLE.items()}
    for equation, source in sources.items():
        stem, name = equation.split(".")
        stems.setdefault(stem, []).append(f"`{name}` ({source})")
    return "\n".join(f"- **{stem}**: {', '.join(names)}" for stem, names in stems.items())


def list_equations(arguments: argparse.Namespace) -> int:
    """`motionspec list`."""
    if arguments.markdown:
        print(markdown_index())
        return 0
    rows = []
    for row in EQUATIONS.values():
        operator = _has_operator(row.id)
        implementations = ", ".join(["reference", "torch", *FUSED.get(row.id, ())] if operator else ["reference"])
        rows.append([row.id, "complete" if operator else "no operator", implementations, row.source, row.summary])
    for name, (source, function) in SINGLE.items():
        implementations = "reference, torch" if _has_operator(name) else "one, in NumPy"
        rows.append([name, "complete", implementations, source, (function.__doc__ or "").splitlines()[0]])
    rows += [[name, "planned", "-", source, "-"] for name, source in sorted(planned().items())]
    print(table(("id", "state", "implementations", "source", "what it says"), rows))
    print(f"\n{len(EQUATIONS) + len(SINGLE)} equations, {len(planned())} equations and networks planned")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """`motionspec show ID`."""
    if arguments.id in SINGLE:
        source, function = SINGLE[arguments.id]
        print(f"{arguments.id}   [{source}]\n\n    {(function.__doc__ or '').strip()}\n")
        print(f"signature:  {_signature(arguments.id, function)}")
        return 0
    row = find(arguments.id)
    stem, name = row.id.split(".")
    print(f"{row.id}   [{row.source}]\n\n    {(row.reference.__doc__ or '').strip()}\n")
    print(f"signature:  {_signature(row.id, row.reference)}")
    print(f"variants:   {'; '.join(settings(dict(v)) or 'none' for v in row.variants)}")
    if row.long_sums:
        print("cases:      large ones in float64 only: the sums are too long for the tolerances of other types")
    for label, folder in (("reference", "refimpl"), ("operator", "ops")):
        found = _functions(ROOT / folder / f"{stem}.py").get(name)
        print(f"{label + ':':<11} " + (f"{ROOT / folder / stem}.py:{found.lineno}" if found else "none yet"))
    if (ROOT / "tests").is_dir():
        path = ROOT / "tests" / f"test_{stem}.py"
        for test in _functions(path).values():
            if test.name.startswith(f"test_{name}_") or (test.name.startswith("test_") and _speaks_of(test, name)):
                print(f"test:       {path}:{test.lineno} {test.name}")
        print(f"generated:  {ROOT / 'tests' / 'test_equations.py'} (pytest -k '{row.id}')")
    else:
        print("tests:      in the repository; they are not part of the installed package")
    return 0


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Names and defaults, without the types that the docstring has better."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    plain = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return f"{name.partition('.')[2]}{inspect.Signature(plain)}"


def show_networks(arguments: argparse.Namespace) -> int:
    """`motionspec models`."""
    if arguments.name is not None and arguments.markdown:
        raise CannotRun("--markdown is for the list: motionspec models --markdown")
    if arguments.json:
        print(json.dumps(as_json(arguments.name), indent=1))  # in ASCII, which every terminal and pipe can take
    else:
        print(listing(arguments.markdown) if arguments.name is None else details(arguments.name))
    return 0


# -- check -------------------------------------------------------------------------------------------------------------


class Progress:
    """One line on a terminal that is overwritten; nothing where nobody watches."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def __call__(self, text: str, done: int, total: int | None) -> None:
        if self.shown:
            bar = "#" * (20 * done // max(total, 1)) if total else ""
            print(f"\r\x1b[K[{bar:<20}] {done}/{total or '?'} {text}"[:120], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the line to others."""
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def check(arguments: argparse.Namespace) -> int:
    """`motionspec check`."""
    chosen = list(EQUATIONS) if arguments.all else arguments.ids
    for equation in chosen:
        find(equation)
    if arguments.impl is not None and len(chosen) != 1:
        raise CannotRun(
            "--impl is held against one equation: name it, as in `motionspec check warp.bilinear --impl ...`"
        )
    if not chosen:
        raise CannotRun("name equations to check, or --all; `motionspec list` shows them")
    dtypes = (arguments.dtype or "float64").split(",")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise CannotRun(f"--dtype {dtype}: expected one or more of {','.join(DTYPES)}")
    if arguments.json is not None and (Path(arguments.json).is_dir() or not Path(arguments.json).parent.is_dir()):
        raise CannotRun(f"--json {arguments.json}: expected the name of a file in a folder that exists")
    variant: dict[str, str] = {}
    for key, value in (_key_value("--variant", text, "outside=blend") for text in arguments.variant):
        if variant.setdefault(key, value) != value:
            raise CannotRun(f"--variant {key}: {variant[key]} or {value}? Choose one, or leave it out to judge all")
    if arguments.vectors_result is not None:
        return _check_results(arguments, chosen, variant)
    if arguments.vectors is not None:
        raise CannotRun("--vectors goes with --vectors-result, the folder of your results")
    framework = arguments.framework or ("torch" if arguments.impl is None else "numpy")
    if arguments.impl is None and framework != "torch":
        raise CannotRun("our operators take torch tensors: leave --framework out, or name your own with --impl")

    verdicts: list[Verdict] = []
    progress = Progress()
    try:
        with Runner(arguments.timeout) as runner:
            for equation in chosen:
                stem, name = equation.split(".")
                verdicts += judge(
                    f"motionspec.ops.{stem}:{name}" if arguments.impl is None else arguments.impl,
                    equation,
                    runner,
                    variant=variant,
                    dtypes=dtypes,
                    framework=framework,
                    device=arguments.device,
                    cases=arguments.cases,
                    seed=arguments.seed,
                    grad=arguments.grad,
                    progress=progress,
                )
    finally:
        progress.clear()
    return _report(verdicts, arguments)


def _report(verdicts: Sequence[Verdict], arguments: argparse.Namespace) -> int:
    print(report(verdicts))
    if arguments.json is not None:
        _write_json(Path(arguments.json), verdicts, vars(arguments))
    bad = {v.kind for v in verdicts if not v.ok}
    return 0 if not bad else 2 if bad == {"cannot tell"} else 1


def _check_results(arguments: argparse.Namespace, chosen: Sequence[str], variant: dict[str, str]) -> int:
    """`motionspec check --vectors-result`."""
    if arguments.impl is not None or arguments.framework is not None:
        raise CannotRun("--impl and --framework do not go with --vectors-result, which reads files")
    if arguments.dtype is not None and "," in arguments.dtype:
        raise CannotRun(f"--dtype {arguments.dtype}: expected one, the precision of the results")
    vectors = None if arguments.vectors is None else Vectors(Path(arguments.vectors))
    verdicts: list[Verdict] = []
    progress = Progress()
    try:
        for equation in chosen:
            verdicts += judge_results(
                equation,
                Path(arguments.vectors_result),
                vectors,
                variant=variant,
                dtype=arguments.dtype,
                seed=arguments.seed,
                grad=arguments.grad,
                progress=progress,
            )
    finally:
        progress.clear()
    status = _report(verdicts, arguments)
    if status and vectors is None:
        print(f"\nheld against the vectors of seed {arguments.seed}; others: --seed S, or --vectors DIR")
    return status


def write_vectors(arguments: argparse.Namespace) -> int:
    """`motionspec vectors`."""
    progress = Progress()
    try:
        says = write(arguments.ids, Path(arguments.output), arguments.seed, progress)
    finally:
        progress.clear()
    print(says)
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """`motionspec demo`."""
    from motionspec.cli.demo import demo

    with _one_line(ImportError) as progress:
        return demo(
            arguments.files,
            arguments.flow,
            arguments.output,
            arguments.pairs,
            arguments.device,
            progress,
            model=arguments.model,
            weights=arguments.weights,
            options=dict(_key_value("--set", text, "classes=51") for text in arguments.set),
        )


def check_data(arguments: argparse.Namespace) -> int:
    """`motionspec data check`."""
    from motionspec.cli.data import check as check_folder

    with _one_line() as progress:
        text, status = check_folder(arguments.path, arguments.json, progress)
    print(text)
    return status


def train(arguments: argparse.Namespace) -> int:
    """`motionspec train`."""
    with _one_line() as progress:
        from motionspec.cli.train import run_train

        lines = run_train(arguments, progress)
    for line in lines:
        print(line)
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """`motionspec eval`."""
    with _one_line() as progress:
        from motionspec.cli.evaluate import run_eval

        lines = run_eval(arguments, progress)
    print("\n".join(lines))
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """`motionspec predict`."""
    with _one_line() as progress:
        from motionspec.cli.evaluate import run_predict

        lines = run_predict(arguments, progress)
    print("\n".join(lines))
    return 0


_CAUSED = (ValueError, TypeError, ArithmeticError, ImportError)  # by what users ask for, and by their files


@contextmanager
def _one_line(*caused: type[Exception]) -> Iterator[Progress]:
    """A line of progress; errors of these kinds, by default _CAUSED, and those of files become CannotRun."""
    progress, kinds = Progress(), caused or _CAUSED
    try:
        yield progress
    except kinds as error:
        raise CannotRun(printable(_last_line(error))) from error
    except CannotRun as error:
        raise CannotRun(printable(str(error))) from error
    except OSError as error:
        says = f"{error.filename}: {error.strerror}" if error.filename else _last_line(error)
        raise CannotRun(printable(says)) from error
    finally:
        progress.clear()


def _last_line(error: Exception) -> str:
    """What an error says; one from a process that reads clips has that process's traceback as its message (torch)."""
    text = str(error)
    if not text.startswith("Caught "):
        return text
    return text.rstrip().rpartition("\n")[2].partition(": ")[2]


def _key_value(option: str, text: str, example: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CannotRun(f"{option} {text}: expected KEY=VALUE, as in {example}")
    return key, value


def _write_json(path: Path, verdicts: Sequence[Verdict], options: dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        """JSON has no NaN and no infinity: they become strings."""
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

    data = {
        "motionspec": motionspec.__version__,
        "options": {k: v for k, v in options.items() if k not in ("run", "json")},
        "agrees": all(v.ok for v in verdicts),
        "verdicts": [plain(v.as_json()) for v in verdicts],
    }
    try:
        write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise CannotRun(f"--json {path}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
