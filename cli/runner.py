"""Calls a stranger's function in a child process: it may raise, print, change its input, crash or never return."""

import contextlib
import importlib
import importlib.util
import inspect
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from motionspec.cli.cases import convert
from motionspec.refimpl.row import arguments

Target = str | Callable[..., Any]


class CannotRun(Exception):
    """The question cannot be asked: the message is one clear line for the user (exit status 2)."""


@dataclass(frozen=True)
class Request:
    """One call: arrays go by position, those named in `keyword` by keyword, and so do `params`."""

    arrays: dict[str, np.ndarray]
    params: dict[str, Any]
    keyword: tuple[str, ...] = ()
    dtype: str = "float64"
    framework: str = "numpy"
    device: str = "cpu"
    cotangents: tuple[np.ndarray | None, ...] = ()  # per output; empty: no gradient is asked for
    differentiable: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What came of it. `problem` is empty or one line that says what went wrong, with `kind` its verdict."""

    kind: str = "ok"  # ok | raises | crashes | never returns | wrong type
    problem: str = ""
    outputs: list[np.ndarray] = field(default_factory=list)  # float64, or bool
    dtypes: list[str] = field(default_factory=list)
    gradients: dict[str, np.ndarray | None] = field(default_factory=dict)
    printed: str = ""
    mutated: list[str] = field(default_factory=list)


def load(target: str) -> Callable[..., Any]:
    """`package.module:function` or `FILE.py:function`. Raises CannotRun with one line that says why."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise CannotRun(f"--impl {target}: expected package.module:function or FILE.py:function")
    try:
        if where.endswith(".py"):
            path = Path(where).resolve()
            if not path.is_file():
                raise CannotRun(f"--impl {target}: there is no file {where}")
            sys.path.insert(0, str(path.parent))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec and spec.loader
            found: Any = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = found
            spec.loader.exec_module(found)
        else:
            sys.path.insert(0, os.getcwd())
            found = importlib.import_module(where)
    except CannotRun:
        raise
    except BaseException as error:  # SystemExit too: it is a stranger's module
        raise CannotRun(f"--impl {target}: importing {where} failed: {_one_line(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise CannotRun(f"--impl {target}: {where} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise CannotRun(f"--impl {target}: {name} is not callable")
    return found


def _one_line(error: BaseException) -> str:
    """Type, message and the place in the stranger's code, on one line."""
    text = " ".join(str(error).split())
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(place[-1].filename).name}:{place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {text[:300]}{where}"


def _is_array(value: Any, framework: str) -> bool:
    if framework == "numpy":
        return isinstance(value, np.ndarray | np.generic)  # np.sum gives a scalar
    return isinstance(value, importlib.import_module("torch").Tensor)


def _plain(value: Any, framework: str) -> tuple[np.ndarray, str]:
    """An output as float64 (or bool) NumPy, and the dtype it came in."""
    if framework == "torch":
        dtype = str(value.dtype).removeprefix("torch.")
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = (value if dtype == "bool" else value.double()).numpy()
    else:
        dtype = str(value.dtype)
    return np.array(value, bool if dtype == "bool" else np.float64), dtype


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Send what Python and C code write to stdout and stderr into a file; yields a reader of what stdout got."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)

        def read() -> str:
            sys.stdout.flush()
            out.seek(0)
            return out.read(2000).decode(errors="replace")

        try:
            yield read
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


_LOADED: dict[str, Callable[..., Any]] = {}


def _resolve(target: Target) -> Callable[..., Any]:
    if callable(target):
        return target
    if target not in _LOADED:
        _LOADED[target] = load(target)
    return _LOADED[target]


def perform(target: Target, request: Request) -> Outcome:
    """Make the call here, in this process."""
    function = _resolve(target)
    try:
        inputs = convert(request.arrays, dtype=request.dtype, framework=request.framework, device=request.device)
    except ModuleNotFoundError as error:
        raise CannotRun("there is no torch here: pip install 'motionspec[torch]'") from error
    except (RuntimeError, AssertionError) as error:  # a CPU build of torch asserts that there is CUDA
        raise CannotRun(f"no inputs on device {request.device}: {_one_line(error)}") from error
    before = {name: _plain(value, request.framework)[0] for name, value in inputs.items()}
    outcome = Outcome()
    if request.cotangents:
        for name in request.differentiable:
            inputs[name].requires_grad_(True)
    with _captured() as printed:
        try:
            given = arguments(inputs)
            positional = [value for name, value in given.items() if name not in request.keyword]
            named = {name: value for name, value in given.items() if name in request.keyword}
            result = function(*positional, **named, **request.params)
        except BaseException as error:
            return Outcome("raises", _one_line(error), printed=printed())
        outcome.printed = printed()
    outcome.mutated = [
        name
        for name, value in inputs.items()
        if not np.array_equal(_plain(value, request.framework)[0], before[name], equal_nan=True)
    ]
    results = list(result) if isinstance(result, tuple | list) else [result]
    for value in results:
        if not _is_array(value, request.framework):
            wanted = "NumPy arrays" if request.framework == "numpy" else "torch tensors"
            came = f"{type(value).__module__}.{type(value).__name__}"
            return Outcome("wrong type", f"returned {came} where {wanted} are expected", printed=outcome.printed)
    for value in results:
        array, dtype = _plain(value, request.framework)
        outcome.outputs.append(array)
        outcome.dtypes.append(dtype)
    if request.cotangents:
        with _captured():
            try:
                outcome.gradients = _gradients(results, inputs, request)
            except BaseException as error:
                return Outcome("raises", "in backward: " + _one_line(error))
    return outcome


def _gradients(results: list[Any], inputs: dict[str, Any], request: Request) -> dict[str, np.ndarray | None]:
    """Gradients of the sum of cotangent * output; None where the graph does not reach an input."""
    import torch

    pairs = [
        (value, torch.tensor(cotangent, dtype=value.dtype, device=value.device))
        for value, cotangent in zip(results, request.cotangents, strict=False)
        if cotangent is not None and value.requires_grad and cotangent.shape == value.shape
    ]
    names = list(request.differentiable)
    if not pairs:
        return dict.fromkeys(names)
    outputs, cotangents = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, [inputs[n] for n in names], cotangents, allow_unused=True)
    return {n: None if g is None else _plain(g, "torch")[0] for n, g in zip(names, found, strict=True)}


def accepted(target: Target, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the keyword arguments `names` the callable takes (none, if it does not tell)."""
    try:
        parameters = inspect.signature(_resolve(target)).parameters
    except (TypeError, ValueError):
        return ()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return names
    return tuple(n for n in names if n in parameters and parameters[n].kind is not parameters[n].POSITIONAL_ONLY)


def _serve(connection: Any, inherited: Callable[..., Any] | None) -> None:
    """The child: answer requests until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    if "torch" in sys.modules:  # OpenMP's threads did not survive the fork: without this the child would wait for them
        sys.modules["torch"].set_num_threads(1)
    while True:
        try:
            question, target, argument = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, question(target or inherited, argument)))
        except CannotRun as error:
            connection.send((False, str(error)))


class Runner:
    """A child process, started when first needed and killed when it does not answer within `timeout` seconds.

    It is forked, so a closure of the parent can be judged too. With `timeout=None` everything runs in this process:
    no protection, but a debugger works, and so does CUDA that this process has already initialised.
    """

    def __init__(self, timeout: float | None, inherited: Callable[..., Any] | None = None):
        self.timeout, self.inherited = timeout, inherited
        self._process: Any = None
        self._connection: Any = None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.inherited), daemon=True)
        with warnings.catch_warnings():  # Python >= 3.12 warns of forking with threads; _serve says why it is safe here
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()

    def _ask(self, question: Callable[..., Any], target: Target, argument: Any) -> Any:
        """The child's answer, or an Outcome that says how it failed to give one. Raises CannotRun."""
        if self.timeout is None:
            return question(target, argument)
        if self._process is None:
            self._start()
        self._connection.send((question, target if isinstance(target, str) else None, argument))
        if not self._connection.poll(self.timeout):
            self.close()
            return Outcome("never returns", f"did not return within {self.timeout:g} s and was killed")
        try:
            good, answer = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended the process with status {code}"
            return Outcome("crashes", how)
        if not good:
            raise CannotRun(answer)
        return answer

    def perform(self, target: Target, request: Request) -> Outcome:
        """Make one call. Raises CannotRun when the callable cannot be loaded."""
        return self._ask(perform, target, request)

    def accepted(self, target: Target, names: tuple[str, ...]) -> tuple[str, ...]:
        """Which of the keyword arguments `names` the callable takes. Raises CannotRun when it cannot be loaded."""
        answer = self._ask(accepted, target, names)
        if isinstance(answer, Outcome):
            raise CannotRun(f"importing the callable {answer.problem}")
        return answer
