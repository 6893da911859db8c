"""The command and the call as their users meet them: strange callables, bad questions, and what the report says."""

import ast
import contextlib
import io
import json
import math
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from generated import each_row

import motionspec
from motionspec.cli.cases import DEFAULT_CASES, exact_case, is_smooth, sizes
from motionspec.cli.check import judge
from motionspec.cli.main import main, planned
from motionspec.cli.runner import CannotRun, Runner
from motionspec.fused import FUSED
from motionspec.refimpl import brightness, losses, off, warp
from motionspec.refimpl.equations import EQUATIONS, SINGLE
from motionspec.refimpl.sources import SOURCES, ids

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = Path(__file__).with_name("adapters.py")
MOTIONSPEC = Path(sysconfig.get_path("scripts")) / "motionspec"
CROSS = "off.cross_gradient"

# Strangers' files are written where a user would have them. `right` is what off.cross_gradient wants.
STRANGE = """
import contextlib, ctypes, functools, io, multiprocessing, os, signal, sys, threading, time
import numpy as np
from motionspec.refimpl.off import cross_gradient as right


def note_pid():
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{os.getpid()} ")


# wrong
def raises(f): raise ValueError("two\\nlines")
def exits(f): sys.exit(5)
def interrupts(f): raise KeyboardInterrupt
def stops_iteration(f): raise StopIteration
def recurses(f): return recurses(f)
def asks(f): return input("well?")
class Mute(Exception):
    def __str__(self): raise RuntimeError("no words")
def raises_mute(f): raise Mute
def raises_our_own(f):
    from motionspec.cli.runner import CannotRun
    raise CannotRun("not mine to raise")
def none(f): return None
def floats(f): return [1.0, 2.0]
def scalar(f): return 1.0
def numpy_scalar(f): return np.float64(1)
def dictionary(f): return {"F": right(f)}
def generator(f): return (x for x in [right(f)])
def ragged(f): return [right(f), None]
def tensor(f):
    import torch
    return torch.tensor(right(f))
def wants_tensor(f):
    import torch
    return torch.sign(f)
class Foreign:
    shape, dtype = (1, 1, 1, 1), "float64"
def foreign(f): return Foreign()
def foreign_for_two(f): return Foreign() if len(f) > 1 else right(f)
def two_arrays(f, g): return right(f)
def must_be_named(f, *, size): return right(f)
def asks_for_numpy(f): return np.add(f, 0).astype(np.float64) if isinstance(f, np.ndarray) else f.astype(float)
def gives_numpy(f): return right(np.asarray(f))
def extra_axis(f): return right(f)[..., None]
def zero_d(f): return np.array(3.0)
def two_outputs(f): return right(f), right(f)
def no_output(f): return []
def enormous(f): return np.broadcast_to(0.0, (10**7, 10**7))
def float32(f): return right(f).astype(np.float32)
def integers(f): return right(f).astype(int)
def objects(f): return right(f).astype(object)
def text(f): return np.full(f.shape, "abc")
def records(f): return np.zeros(f.shape, [("a", "f8"), ("b", "f8")])
def complex128(f): return right(f) + 1j
def one_nan(f):
    found = right(f)
    found.flat[found.size // 2] = np.nan
    return found
def one_inf(f):
    found = right(f)
    found.flat[found.size // 2] = np.inf
    return found
def vast(f): return np.full(f.shape, 1e300)
def mutates(f):
    found = right(f)
    f += 1
    return found
def in_place(f):
    f[...] = right(f)
    return f
def same(f): return f
def view(f): return f[..., ::-1]
def noargs(): return 1
def dies(f): os._exit(3)
def dies_quietly(f): os._exit(0)
def aborts(f): os.abort()
def segfaults(f): ctypes.string_at(0)
def spins(f):
    note_pid()
    while True: pass
def sleeps_in_c(f):
    note_pid()
    ctypes.CDLL(None).sleep(100)
def unkillable(f):
    note_pid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(1)
def scribbles(f):
    note_pid()
    for fd in range(3, 30):
        with contextlib.suppress(OSError): os.write(fd, b"garbage " * 4)
    return right(f)
def slams_every_door(f):
    os.closerange(3, 100)
    return right(f)
calls = 0
def wrong_then_dies_late(x, flow, outside="zero"):
    global calls
    calls += 1
    if calls == 40: threading.Timer(0.02, os._exit, (0,)).start()
    return np.cos(x)

# right, with side effects
def prints(f): print("hello"); return right(f)
def writes(f): os.write(1, b"hello"); return right(f)
def prints_much(f): print("hello" * 10**5); return right(f)
def complains(f):
    print("hello", file=sys.stderr)
    os.write(2, b"hello")
    return right(f)
def warns(f):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("hello")
    return right(f)
def moves(f): os.chdir("/"); return right(f)
def closes_1(f): os.close(1); return right(f)
def closes_stdout(f): sys.stdout.close(); return right(f)
def drops_stdout(f): sys.stdout = None; return right(f)
def replaces_stdout(f): sys.stdout = io.StringIO(); print("hello"); return right(f)
def threads(f): threading.Thread(target=time.sleep, args=(60,)).start(); return right(f)
def threads_daemon(f): threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); return right(f)
def pools(f):
    with multiprocessing.get_context("fork").Pool(1) as pool: pool.map(abs, [1])
    return right(f)
def seterr(f): np.seterr(all="raise"); return right(f)
def no_temporary_files(f):
    import tempfile
    tempfile.tempdir = "/no/such/folder"
    return right(f)
def one_tuple(f): return (right(f),)
def listed(f): return [right(f)]
def strided(f): return right(f)[..., ::-1][..., ::-1]
def leaves_a_child(f):
    if os.fork() == 0:
        note_pid()
        time.sleep(60)
        os._exit(0)
    return right(f)
def returns_twice(f):
    if os.fork() == 0: note_pid()
    return right(f)

# right, other kinds of callable
anonymous = lambda f: right(f)
def outer(k):
    def inner(f): return k * right(f)
    return inner
closure = outer(1.0)
bound = functools.partial(lambda k, f: k * right(f), 1.0)
class Callable:
    def __call__(self, f): return right(f)
    def method(self, f): return right(f)
    @staticmethod
    def static(f): return right(f)
instance = Callable()
def keywords(f, **options): assert not options; return right(f)
def any_positional(*arrays): return right(*arrays)
class Unsigned(Callable):
    @property
    def __signature__(self): raise RuntimeError("no signature")
unsigned = Unsigned()
builtin = max
not_callable = 3
"""
BROKEN = {
    "raising.py": 'raise ValueError("two\\nlines")',
    "exiting.py": "import sys; sys.exit(0)",
    "dying.py": "import os; os._exit(0)",
    "aborting.py": "import os; os.abort()",
    "hanging.py": "import time; time.sleep(100)",
    "syntax.py": "def f(:",
    "needs.py": "import no_such_module_anywhere",
    "binary.py": "\0\0",
    "rude.py": "def __getattr__(name): raise RuntimeError('no')",
}


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A folder with strange.py and the broken modules."""
    folder = tmp_path_factory.mktemp("strange")
    for name, code in ({"strange.py": STRANGE} | BROKEN).items():
        (folder / name).write_text(code)
    return folder


@pytest.fixture
def command(capfd):
    """`motionspec ...` in this process: (status, stdout, stderr), children and C code included."""

    def run(*words):
        capfd.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def pids(tmp_path, monkeypatch):
    """Process ids that a stranger's callable noted; those still alive are killed in the end."""
    path = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(path))

    def noted():
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    yield noted
    for pid in filter(alive, noted()):
        os.kill(pid, signal.SIGKILL)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):  # a zombie that nobody has waited for is gone
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def one_line(result):
    """The one line on stderr of a question that cannot be asked."""
    status, out, err = result
    assert (status, out) == (2, ""), err or out
    assert err.startswith("motionspec") and err.count("\n") == 1, err
    return err


def complaint(fn, equation, **options):
    """The report of a `motionspec.check` that fails."""
    with pytest.raises(AssertionError) as caught:
        motionspec.check(fn, equation, **options)
    return str(caught.value)


def explanation(report):
    return re.findall(r"^  (what differs: .*)$", report, re.MULTILINE)


def right(f):
    return off.cross_gradient(f)


# -- strange callables -------------------------------------------------------------------------------------------------

WRONG = {
    "raises": ("raises", "ValueError: two lines (strange.py:"),
    "exits": ("raises", "SystemExit: 5"),
    "interrupts": ("raises", "KeyboardInterrupt"),
    "stops_iteration": ("raises", "StopIteration"),
    "recurses": ("raises", "RecursionError: maximum recursion depth exceeded"),
    "asks": ("raises", "EOFError"),
    "raises_mute": ("raises", "Mute"),
    "raises_our_own": ("raises", "CannotRun: not mine to raise"),
    "none": ("wrong type", "NoneType where NumPy arrays are expected"),
    "floats": ("wrong type", "float where NumPy arrays are expected"),
    "scalar": ("wrong type", "float where NumPy arrays are expected"),
    "numpy_scalar": ("wrong shape", "F has shape (), expected (1, 1, 1, 1)"),
    "dictionary": ("wrong type", "dict where NumPy arrays are expected"),
    "generator": ("wrong type", "generator where NumPy arrays are expected"),
    "ragged": ("wrong type", "NoneType where NumPy arrays are expected"),
    "extra_axis": ("wrong shape", "F has shape (1, 1, 1, 1, 1), expected (1, 1, 1, 1)"),
    "zero_d": ("wrong shape", "F has shape (), expected (1, 1, 1, 1)"),
    "two_outputs": ("wrong shape", "returned 2 arrays of shape (1, 1, 1, 1), (1, 1, 1, 1), expected 1: F"),
    "no_output": ("wrong shape", "returned 0 arrays"),
    "enormous": ("wrong shape", "F has shape (10000000, 10000000), expected (1, 1, 1, 1)"),
    "float32": ("wrong dtype", "F has dtype float32, expected float64"),
    "integers": ("wrong dtype", "F has dtype int64, expected float64"),
    "objects": ("wrong dtype", "F has dtype object, expected float64"),
    "text": ("wrong dtype", "F has dtype <U3, expected float64"),
    "records": ("wrong dtype", "expected float64"),
    "complex128": ("wrong dtype", "F has dtype complex128, expected float64"),
    "one_nan": ("returns NaN", "got      nan"),
    "one_inf": ("differs", "got      inf"),
    "vast": ("differs", "got      1e+300"),
    "mutates": ("changes its input", "changed f in place"),
    "in_place": ("changes its input", "changed f in place"),
    "same": ("differs", "nothing tried explains it"),
    "view": ("differs", "nothing tried explains it"),
    "dies": ("crashes", "ended the process with status 3"),
    "dies_quietly": ("crashes", "ended the process with status 0"),
    "aborts": ("crashes", "was killed by SIGABRT"),
    "segfaults": ("crashes", "was killed by SIGSEGV"),
    "slams_every_door": ("crashes", ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_callable_gets_a_clear_verdict(command, strange, name):
    kind, says = WRONG[name]
    status, out, err = command("check", CROSS, "--impl", f"{strange}/strange.py:{name}", "--cases", 12)
    assert (status, err) == (1, "")
    assert out.splitlines()[2].endswith("  " + kind)
    assert says in out
    assert "Traceback" not in out
    assert out.endswith("\n0 of 1 agree\n")


CANNOT_RUN = {  # called wrongly in every case: nothing is known of it
    "noargs": "noargs: cannot be called with f: TypeError: noargs() takes 0 positional arguments but 1 was given",
    "two_arrays": "two_arrays: cannot be called with f: TypeError: two_arrays() missing 1 required positional argument",
    "must_be_named": "cannot be called with f: TypeError: must_be_named() missing 1 required keyword-only argument",
    "Callable.method": "Callable.method: cannot be called with f: TypeError",
    "wants_tensor": "If it takes torch tensors: --framework torch (in Python framework='torch')",
    "tensor": "returned torch.Tensor where NumPy arrays are expected. If it takes torch tensors: --framework torch",
    "foreign": "returned strange.Foreign where NumPy arrays are expected. Return NumPy arrays from it",
}


@pytest.mark.parametrize("name", CANNOT_RUN)
def test_a_callable_that_cannot_be_put_to_any_case_cannot_be_judged(command, strange, name):
    if "torch" in CANNOT_RUN[name]:
        pytest.importorskip("torch")
    assert CANNOT_RUN[name] in one_line(
        command("check", CROSS, "--impl", f"{strange}/strange.py:{name}", "--cases", 12)
    )


@pytest.mark.parametrize("name", ["asks_for_numpy", "gives_numpy"])
def test_a_numpy_function_held_as_a_torch_function_cannot_be_judged(command, strange, name):
    pytest.importorskip("torch")
    words = ["--impl", f"{strange}/strange.py:{name}", "--framework", "torch", "--cases", 5]
    assert "If it takes NumPy arrays: --framework numpy" in one_line(command("check", CROSS, *words))


def test_one_case_of_a_kind_that_cannot_run_is_a_finding(command, strange):
    """Only what never runs cannot be judged: here the others can."""
    status, out, _ = command("check", CROSS, "--impl", f"{strange}/strange.py:foreign_for_two", "--cases", 12)
    assert status == 1
    assert re.search(r"wrong type on \d of 12 cases, those where N > 1", out), out


# fmt: off
HARMLESS = [
    "prints", "writes", "prints_much", "complains", "warns", "moves", "closes_1", "closes_stdout", "drops_stdout",
    "replaces_stdout", "threads", "threads_daemon", "pools", "seterr", "no_temporary_files", "one_tuple", "listed",
    "strided", "anonymous", "closure", "bound", "instance", "instance.method", "Callable.static", "keywords",
    "any_positional", "unsigned",
]
# fmt: on


@pytest.mark.parametrize("name", HARMLESS)
def test_a_right_callable_agrees_whatever_else_it_does(command, strange, name):
    status, out, err = command("check", CROSS, "--impl", f"{strange}/strange.py:{name}", "--cases", 3)
    assert (status, err) == (0, ""), out
    assert " agrees" in out.splitlines()[2]
    assert out.startswith("equation ") and len(out.splitlines()) == 5  # nothing of what it printed


@pytest.mark.parametrize("name", ["prints", "writes", "prints_much"])
def test_a_callable_that_prints_is_told_so(strange, name):
    done = subprocess.run(
        [MOTIONSPEC, "check", CROSS, "--impl", f"strange.py:{name}", "--cases", "2"],
        cwd=strange,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "agrees (prints to stdout: 'hello" in done.stdout


@pytest.mark.parametrize("timeout", [60, None])
def test_prints_are_caught_where_stdout_is_not_file_1(timeout):
    """pytest, notebooks and redirect_stdout put another object there."""

    def chatty(f):
        print("hello")
        return right(f)

    mine = io.StringIO()
    with contextlib.redirect_stdout(mine):
        (verdict,) = motionspec.check(chatty, CROSS, cases=3, timeout=timeout)
        print("still mine")
    assert verdict.note == "prints to stdout: 'hello'"
    assert mine.getvalue() == "still mine\n"


def test_a_callable_without_a_signature_is_called_with_the_arrays_alone(command, strange):
    status, out, err = command("check", "warp.bilinear", "--impl", f"{strange}/strange.py:builtin", "--cases", 2)
    assert (status, err) == (1, "")  # max of two arrays: it was called, and is not a warp
    assert "outside=zero" in out and "outside=blend" not in out


def test_a_callable_with_the_variant_s_keyword_is_judged_on_all_whatever_its_default():
    def other_default(x, flow, outside="blend"):
        return warp.bilinear(x, flow, outside=outside)

    for fn in (other_default, partial(other_default, outside="blend"), lambda *a, **k: warp.bilinear(*a, **k)):
        verdicts = motionspec.check(fn, "warp.bilinear", cases=6)
        assert [v.variant for v in verdicts] == [{"outside": "zero"}, {"outside": "blend"}]
    (verdict,) = motionspec.check(other_default, "warp.bilinear", variant={"outside": "zero"}, cases=6)
    assert verdict.variant == {"outside": "zero"}
    positional = "def f(x, flow, outside='blend', /): return bilinear(x, flow, outside=outside)"
    space = {"bilinear": warp.bilinear}
    exec(positional, space)
    assert explanation(complaint(space["f"], "warp.bilinear")) == ["what differs: the variant: this is outside='blend'"]


# -- callables that do not come back, and processes that stay ----------------------------------------------------------


@pytest.mark.parametrize("name", ["spins", "sleeps_in_c", "unkillable"])
def test_a_callable_that_never_returns_is_killed(command, strange, pids, name):
    start = time.monotonic()
    status, out, err = command("check", CROSS, "--impl", f"{strange}/strange.py:{name}", "--timeout", 0.7)
    assert time.monotonic() - start < 5
    assert (status, err) == (1, "")
    assert out.splitlines()[2].endswith("  never returns")
    assert "did not return within 0.7 s and was killed" in out
    assert "cases not judged: calls that did not come back had taken too long" in out
    assert len(pids()) == 2  # and no third
    assert not any(map(alive, pids()))


def test_a_callable_that_writes_into_the_judge_s_pipe_does_not_hang_it(strange, pids):  # pids: cleans up
    # In a process of its own: the callable also writes into files that the test run has open.
    words = [MOTIONSPEC, "check", CROSS, "--impl", "strange.py:scribbles", "--timeout", "1", "--cases", "3"]
    done = subprocess.run(words, cwd=strange, capture_output=True, text=True, timeout=20)  # it is asked again
    assert (done.returncode, done.stderr) == (1, "")
    assert "0 of 1 agree" in done.stdout


@pytest.mark.parametrize("name", ["leaves_a_child", "returns_twice"])
def test_a_callable_that_forks_is_judged_and_leaves_no_process(command, strange, pids, name):
    status, out, _ = command("check", CROSS, "--impl", f"{strange}/strange.py:{name}", "--cases", 3)
    assert wait_until(lambda: len(pids()) >= 1)
    assert wait_until(lambda: not any(map(alive, pids())), 2)
    assert status == 0, out


def heed_signals():
    """In the child: a test run under nohup or in the background of a script ignores these, and so would the child."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_a_killed_judge_takes_the_callable_with_it(strange, pids, how):
    """A CI job's timeout must not leave a process that burns a core for ever."""
    words = [MOTIONSPEC, "check", CROSS, "--impl", "strange.py:spins"]
    judging = subprocess.Popen(words, cwd=strange, preexec_fn=heed_signals)
    assert wait_until(pids, 20)
    judging.send_signal(how)
    judging.wait(10)
    assert wait_until(lambda: not alive(pids()[0]), 3)


def test_ctrl_c_ends_with_one_line_and_status_130(strange, pids):
    words = [MOTIONSPEC, "check", CROSS, "--impl", "strange.py:spins"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    judging = subprocess.Popen(words, cwd=strange, preexec_fn=heed_signals, **pipes)
    assert wait_until(pids, 20)
    judging.send_signal(signal.SIGINT)
    out, err = judging.communicate(timeout=10)
    assert (judging.returncode, out, err.strip()) == (130, "", "motionspec: interrupted")
    assert wait_until(lambda: not alive(pids()[0]), 3)


def test_a_death_between_two_calls_is_a_verdict():
    def dies_soon(f):
        threading.Timer(0.01, os._exit, (9,)).start()
        return right(f)

    with Runner(10, dies_soon) as runner:
        (verdict,) = judge(dies_soon, CROSS, runner, cases=3, progress=lambda *_: time.sleep(0.3))
    assert (verdict.kind, verdict.note) == ("crashes", "ended the process with status 9")
    assert verdict.cases == 3  # it goes on with the others


def test_a_death_while_the_report_is_made_does_not_swallow_it(command, strange):
    status, out, err = command("check", "warp.bilinear", "--impl", f"{strange}/strange.py:wrong_then_dies_late")
    assert (status, err) == (1, "")
    assert "0 of 2 agree" in out


# -- questions that cannot be asked ------------------------------------------------------------------------------------

CANNOT = {
    "check warp.bilinar": "no equation 'warp.bilinar'. Did you mean warp.bilinear?",
    "show warp.bilinar": "no equation 'warp.bilinar'. Did you mean warp.bilinear?",
    "check zzz": "no equation 'zzz'. `motionspec list` shows all",
    "show off_tsn": "off_tsn is a network, motionspec.models.off_tsn, and no equation",
    "check off_tsn": "off_tsn is a network, motionspec.models.off_tsn, and no equation",
    "check": "name equations to check, or --all",
    "check --impl strange.py:prints": "--impl is held against one equation",
    "check --all --impl strange.py:prints": "--impl is held against one equation",
    "check warp.bilinear off.features --impl strange.py:prints": "--impl is held against one equation",
    "check off.features --impl strange.py": "expected package.module:function or FILE.py:function",
    "check off.features --impl strange.py:": "expected package.module:function or FILE.py:function",
    "check off.features --impl ''": "expected package.module:function or FILE.py:function",
    "check off.features --impl nowhere.py:f": "there is no file nowhere.py",
    "check off.features --impl no_such_module.sub:f": "No module named 'no_such_module'",
    "check off.features --impl strange.py:nothing": "strange.py has no nothing",
    "check off.features --impl strange.py:Callable.nothing": "strange.py has no Callable.nothing",
    "check off.features --impl strange.py:not_callable": "not_callable is not callable",
    "check off.features --impl raising.py:f": "importing raising.py failed: ValueError: two lines (raising.py:1)",
    "check off.features --impl exiting.py:f": "importing exiting.py failed: SystemExit: 0 (exiting.py:1)",
    "check off.features --impl syntax.py:f": "importing syntax.py failed: SyntaxError: invalid syntax",
    "check off.features --impl needs.py:f": "No module named 'no_such_module_anywhere' (needs.py:1)",
    "check off.features --impl binary.py:f": "importing binary.py failed: SyntaxError",
    "check off.features --impl rude.py:f": "RuntimeError: no (rude.py:1)",
    "check off.features --impl dying.py:f": "ended the process with status 0",
    "check off.features --impl aborting.py:f": "was killed by SIGABRT",
    "check off.features --impl hanging.py:f --timeout 0.7": "did not return within 0.7 s",
    "check off.features --dtype float63": "--dtype float63: expected one or more of float64,float32,bfloat16,float16",
    "check off.features --dtype float64,": "expected one or more of float64,float32,bfloat16,float16",
    "check off.features --impl strange.py:prints --dtype bfloat16": "NumPy has no bfloat16: use --framework torch",
    "check off.features --impl strange.py:prints --dtype float32,bfloat16": "NumPy has no bfloat16",
    "check off.features --impl strange.py:prints --grad": "gradients need --framework torch",
    "check off.features --framework numpy": "our operators take torch tensors",
    "check off.features --framework jax": "invalid choice: 'jax'",
    "check off.features --variant kernel=scharr": "no variant kernel=scharr; it has: kernel=paper; kernel=sobel",
    "check off.features --variant outside=zero": "no variant outside=zero; it has: kernel=paper; kernel=sobel",
    "check off.cross_gradient --variant kernel=paper": "no variant kernel=paper; it has: none",
    "check off.features --variant kernel": "--variant kernel: expected KEY=VALUE",
    "check off.features --variant =paper": "--variant =paper: expected KEY=VALUE",
    "check off.features --variant kernel=paper --variant kernel=sobel": "kernel",
    "check off.features --cases 0": "--cases: expected a finite number above 0, got 0",
    "check off.features --cases -3": "--cases: expected a finite number above 0, got -3",
    "check off.features --cases 1.5": "--cases: invalid int value: '1.5'",
    "check off.features --timeout 0": "--timeout: expected a finite number above 0, got 0",
    "check off.features --timeout nan": "--timeout: expected a finite number above 0, got nan",
    "check off.features --timeout soon": "--timeout: invalid float value: 'soon'",
    "check off.features --seed -1": "--seed",
    "check off.features --seed x": "--seed: invalid int value: 'x'",
    "check off.cross_gradient --impl strange.py:prints --device cuda": "torch",
    "check off.cross_gradient --impl strange.py:prints --json ''": "--json",
    "frobnicate": "invalid choice: 'frobnicate'",
    "": "COMMAND",
}


@pytest.mark.parametrize("words", CANNOT)
def test_a_question_that_cannot_be_asked_gets_one_clear_line(command, strange, monkeypatch, words):
    monkeypatch.chdir(strange)
    assert CANNOT[words] in one_line(command(*shlex.split(words)))


@pytest.mark.parametrize("device", ["cuda", "nonsense", "meta", ""])
@pytest.mark.parametrize("target", [[], ["--impl", "motionspec.ops.off:features", "--framework", "torch"]])
def test_a_device_that_is_not_there_gets_one_clear_line(command, device, target):
    torch = pytest.importorskip("torch")
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert f"device {device}" in one_line(command("check", "off.features", "--device", device, *target))


@pytest.mark.parametrize("path", ["missing/verdicts.json", "."])
def test_a_json_file_that_cannot_be_written_gets_one_clear_line(command, strange, tmp_path, path):
    words = ["check", CROSS, "--impl", f"{strange}/strange.py:listed", "--cases", 2, "--json", tmp_path / path]
    status, _, err = command(*words)
    assert status == 2
    assert err.startswith(f"motionspec: --json {tmp_path / path}: ") and err.count("\n") == 1


def test_a_module_that_prints_on_import_does_not_spoil_the_report(command, tmp_path):
    code = 'import os, sys\nprint("noise")\nprint("noise", file=sys.stderr)\nos.write(1, b"noise")\n'
    (tmp_path / "noisy.py").write_text(code + "from motionspec.refimpl.off import cross_gradient as f\n")
    status, out, err = command("check", CROSS, "--impl", f"{tmp_path}/noisy.py:f", "--cases", 2)
    assert (status, err) == (0, "")
    assert out.startswith("equation ") and "noise" not in out


def test_the_status_is_the_process_s(strange):
    for status, words in {
        0: f"check {CROSS} --impl strange.py:listed --cases 2",
        1: f"check {CROSS} --impl strange.py:same --cases 2",
        2: f"check {CROSS} --impl strange.py:nothing",
    }.items():
        done = subprocess.run([MOTIONSPEC, *words.split()], cwd=strange, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (status, int(status == 2))


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(f"{MOTIONSPEC} list | head -n 1", shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("id ") and done.stderr == ""


def test_version_and_help(command):
    assert command("--version") == (0, f"motionspec {motionspec.__version__}\n", "")
    for words in (["--help"], ["check", "--help"], ["show", "--help"], ["list", "--help"]):
        status, out, err = command(*words)
        assert (status, err) == (0, "") and out.startswith("usage: motionspec")


def test_progress_is_shown_on_a_terminal_and_cleared(strange):
    ours, theirs = pty.openpty()
    words = [MOTIONSPEC, "check", CROSS, "--impl", "strange.py:listed", "--cases", "7"]
    done = subprocess.run(words, cwd=strange, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = os.read(ours, 10**5).decode()
    os.close(ours)
    assert done.returncode == 0 and done.stdout.startswith("equation ")
    assert f"7/7 {CROSS} float64" in shown
    assert shown.endswith("\r\x1b[K")


# -- the call ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [60, None])
def test_check_returns_verdicts_or_raises_the_report(timeout):
    gain = 1.0
    check = partial(motionspec.check, lambda f: gain * right(f), CROSS, timeout=timeout)
    (verdict,) = check()
    assert (verdict.ok, verdict.id, verdict.checked, verdict.cases) == (True, CROSS, "value", DEFAULT_CASES)
    gain = 2.0
    with pytest.raises(AssertionError, match=r"what differs: the gain of F: 2 times the expected") as caught:
        check()
    assert str(caught.value).endswith("0 of 1 agree")


def test_check_takes_targets_by_name_too(strange, monkeypatch):
    monkeypatch.chdir(strange)
    for target in ("strange.py:listed", "strange:listed", str(strange / "strange.py:listed")):
        assert motionspec.check(target, CROSS, cases=3)[0].ok
    with pytest.raises(CannotRun, match=r"strange\.py has no nothing"):
        motionspec.check("strange.py:nothing", CROSS)


def test_check_takes_several_dtypes():
    def kept(f):
        return right(f).astype(f.dtype)

    verdicts = motionspec.check(kept, CROSS, dtype=("float32", "float16", "float64"), cases=8)
    assert [v.dtype for v in verdicts] == ["float32", "float16", "float64"]
    report = complaint(right, CROSS, dtype=["float64", "float32"], cases=8)
    assert "1 of 2 agree" in report and "F has dtype float64, expected float32" in report


NOT_ASKABLE = {
    "no cases": {"cases": 0},
    "fewer than none": {"cases": -1},
    "no dtype": {"dtype": []},
    "unknown dtype": {"dtype": "float63"},
    "dtypes as one word": {"dtype": "float64,float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "grad": {"grad": True},
    "framework": {"framework": "jax"},
    "device": {"device": "cuda"},
    "seed": {"seed": -1},
    "timeout 0": {"timeout": 0},
    "timeout nan": {"timeout": float("nan")},
    "timeout inf": {"timeout": float("inf")},
    "variant": {"variant": {"kernel": "paper"}},
    "equation": {"equation": "off.cros_gradient"},
    "network": {"equation": "off_tsn"},
    "callable": {"fn": None},
}


@pytest.mark.parametrize("asked", NOT_ASKABLE)
def test_check_refuses_what_cannot_be_asked(asked, capfd):
    with pytest.raises(CannotRun) as caught:
        motionspec.check(**{"fn": right, "equation": CROSS, "cases": 2, **NOT_ASKABLE[asked]})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300, 1.7e308, 5e-324])
def test_check_fails_with_its_report_on_any_number(value):
    """Also where warnings are errors, as here: an overflow while comparing is not the answer."""
    report = complaint(lambda f: np.where(np.arange(f.size).reshape(f.shape) == f.size // 2, value, right(f)), CROSS)
    assert "0 of 1 agree" in report
    assert "RuntimeWarning" not in report


def test_check_works_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.extend(motionspec.check(right, CROSS, cases=3)))
    thread.start()
    thread.join()
    assert found[0].ok


def test_check_leaves_no_file_open_and_no_process(tmp_path):
    def noted(f):
        (tmp_path / "pid").write_text(str(os.getpid()))
        return right(f)

    def dies(f):
        noted(f)
        os._exit(1)

    for fn in (noted, dies):
        before = len(os.listdir("/dev/fd"))
        with contextlib.suppress(AssertionError):
            motionspec.check(fn, CROSS, cases=2)
        assert len(os.listdir("/dev/fd")) == before
        pid = int((tmp_path / "pid").read_text())
        assert pid != os.getpid()
        with pytest.raises(ProcessLookupError):  # not even a zombie
            os.kill(pid, 0)


# -- torch -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def with_backward(torch, backward):
    """The right value with a backward of one's own. Its `apply` has no signature that Python can read."""
    from motionspec.ops.off import cross_gradient

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, f):
            return cross_gradient(f)

        @staticmethod
        def backward(ctx, g):
            return backward(g)

    return Op.apply


def test_our_operators_agree(command, torch):
    status, out, err = command("check", "--all", "--cases", 4, "--dtype", "float64,bfloat16")
    assert (status, err) == (0, "")
    verdicts, precision, legend, last = out.split("\n\n")
    rows = verdicts.splitlines()[2:]
    assert [row.split()[0] for row in rows] == [
        row.id for row in EQUATIONS.values() for _ in range(2) for _ in row.variants
    ]
    assert all(row.endswith("  agrees") for row in rows)
    assert last == f"{len(rows)} of {len(rows)} agree\n"
    rows = [row.split() for row in precision.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[name, dtype] for name in EQUATIONS for dtype in ("float64", "bfloat16")]
    assert [line.partition(": ")[0] for line in legend.splitlines()] == ["per unit", "relative", "ulp", "ulp of unit"]
    for name, dtype, *numbers in rows:  # half types are computed in float32 and rounded once
        assert dtype == "float64" or float(numbers[-1]) <= 0.51, name


def test_precision_is_shown_where_a_type_is_chosen(command, strange, tmp_path):
    """The worst over the variants, and the same in JSON."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom motionspec.refimpl import off\n"
        "def f(f, kernel='paper'):\n"
        "    found = [g.astype(f.dtype) for g in off.spatial_gradient(f, kernel)]\n"
        "    return tuple(np.nextafter(g, 2 * g, dtype=f.dtype) if kernel == 'sobel' else g for g in found)\n"
    )
    words = ["check", "off.spatial_gradient", "--impl", f"{tmp_path}/mine.py:f", "--json", tmp_path / "v.json"]
    assert "ulp" not in command(*words)[1]
    table = command(*words, "--dtype", "float32,float16")[1].split("\n\n")[1].splitlines()
    assert table[0].split("  ")[0] == "equation" and "ulp of unit" in table[0]
    assert [line.split()[:2] for line in table[2:]] == [["off.spatial_gradient", d] for d in ("float32", "float16")]
    found = {(v["dtype"], v["variant"]["kernel"]): v["precision"] for v in strict_json(tmp_path / "v.json")["verdicts"]}
    for n, dtype in enumerate(("float32", "float16")):
        assert 0 < found[dtype, "paper"]["ulp"] <= 0.5 < 1 <= found[dtype, "sobel"]["ulp"] <= 2.5  # 2: at a power of 2
        assert float(table[2 + n].split()[4]) == pytest.approx(found[dtype, "sobel"]["ulp"], abs=0.01)


def test_there_is_no_precision_of_what_cannot_be_measured(command, strange):
    words = ["--impl", f"{strange}/strange.py:raises", "--dtype", "float32"]
    out = command("check", CROSS, *words)[1]
    assert "raises" in out and "ulp" not in out


def test_check_after_torch_has_used_its_threads(torch):
    """Neither OpenMP's nor autograd's threads survive a fork."""
    from motionspec.ops.off import cross_gradient

    def heavy(f):
        a = torch.ones(400, 400, dtype=f.dtype, requires_grad=True)
        (a @ a).sum().backward()
        torch.nn.functional.conv2d(torch.ones(4, 8, 64, 64), torch.ones(8, 8, 3, 3))
        return cross_gradient(f)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        heavy(torch.ones(1, 1, 5, 5))
        verdicts = motionspec.check(heavy, CROSS, framework="torch", grad=True, cases=3, timeout=20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [v.checked for v in verdicts] == ["value", "gradient of f"]


@pytest.mark.parametrize("timeout", [60, None])
def test_check_judges_modules_and_gradients(torch, timeout):
    from motionspec.ops.off import cross_gradient

    class Module(torch.nn.Module):
        def forward(self, f):
            return cross_gradient(f)

    options = {"framework": "torch", "grad": True, "cases": 6, "timeout": timeout, "device": "cpu"}
    dtypes = ["float64", "float32", "float16", "bfloat16"]
    verdicts = motionspec.check(Module(), CROSS, dtype=dtypes, **options)
    assert [(v.dtype, v.checked) for v in verdicts] == [(d, c) for d in dtypes for c in ("value", "gradient of f")]
    assert verdicts[1].cases == sum(map(is_smooth, range(6)))  # those that stay away from kinks


def test_gradients_that_go_wrong_get_a_clear_verdict(torch):
    def hang(g):
        time.sleep(60)

    def shout(g):
        print("noise")
        return 2 * g

    options = {"framework": "torch", "grad": True, "cases": 3}
    for backward, kind, says in (
        (lambda g: 1 / 0, "raises", "in backward: ZeroDivisionError"),
        (lambda g: g * torch.nan, "returns NaN", "got      nan"),
        (lambda g: None, "no gradient", "the output does not depend on f for autograd"),
        (lambda g: g.new_ones(7), "raises", "in backward: RuntimeError"),
        (shout, "differs", "first wrong: d/df[0, 0, 0, 0]"),
        (lambda g: os._exit(4), "crashes", "ended the process with status 4"),
    ):
        report = complaint(with_backward(torch, backward), CROSS, **options)
        value, gradient = report.splitlines()[3:5]
        assert value.endswith("  agrees") and gradient.endswith("  " + kind), report
        assert says in report and "1 of 2 agree" in report
    report = complaint(with_backward(torch, hang), CROSS, **options, timeout=1)
    assert "did not return within 1 s" in report and "1 of 2 agree" in report


@pytest.mark.parametrize(
    "change, kind, says",
    [
        (lambda t: t.to_sparse(), "", ""),
        (lambda t: t.to("meta"), "", ""),
        (lambda t: t * 1j, "wrong dtype", "F has dtype complex128, expected float64"),
        (lambda t: t.bfloat16(), "wrong dtype", "F has dtype bfloat16, expected float64"),
        (lambda t: t.add_(1).sub_(0.5), "differs", "nothing tried explains it"),
    ],
    ids=["sparse", "meta", "complex", "bfloat16", "wrong"],
)
def test_strange_tensors_get_a_clear_verdict(torch, capfd, change, kind, says):
    from motionspec.ops.off import cross_gradient

    report = complaint(lambda f: change(cross_gradient(f)), CROSS, framework="torch", cases=12)
    verdict = report.splitlines()[3]
    assert verdict.endswith(kind) and not verdict.endswith("crashes")
    assert says in report
    assert capfd.readouterr() == ("", "")


def test_what_returns_arrays_where_tensors_are_expected_cannot_be_judged(torch):
    from motionspec.ops.off import cross_gradient

    says = "returned numpy.ndarray where torch tensors are expected. If it takes NumPy arrays: --framework numpy"
    with pytest.raises(CannotRun, match=re.escape(says)):
        motionspec.check(lambda f: cross_gradient(f).numpy(), CROSS, framework="torch", cases=12)


def test_a_torch_callable_that_changes_its_input_is_told_so(torch):
    def in_place(f_prev, f_next):
        return f_next.sub_(f_prev)

    report = complaint(in_place, "off.temporal_difference", framework="torch", grad=True, cases=3)
    assert "changed f_next in place" in report and "0 of 3 agree" in report


# -- what differs ------------------------------------------------------------------------------------------------------

PEERS = {  # the command on other people's implementations; the judge's verdicts on all of them: test_peers.py
    "warp.bilinear scipy_map_coordinates": "",
    "warp.bilinear torch_grid_sample --framework torch": "the variant: this is outside='blend'",
    "warp.bilinear torch_grid_sample --framework torch --grad --variant outside=blend": "",
}


@pytest.mark.parametrize("words", PEERS)
def test_other_people_s_implementations(command, tmp_path, words):
    equation, adapter, *options = words.split()
    pytest.importorskip(adapter.partition("_")[0])
    found = tmp_path / "verdicts.json"
    status, out, err = command("check", equation, "--impl", f"{ADAPTERS}:{adapter}", "--json", found, *options)
    assert err == ""
    assert explanation(out) == ([f"what differs: {PEERS[words]}"] if PEERS[words] else [])
    assert status == bool(PEERS[words])
    for verdict in strict_json(found)["verdicts"]:
        if verdict["checked"] == "value" and not status:
            assert verdict["error"] <= 1e-12 * 1024  # the values reach 1024


def padded(mode):
    def function(f):
        wide = np.pad(f, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)
        return tuple(g[..., 1:-1, 1:-1] for g in off.spatial_gradient(wide))

    return function


replicated, reflected = padded("edge"), padded("reflect")


def last_of_ties(c):
    N, H, W, P, Q = c.shape
    v, u = np.unravel_index(c[..., ::-1, ::-1].reshape(N, H, W, P * Q).argmax(-1), (P, Q))
    return np.stack([Q // 2 - u, P // 2 - v], axis=1).astype(float)


def single(array):
    return array.astype(np.float32).astype(np.float64)


def half(array):
    return array.astype(np.float16).astype(np.float64)


def shifted_sides_of_1(f):
    fx, fy = brightness.gradient(f)
    return (fx + 1, fy) if 1 in f.shape[2:] else (fx, fy)


def block_gains(f_prev, f_next):
    return off.features(f_prev, f_next) * np.repeat([1 / 6, -1 / 6, 1], f_prev.shape[1])[:, None, None]


cross, gradient, bilinear = off.cross_gradient, off.spatial_gradient, warp.bilinear
# fmt: off
DIFFERS = [  # equation, what somebody wrote, what the report says
    (CROSS, lambda f: -cross(f), "the sign of F"),
    (CROSS, lambda f: 3 * cross(f), "the gain of F: 3 times the expected"),
    (CROSS, lambda f: cross(f) / -2, "the gain of F: -0.5 times the expected, opposite sign"),
    (CROSS, lambda f: cross(f) / 6, "the gain of F: 0.166667 times the expected"),
    (CROSS, lambda f: cross(f) / 255, "the gain of F: 0.00392157 times the expected"),
    (CROSS, lambda f: cross(f) * 1e6, "the gain of F: 1e+06 times the expected"),
    ("off.features", block_gains,
     "the gain of Fx: 0.166667 times the expected; the gain of Fy: -0.166667 times the expected, opposite sign"),
    ("off.features", lambda a, b: np.roll(off.features(a, b), a.shape[1], axis=1),
     "the order of the components: this is (Ft, Fx, Fy)"),
    ("off.spatial_gradient", lambda f: (gradient(f)[0], -gradient(f)[1]), "the sign of Fy"),
    ("off.spatial_gradient", lambda f: gradient(f)[::-1], "the order of the components: this is (Fy, Fx)"),
    ("off.spatial_gradient", lambda f: (-gradient(f)[1], gradient(f)[0]),
     "the order of the components: this is (Fy, Fx); the sign of Fy"),
    ("off.spatial_gradient", lambda f: gradient(f, "sobel"), "the variant: this is kernel='sobel'"),
    ("off.spatial_gradient", lambda f: tuple(g / 8 for g in gradient(f, "sobel")[::-1]),
     "the variant: this is kernel='sobel'; the order of the components: this is (Fy, Fx); "
     "the gain of Fy: 0.125 times the expected; the gain of Fx: 0.125 times the expected"),
    ("off.spatial_gradient", lambda f: replicated(f), "a known departure: border repeated"),
    ("off.spatial_gradient", lambda f: (replicated(f)[0], -replicated(f)[1]),
     "a known departure: border repeated; the sign of Fy"),
    ("off.spatial_gradient", lambda f: reflected(f), "the border rule (the interior agrees)"),
    ("off.spatial_gradient", lambda f: tuple(single(g) for g in gradient(single(f))),
     "the precision (agrees to float32's)"),
    ("off.spatial_gradient", lambda f: tuple(half(g) for g in gradient(f)), "the precision (agrees to float16's)"),
    ("brightness.gradient", shifted_sides_of_1, "sides of length 1 (all else agrees)"),
    ("brightness.normal_flow", lambda a, b, c: np.roll(brightness.normal_flow(a, b, c), a.shape[1], axis=1),
     "the order of the components: this is (v, u)"),
    ("warp.bilinear", lambda x, flow: bilinear(x, -flow), "the flow has the opposite sign"),
    ("warp.bilinear", lambda x, flow: bilinear(x, flow[:, ::-1]), "u and v of the flow are swapped"),
    ("warp.bilinear", lambda x, flow: bilinear(x, -flow[:, ::-1]), "u and v of the flow are swapped, opposite sign"),
    ("warp.bilinear", lambda x, flow: bilinear(x, -flow, outside="blend"),
     "the variant: this is outside='blend'; the flow has the opposite sign"),
    ("warp.bilinear", lambda x, flow: bilinear(x, flow + 0.5), "a known departure: half-pixel slip"),
    ("warp.bilinear", lambda x, flow, outside="zero": bilinear(x, flow + 0.5, outside=outside),
     "a known departure: half-pixel slip"),
    ("metrics.psnr", lambda image, target, peak: 10 * np.log10(peak**2 / np.mean((image - target) ** 2)),
     "a known departure: of the MSE of all images"),
    ("metrics.top_k", lambda scores, label: 100 * np.mean(scores.argmax(1) == label),
     "the gain of accuracy: 100 times the expected; ties and kinks (the cases without any agree)"),
    ("costvol.hard_displacement", lambda c: last_of_ties(c), "ties and kinks (the cases without any agree)"),
    ("losses.multiscale_endpoint_error", lambda flows, target, *, mask: losses.multiscale_endpoint_error(
        flows, target, alpha=(0.125, 0.5), mask=mask), "a known departure: weights from fine to coarse"),
]
# fmt: on


@pytest.mark.parametrize("equation, fn, says", DIFFERS, ids=[f"{e}: {says}" for e, _, says in DIFFERS])
def test_the_report_says_what_differs(equation, fn, says):
    assert set(explanation(complaint(fn, equation, timeout=None))) == {f"what differs: {says}"}


def test_the_report_says_when_nothing_explains_it():
    def noise(f):
        return np.random.default_rng(list(f.tobytes())).normal(size=f.shape)

    (says,) = explanation(complaint(noise, CROSS, timeout=None))
    assert says == "what differs: nothing tried explains it"  # and nothing is close to noise
    nearest = complaint(
        lambda x, flow: warp.bilinear(x, flow, outside="blend") + 1e-3 * abs(x).max(), "warp.bilinear", timeout=None
    )
    assert "Closest is outside='blend': 100 % of the values are off by less than 1 % of their scale" in nearest


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_pixel_that_is_no_number_is_not_called_close(value):
    def wrong(f):
        found = right(f)
        found[..., found.shape[-2] // 2, found.shape[-1] // 2] = value
        return found

    report = complaint(wrong, CROSS, timeout=None)
    assert explanation(report) and "off by up to 0 " not in report
    row = report.splitlines()[3]
    assert re.search(r"  inf  ", row), row  # the worst error is not 0


# -- the smallest failing case, and the line that reproduces it --------------------------------------------------------


def smallest(equation, wrong):
    """Number of the smallest of the default inputs that `wrong` accepts."""
    cases = (
        (sum(a.size for a in arrays.values()), k)
        for k in range(DEFAULT_CASES)
        if wrong(arrays := exact_case(equation, k))
    )
    return min(cases)[1]


@pytest.mark.parametrize("at_least", [1, 2, 3, 6, 10])
def test_the_smallest_failing_case_is_shown(at_least):
    def wrong(f):
        found = right(f)
        if f.shape[-1] >= at_least:
            found[-1, -1, -1, -1] += 0.5
        return found

    report = complaint(wrong, CROSS, timeout=None)
    k = smallest(CROSS, lambda arrays: arrays["f"].shape[-1] >= at_least)
    f = exact_case(CROSS, k)["f"]
    sizes = ", ".join(f"{name}={size}" for name, size in zip("NCHW", f.shape, strict=True))
    assert f"smallest failing case: number {k}, {sizes}\n" in report
    index = ", ".join(str(size - 1) for size in f.shape)
    assert f"first wrong: F[{index}] (1 of {f.size} elements wrong)\n" in report
    want = float(right(f)[-1, -1, -1, -1])
    assert f"expected {want!r}\n  got      {want + 0.5!r}\n" in report
    shown = re.search(r"^    f = (.*)$", report, re.MULTILINE)
    if f.size <= 24:
        np.testing.assert_allclose(ast.literal_eval(shown[1]), f, rtol=1e-5, atol=1e-6)
    else:
        assert shown is None


def test_the_first_wrong_element_is_of_the_first_wrong_output():
    def wrong(f0, f1, flow):
        residual, mask = brightness.constancy_residual(f0, f1, flow)
        return residual, ~mask

    report = complaint(wrong, "brightness.constancy_residual", timeout=None)
    assert "first wrong: mask[0, 0, 0, 0] (1 of 1 elements wrong)\n" in report


def reproduction(report):
    return re.search(r"reproduce \(prints got, expected.*:\n +(.*)", report)[1]


def run_line(line, folder):
    """A line of the report in a fresh shell, with this environment's python first on the path."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path})


def got_and_expected(report):
    expected = re.search(r"^  expected (\S+)$", report, re.MULTILINE)[1]
    return [float(re.search(r"^  got +(\S+)$", report, re.MULTILINE)[1]), float(expected)]


VALUES = """
import numpy as np
from motionspec.refimpl import brightness, warp

def blend(x, flow): return warp.bilinear(x, flow, outside="blend").astype(x.dtype)
def large(x, flow): return warp.bilinear(x, flow) + (0.25 if x.size > 30 else 0)
def mask(f0, f1, flow):
    residual, mask = brightness.constancy_residual(f0, f1, flow)
    return residual, mask ^ (mask.size > 5)
def second(f): return [brightness.gradient(f)[0], brightness.gradient(f)[1] - 1]
"""
GRADIENTS = """
from motionspec.ops.warp import bilinear

def value(x, flow, outside="zero"): return bilinear(x, flow, outside=outside) * 1.5
def unit(x, flow): return bilinear(1.5 * x - 0.5 * x.detach(), flow)
def random(x, flow): return bilinear(1.5 * x - 0.5 * x.detach(), flow) if x.numel() > 64 else bilinear(x, flow)
"""
REPRODUCE = [
    ("values.py:blend", "warp.bilinear", ""),
    ("sub.values:blend", "warp.bilinear", "--dtype float32 --seed 3"),
    ("sub/values.py:large", "warp.bilinear", ""),
    ("it's $HOME/`a` !b.py:large", "warp.bilinear", "--variant outside=zero"),
    ("values.py:mask", "brightness.constancy_residual", ""),
    ("values.py:second", "brightness.gradient", "--dtype float64 --seed 12345678901234567890"),
    ("gradients.py:value", "warp.bilinear", "--framework torch --dtype bfloat16 --variant outside=blend"),
    ("gradients.py:unit", "warp.bilinear", "--framework torch --grad"),
    ("sub.gradients:random", "warp.bilinear", "--framework torch --grad --cases 20 --seed 2"),
]


@pytest.mark.parametrize("target, equation, words", REPRODUCE, ids=[t for t, _, _ in REPRODUCE])
def test_the_line_that_reproduces_runs_and_prints_what_the_report_says(
    command, tmp_path, monkeypatch, target, equation, words
):
    if "torch" in words:
        pytest.importorskip("torch")
    for folder in (tmp_path, tmp_path / "sub", tmp_path / "it's $HOME"):
        folder.mkdir(exist_ok=True)
        (folder / "values.py").write_text(VALUES)
        (folder / "gradients.py").write_text(GRADIENTS)
        (folder / "`a` !b.py").write_text(VALUES)
    monkeypatch.chdir(tmp_path)
    status, out, err = command("check", equation, "--impl", target, *words.split())
    assert (status, err) == (1, "")
    done = run_line(reproduction(out), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [float(word) for word in done.stdout.split()] == got_and_expected(out)


def test_the_line_that_reproduces_an_exception_shows_it(command, strange, monkeypatch):
    monkeypatch.chdir(strange)
    _, out, _ = command("check", CROSS, "--impl", "strange.py:raises")
    done = run_line(reproduction(out), strange)
    assert re.search(r"ValueError: two\slines", done.stdout + done.stderr)


class Named:
    def __call__(self, f):
        return f

    def method(self, f):
        return f


@pytest.mark.parametrize(
    "fn", [lambda f: f, partial(np.multiply, 2.0), Named(), Named().method, np.negative], ids=lambda f: type(f).__name__
)
def test_the_line_that_reproduces_is_python_for_any_callable(fn):
    line = reproduction(complaint(fn, CROSS))
    compile(shlex.split(line)[2] if line.startswith("python -c ") else line, "line", "exec")


# A test module of a user's: what it judges, and whether another process can find it.
USERS_TESTS = """
import functools, sys
import numpy as np
import pytest
import motionspec
from motionspec.refimpl import off


def function(f): return 3 + off.cross_gradient(f)
anonymous = lambda f: 3 + off.cross_gradient(f)
def scaled(k, f): return k + off.cross_gradient(f)
class Thing:
    def __init__(self, k): self.k = k
    def __call__(self, f): return self.k + off.cross_gradient(f)
    def method(self, f): return self.k + off.cross_gradient(f)
    @staticmethod
    def static(f): return 3 + off.cross_gradient(f)
    @classmethod
    def of_class(cls, f): return 3 + off.cross_gradient(f)
thing = Thing(3)
def outer():
    def local(f): return 3 + off.cross_gradient(f)
    return local
def raising(f):
    if f.shape[-1] > 3: raise ValueError("wide")
    return off.cross_gradient(f)

TARGETS = {
    "function": function, "lambda with a name": anonymous, "partial": functools.partial(scaled, 3.0),
    "instance": thing, "method": thing.method, "static": Thing.static, "class method": Thing.of_class,
    "raising": raising, "ufunc": np.negative,
    "lambda": (lambda: lambda f: 3 + off.cross_gradient(f))(), "local": outer(), "closure": Thing(4).method,
    "partial of a local": functools.partial(outer()), "partial of an object": functools.partial(scaled, np.float64(3)),
}

@pytest.mark.parametrize("name", TARGETS)
def test_it(name):
    your_function = TARGETS[name]
    with pytest.raises(AssertionError) as caught:
        motionspec.check(your_function, "off.cross_gradient", cases=6)
    with open(f"{name}.txt", "w") as file: file.write(str(caught.value))
    if "in place of your_function" in str(caught.value):
        line = str(caught.value).split("your_function):\\n")[1].splitlines()[0].strip()
        with open(f"{name}.out", "w") as file:
            import contextlib
            with contextlib.redirect_stdout(file): exec(line, {"your_function": your_function})
"""


def test_the_line_that_reproduces_runs_for_every_kind_of_callable(tmp_path):
    """In a fresh shell, or where the callable stands if no shell can find it; and prints what the report says."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text(USERS_TESTS)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    alone = set()
    for path in tmp_path.glob("*.txt"):
        report = path.read_text()
        line = reproduction(report)
        if line.startswith("python -c "):
            alone.add(path.stem)
            shell = run_line(line, tmp_path)
            assert (shell.returncode, shell.stderr) == (0, ""), (path.stem, line)
            printed = shell.stdout
        else:
            printed = path.with_suffix(".out").read_text()
        if path.stem == "raising":
            assert printed.startswith("ValueError: wide")
        else:
            assert [float(word) for word in printed.split()] == got_and_expected(report), path.stem
    kept = {"lambda", "local", "closure", "partial of a local"}
    assert alone >= {
        "function",
        "lambda with a name",
        "partial",
        "instance",
        "method",
        "static",
        "class method",
        "ufunc",
    }
    assert not alone & kept


def test_the_line_of_a_torch_gradient_that_fails_says_how(torch, tmp_path, monkeypatch):
    code = "import torch\ndef f(f_prev, f_next): return (f_next - f_prev).detach()\n"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError) as caught:
        motionspec.check(
            "mine.py:f", "off.temporal_difference", framework="torch", grad=True, cases=3, variant={}, dtype="float64"
        )
    done = run_line(reproduction(str(caught.value)), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the output does not depend on f_prev for autograd a gradient\n"


# -- options -----------------------------------------------------------------------------------------------------------


def strict_json(path):
    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_holds_the_verdicts(command, strange, tmp_path):
    words = ["--cases", 5, "--seed", 7, "--json", tmp_path / "v.json"]
    status, out, _ = command("check", CROSS, "--impl", f"{strange}/strange.py:same", *words)
    data = strict_json(tmp_path / "v.json")
    assert (status, data["agrees"], data["motionspec"]) == (1, False, motionspec.__version__)
    assert data["options"]["ids"] == [CROSS]
    assert (data["options"]["cases"], data["options"]["seed"]) == (5, 7)
    (verdict,) = data["verdicts"]
    assert verdict["source"] == EQUATIONS[CROSS].source
    assert {k: verdict[k] for k in ("id", "variant", "dtype", "checked", "kind", "cases")} == {
        "id": CROSS,
        "variant": {},
        "dtype": "float64",
        "checked": "value",
        "kind": "differs",
        "cases": 5,
    }
    assert verdict["error"] > verdict["tolerance"] > 0 and verdict["used"] > 1
    assert [verdict["failure"]["got"], verdict["failure"]["expected"]] == got_and_expected(out)
    smallest_of_five = min((sizes(EQUATIONS[CROSS], k, 7) for k in range(5)), key=lambda used: math.prod(used.values()))
    assert verdict["failure"]["sizes"] == smallest_of_five
    assert verdict["failure"]["reproduce"] in out


@pytest.mark.parametrize("name", ["one_nan", "one_inf", "raises", "listed", "float32"])
def test_json_is_json_whatever_came_back(command, strange, tmp_path, name):
    words = ["--cases", 6, "--json", tmp_path / "v.json"]
    status, _, _ = command("check", CROSS, "--impl", f"{strange}/strange.py:{name}", *words)
    (verdict,) = strict_json(tmp_path / "v.json")["verdicts"]
    assert (verdict["kind"] == "agrees") == (status == 0)
    if name in ("one_nan", "one_inf"):
        assert verdict["failure"]["got"] == name.removeprefix("one_")
        assert verdict["error"] in ("inf", "nan")
        assert verdict["tolerance"] > 0


def test_a_seed_gives_the_same_report_again_and_another_one_others(command, strange):
    words = ["check", CROSS, "--impl", f"{strange}/strange.py:same", "--seed"]
    first, again, other = (command(*words, seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert got_and_expected(first) != got_and_expected(other)
    assert command(*words[:-1])[1] == command(*words, 0)[1]


def test_cases_variants_and_dtypes_are_what_was_asked_for(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from motionspec.refimpl import off\n"
        "def f(f, kernel='paper'): return tuple(g.astype(f.dtype) for g in off.spatial_gradient(f, kernel))\n"
    )

    def asked(*words):
        target = f"{tmp_path}/mine.py:f"
        status, _, err = command("check", "off.spatial_gradient", "--impl", target, "--json", tmp_path / "v", *words)
        assert (status, err) == (0, "")
        return [(v["variant"]["kernel"], v["dtype"], v["cases"]) for v in strict_json(tmp_path / "v")["verdicts"]]

    assert asked() == [("paper", "float64", DEFAULT_CASES), ("sobel", "float64", DEFAULT_CASES)]
    assert asked("--cases", 1) == [("paper", "float64", 1), ("sobel", "float64", 1)]
    assert asked("--cases", 45, "--variant", "kernel=sobel") == [("sobel", "float64", 45)]
    assert asked("--cases", 3, "--dtype", "float32,float16", "--variant", "kernel=paper") == [
        ("paper", "float32", 3),
        ("paper", "float16", 3),
    ]


# -- list and show -----------------------------------------------------------------------------------------------------


def test_list_has_every_equation_and_everything_planned_once(command):
    status, out, err = command("list")
    assert (status, err) == (0, "")
    header, _, *rows = out.split("\n\n")[0].splitlines()
    starts = [header.index(word) for word in ("id", "state", "implementations", "source", "what it says")]
    cells = [[row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in rows]
    named = {name for source in SOURCES for name in ids(source)}
    networks = {source.fate for source in SOURCES if source.fate.startswith("network: ")}
    done = {f"network: {path.stem}" for path in (ROOT / "models").glob("*.py")}
    assert len(cells) == len({row[0] for row in cells})
    assert {row[0] for row in cells} == {*EQUATIONS, *SINGLE, *named, *(networks - done)}
    for name, state, implementations, source, says in cells:
        if name in EQUATIONS:
            row = EQUATIONS[name]
            stem, function = name.split(".")
            operator = f"\ndef {function}(" in (ROOT / "ops" / f"{stem}.py").read_text()
            fused = ", ".join(["reference", "torch", *FUSED.get(name, ())])
            want = ("complete", fused) if operator else ("no operator", "reference")
            assert (state, implementations, source, says) == (*want, row.source, row.summary)
        elif name in SINGLE:
            assert state == "complete" and source == SINGLE[name][0]
        else:
            assert (state, implementations) == ("planned", "-") and source
    done = len(EQUATIONS) + len(SINGLE)
    assert f"{done} equations, {len(planned())} equations and networks planned" in out


@each_row()
def test_show_points_at_what_exists(command, row):
    status, out, err = command("show", row.id)
    assert (status, err) == (0, "")
    stem, name = row.id.split(".")
    assert row.id in out and row.source in out
    assert "Deviations: " in out and row.reference.__doc__.strip() in out
    for variant in row.variants:
        assert all(f"{key}={value}" in out for key, value in variant.items())
    shown = dict(re.findall(r"^(reference|operator): +(\S+)$", out, re.MULTILINE))
    for label, folder in (("reference", "refimpl"), ("operator", "ops")):
        path, line = shown[label].rsplit(":", 1)
        assert Path(path).samefile(ROOT / folder / f"{stem}.py")
        assert Path(path).read_text().splitlines()[int(line) - 1].startswith(f"def {name}(")
    tests = re.findall(r"^test: +(\S+):(\d+) (\w+)$", out, re.MULTILINE)
    for path, line, test in tests:
        assert Path(path).read_text().splitlines()[int(line) - 1].startswith(f"def {test}(")
    source = (ROOT / "tests" / f"test_{stem}.py").read_text()
    assert {test for _, _, test in tests} >= set(re.findall(rf"^def (test_{name}_\w+)\(", source, re.MULTILINE))
    assert len(tests) >= 1
    generated = re.search(r"^generated: +(\S+) \(pytest -k '(.*)'\)$", out, re.MULTILINE)
    assert Path(generated[1]).is_file() and generated[2] == row.id


def test_every_test_that_docstrings_and_pages_name_exists():
    named = {
        (path.name, *match)
        for path in (*(ROOT / "refimpl").glob("*.py"), *(ROOT / "docs").glob("*.md"))
        for match in re.findall(r"(test_\w+\.py)::(\w+)", path.read_text())
    }
    assert len(named) >= 7
    for where, file, test in sorted(named):
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), where


# -- imports and packaging ---------------------------------------------------------------------------------------------

NO_TORCH = {
    "None": "import sys; sys.modules['torch'] = None",
    "absent": (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name=name)\n"
        "sys.meta_path.insert(0, Absent())"
    ),
}


@pytest.mark.parametrize("how", NO_TORCH)
def test_without_torch_the_oracle_the_lists_and_numpy_callables_work(strange, how):
    def run(*words):
        code = f"{NO_TORCH[how]}\nfrom motionspec.cli.main import main\nsys.exit(main({list(words)!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=strange, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    for words in (["list"], ["show", "warp.bilinear"], ["check", CROSS, "--impl", "strange.py:listed", "--cases", "3"]):
        status, _, err = run(*words)
        assert (status, err) == (0, ""), words
    needy = ["check", CROSS, "--impl", "strange.py:listed", "--framework", "torch"]
    for words in (["check", "warp.bilinear"], needy, ["models"]):
        assert "pip install 'motionspec[torch]'" in one_line(run(*words))


def test_the_oracle_and_the_command_do_not_import_torch():
    code = (
        "import sys, motionspec, motionspec.refimpl, motionspec.cli.main\n"
        "motionspec.check(motionspec.refimpl.off.cross_gradient, 'off.cross_gradient', cases=2, timeout=None)\n"
        "print(sorted({'torch', 'cv2', 'kornia', 'skimage', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def imported(path):
    """Every module that a file imports, anywhere in it, relative imports resolved."""
    found = set()
    package = f"motionspec.{path.parent.name}" if path.parent.name != "package" else "motionspec"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(
    "folder, forbidden",
    [
        ("refimpl", ("torch", "numba", "cv2", "motionspec.ops", "motionspec.models", "motionspec.cli")),
        ("ops", ("motionspec.refimpl", "motionspec.models", "motionspec.cli")),
        ("models", ("motionspec.refimpl", "motionspec.data", "motionspec.train", "motionspec.cli")),
        ("data", ("motionspec.train", "motionspec.cli")),
        ("train", ("motionspec.cli",)),
        ("package", ("torch", "motionspec.ops", "motionspec.models")),
    ],
)
def test_no_voice_imports_one_that_it_must_not_know(folder, forbidden):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        for name in imported(path):
            assert not any(name == bad or name.startswith(bad + ".") for bad in forbidden), f"{path} imports {name}"


def test_the_folders_of_the_checkout_are_no_second_copy():
    names = ["ops", "refimpl", "models", "data", "train", "cli"]
    code = (
        "import importlib\n"
        f"for name in {names}:\n"
        "    try: print(importlib.import_module(name))\n"
        "    except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    lines = [f"import motionspec.{n}, not {n}: the folder is a part of the package motionspec" for n in names]
    assert (done.stdout.splitlines(), done.stderr) == (lines, "")


def test_pyproject_lists_every_package_and_every_data_file():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    wanted = {"motionspec" if f == "package" else f"motionspec.{f}": f for f in folders}
    assert sorted(tool["packages"]) == sorted(wanted)
    assert tool["package-dir"] == wanted
    for package, files in tool["package-data"].items():
        for file in files:
            assert (ROOT / wanted[package] / file).is_file(), f"{package}: {file}"
