"""Calls a stranger's function in a child process: it may raise, print, change its input, crash or never return."""

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import inspect
import io
import math
import multiprocessing
import os
import pickle
import secrets
import signal
import socket
import struct
import sys
import tempfile
import time
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


class CannotRun(ValueError):
    """The question cannot be asked: the message is one clear line for the user (exit status 2)."""


class WrongType(CannotRun, TypeError):
    """It cannot be asked because an argument is of the wrong type."""


@dataclass(frozen=True)
class Request:
    """One call: arrays go by position, those named in `keyword` by keyword, and so do `params`."""

    arrays: dict[str, np.ndarray]
    params: dict[str, Any]
    keyword: tuple[str, ...] = ()
    expected: tuple[tuple[int, ...], ...] = ()  # shapes of the outputs: others are not sent back
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
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)  # float64, or bool; empty unless all shapes are as expected
    gradients: dict[str, np.ndarray | None] = field(default_factory=dict)
    printed: str = ""
    mutated: list[str] = field(default_factory=list)
    refused: bool = False  # the call itself was: the signature does not take these arguments
    foreign: str = ""  # the module of the arrays that came where others were expected


# -- the stranger's code -----------------------------------------------------------------------------------------------


def load(target: str) -> Callable[..., Any]:
    """`package.module:function` or `FILE.py:function`. Raises CannotRun with one line that says why."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise CannotRun(f"--impl {target}: expected package.module:function or FILE.py:function")
    if where.endswith(".py") and not Path(where).is_file():
        raise CannotRun(f"--impl {target}: there is no file {where}")
    try:
        if where.endswith(".py"):
            path = Path(where).resolve()
            sys.path.insert(0, str(path.parent))
            name_here = f"{path.stem}_under_test" if path.stem in sys.modules else path.stem  # a file may be numpy.py
            spec = importlib.util.spec_from_file_location(name_here, path)
            assert spec and spec.loader
            found: Any = importlib.util.module_from_spec(spec)
            sys.modules[name_here] = found
            spec.loader.exec_module(found)
        else:
            sys.path.insert(0, os.getcwd())
            found = importlib.import_module(where)
        for part in name.split("."):
            found = getattr(found, part, None)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "torch":
            raise CannotRun("there is no torch here: pip install 'motionspec[torch]'") from error
        raise CannotRun(f"--impl {target}: importing {where} failed: {_one_line(error)}") from error
    except BaseException as error:  # SystemExit too: it is a stranger's module
        raise CannotRun(f"--impl {target}: importing {where} failed: {_one_line(error)}") from error
    if found is None:
        raise CannotRun(f"--impl {target}: {where} has no {name}")
    if not callable(found):
        raise CannotRun(f"--impl {target}: {name} is not callable")
    return found


def _one_line(error: BaseException) -> str:
    """Type, message and the place in the stranger's code, on one line."""
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:
        text = "(its message cannot be read)"
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(place[-1].filename).name}:{place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {text}{where}"


_LOADED: dict[str, Callable[..., Any]] = {}


def _resolve(target: Target) -> Callable[..., Any]:
    if callable(target):
        return target
    if target not in _LOADED:
        with _captured():
            _LOADED[target] = load(target)
    return _LOADED[target]


# Descriptors of two files, opened once, before any stranger can spoil the place for temporary files.
_FILES: list[int] = []


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Send what Python and C code write to stdout and stderr into files; yields a reader of what stdout got."""
    while len(_FILES) < 2:
        with tempfile.TemporaryFile() as opened:
            _FILES.append(os.dup(opened.fileno()))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None or closed
            stream.flush()
    streams, descriptors = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    ours = []
    for number, file in enumerate(_FILES, 1):
        os.lseek(file, 0, os.SEEK_SET)
        os.ftruncate(file, 0)
        os.dup2(file, number)
        ours.append(io.TextIOWrapper(open(os.dup(number), "wb", 0), write_through=True, errors="replace"))  # noqa: SIM115
    sys.stdout, sys.stderr = ours

    def read() -> str:
        return os.pread(_FILES[0], 2000, 0).decode(errors="replace")

    try:
        yield read
    finally:
        for stream in ours:
            with contextlib.suppress(Exception):  # the stranger may have closed it
                stream.close()
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _is_array(value: Any, framework: str) -> bool:
    if framework == "numpy":
        return isinstance(value, np.ndarray | np.generic)  # np.sum gives a scalar
    return isinstance(value, importlib.import_module("torch").Tensor)


def _is_foreign(value: Any) -> bool:
    """Whether it is an array of some other framework."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def _is_refusal(error: BaseException) -> bool:
    """Whether the call failed before the stranger's code began: it does not take these arguments."""
    inner = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.endswith("torch/nn/modules/module.py")
    ]
    return isinstance(error, TypeError) and not inner


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _plain(value: Any, framework: str) -> np.ndarray:
    """An array of real numbers or bool as float64 or bool NumPy."""
    dtype = bool if _dtype(value) == "bool" else np.float64
    if framework == "torch":
        value = value.detach().cpu()
        value = (value if dtype is bool else value.double()).numpy()
    return np.array(value, dtype)


def _is_real(dtype: str) -> bool:
    return dtype == "bool" or dtype.startswith(("float", "bfloat", "int", "uint"))


def perform(target: Target, request: Request) -> Outcome:
    """Make the call here, in this process."""
    function, framework = _resolve(target), request.framework
    try:
        inputs = convert(request.arrays, dtype=request.dtype, framework=framework, device=request.device)
        before = {name: _plain(value, framework) for name, value in inputs.items()}
    except ModuleNotFoundError as error:
        raise CannotRun("there is no torch here: pip install 'motionspec[torch]'") from error
    except (RuntimeError, AssertionError) as error:  # a CPU build of torch asserts that there is CUDA
        raise CannotRun(f"no inputs on device {request.device}: {_one_line(error)}") from error
    for name in request.differentiable:
        inputs[name].requires_grad_(True)
    given = arguments(inputs)
    positional = [value for name, value in given.items() if name not in request.keyword]
    named = {name: value for name, value in given.items() if name in request.keyword}
    outcome = Outcome()
    with _captured() as printed:
        try:
            result = function(*positional, **named, **request.params)
        except BaseException as error:
            return Outcome("raises", _one_line(error), printed=printed(), refused=_is_refusal(error))
        outcome.printed = printed()
    after = {name: _plain(value, framework) for name, value in inputs.items()}
    outcome.mutated = [n for n in inputs if not np.array_equal(after[n], before[n], equal_nan=True)]
    results = list(result) if isinstance(result, tuple | list) else [result]
    for value in results:
        if not _is_array(value, framework):
            wanted = "NumPy arrays" if framework == "numpy" else "torch tensors"
            came = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
            problem = f"returned {came} where {wanted} are expected"
            foreign = type(value).__module__.partition(".")[0] if _is_foreign(value) else ""
            return Outcome("wrong type", problem, printed=outcome.printed, mutated=outcome.mutated, foreign=foreign)
    for value in results:
        if framework == "torch" and value.layout != importlib.import_module("torch").strided:
            return Outcome("wrong type", f"returned a {value.layout} tensor, expected a dense one")
    outcome.shapes = [tuple(value.shape) for value in results]
    outcome.dtypes = [_dtype(value) for value in results]
    if tuple(outcome.shapes) != request.expected or not all(map(_is_real, outcome.dtypes)):
        return outcome
    with _captured():
        try:
            outcome.outputs = [_plain(value, framework) for value in results]
        except BaseException as error:
            return Outcome("wrong type", f"the values returned cannot be read: {_one_line(error)}")
        if request.cotangents:
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
        for value, cotangent in zip(results, request.cotangents, strict=True)
        if cotangent is not None and value.requires_grad
    ]
    names = list(request.differentiable)
    if not pairs:
        return dict.fromkeys(names)
    outputs, cotangents = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, [inputs[n] for n in names], cotangents, allow_unused=True)
    return {n: None if g is None else _plain(g, "torch") for n, g in zip(names, found, strict=True)}


def keywords(target: Target, _: None) -> tuple[str, ...] | None:
    """The names that the callable takes by keyword; None for any. Empty if it does not tell."""
    try:
        parameters = inspect.signature(_resolve(target)).parameters
    except CannotRun:
        raise
    except Exception:
        return ()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return tuple(n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


# -- the two processes -------------------------------------------------------------------------------------------------

# A message is a token that both sides know, the length of what follows, and a pickle. A stranger who writes into the
# connection does not know the token.
_HEADER = struct.Struct("!16sQ")


def _send(connection: socket.socket, token: bytes, message: Any) -> None:
    data = pickle.dumps(message)
    connection.sendall(_HEADER.pack(token, len(data)) + data)


def _receive(connection: socket.socket, token: bytes, deadline: float | None = None) -> Any:
    """The next message. Raises TimeoutError after the deadline, ConnectionError when the other side is gone or mad."""

    def read(count: int) -> bytes:
        parts = []
        while count:
            if deadline is not None:
                connection.settimeout(max(deadline - time.monotonic(), 1e-3))
            part = connection.recv(min(count, 1 << 20))
            if not part:
                raise ConnectionError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    came, length = _HEADER.unpack(read(_HEADER.size))
    if came != token:
        raise ConnectionError
    return pickle.loads(read(length))


def _serve(connection: socket.socket, token: bytes, inherited: Callable[..., Any] | None) -> None:
    """The child: answer questions until the parent goes away."""
    faulthandler.disable()  # pytest enables it; a stranger's crash is told in one line, not in its traceback of us
    os.setsid()  # a group of its own, so that what it starts can be ended with it; and Ctrl-C is the parent's business
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive a parent that was killed
    if torch := sys.modules.get("torch"):  # OpenMP's threads did not survive the fork: the child would wait for them
        torch.set_num_threads(1)
    with open(os.devnull, "wb") as nowhere:  # the parent's stdout and stderr are not for strangers
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    me = os.getpid()
    with contextlib.suppress(ConnectionError, OSError):
        while True:
            question, target, argument = _receive(connection, token)
            try:
                answer = True, question(inherited if target is None else target, argument)
            except CannotRun as error:
                answer = False, str(error)
            if os.getpid() != me:
                os._exit(0)  # the stranger forked, and this is the other one
            _send(connection, token, answer)
    os._exit(1)


class Runner:
    """A child process, started when first needed and killed when it does not answer within `timeout` seconds.

    It is forked, so a closure of the parent can be judged too. With `timeout=None` everything runs in this process:
    no protection, but a debugger works, and so does CUDA that this process has already initialised.
    """

    def __init__(self, timeout: float | None, inherited: Callable[..., Any] | None = None):
        if timeout is not None and not 0 < timeout < math.inf:
            raise CannotRun(f"timeout: expected seconds above 0, or None, got {timeout}")
        self.timeout, self.inherited = timeout, inherited
        self._token = secrets.token_bytes(16)
        self._process: Any = None
        self._connection: Any = None
        self._keywords: dict[Target, tuple[str, ...] | None] = {}
        self.lost = 0  # calls that did not come back

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and what it started, whatever they are doing."""
        if self._process is not None:
            self._connection.close()
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = socket.socketpair()
        self._process = context.Process(target=self._child, args=(theirs,))
        with warnings.catch_warnings():  # Python >= 3.12 warns of forking with threads; _serve says why it is safe here
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()

    def _child(self, theirs: socket.socket) -> None:
        self._connection.close()  # the parent's end: while it is open here, the parent's death goes unnoticed
        _serve(theirs, self._token, self.inherited)

    def _ask(self, question: Callable[..., Any], target: Target, argument: Any) -> Any:
        """The child's answer, or an Outcome that says how it failed to give one. Raises CannotRun."""
        if self.timeout is None:
            return question(target, argument)
        if self._process is None:
            self._start()
        deadline = time.monotonic() + self.timeout
        try:
            self._connection.settimeout(self.timeout)
            _send(self._connection, self._token, (question, target if isinstance(target, str) else None, argument))
            good, answer = _receive(self._connection, self._token, deadline)
        except TimeoutError:
            self.lost += 1
            self.close()
            return Outcome("never returns", f"did not return within {self.timeout:g} s and was killed")
        except (ConnectionError, EOFError, pickle.UnpicklingError):
            end = time.monotonic() + 1
            while (code := self._process.exitcode) is None and time.monotonic() < end:
                time.sleep(0.01)  # not join(1): it waits on a pipe that the stranger may have written into
            self.lost += 1
            self.close()
            if code is None:
                return Outcome("crashes", "wrote into the connection to the judge")
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended the process with status {code}"
            return Outcome("crashes", how)
        if not good:
            raise CannotRun(answer)
        return answer

    def perform(self, target: Target, request: Request) -> Outcome:
        """Make one call. Raises CannotRun when the callable cannot be loaded."""
        return self._ask(perform, target, request)

    def accepted(self, target: Target, names: tuple[str, ...]) -> tuple[str, ...]:
        """Which of `names` the callable takes by keyword. Raises CannotRun when it cannot be loaded."""
        if target not in self._keywords:
            answer = self._ask(keywords, target, None)
            if isinstance(answer, Outcome):
                raise CannotRun(f"importing the callable: it {answer.problem}")
            self._keywords[target] = answer
        taken = self._keywords[target]
        return names if taken is None else tuple(n for n in names if n in taken)
