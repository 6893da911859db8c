"""No kernel has a variable that Triton's compiler drops from a loop; `tools/carried.py`, which says so, knows them."""

import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "carried.py"
KERNELS = sorted((ROOT / "ops").glob("*_triton.py"))
# Each is the body of a kernel; the lines of the findings are those that end in `# bad`.
BAD = {
    "one name after the other": """
        first, second = zero, zero
        for k in range(n):
            first = second  # bad
            second = tl.load(p + k)
    """,
    "in a tuple, with others": """
        d0, d1, s0, s1 = zero, zero, zero, zero
        for k in range(-1, ROWS + 1):
            d2, s2 = tl.load(p + k), tl.load(q + k)
            d0, d1, s0, s1 = d1, d2, s1, s2  # bad bad
    """,
    "a chain of names before the loop": """
        a = zero
        b = a
        c = b
        for k in range(n):
            a = c  # bad
            c = c + tl.load(p + k)
    """,
    "two targets of one assignment": """
        a = b = tl.zeros((BLOCK,), tl.float32)
        for k in range(n):
            a = b  # bad
            b = tl.load(p + k)
    """,
    "unpacked from a tuple": """
        pair = (zero, zero)
        a, b = pair
        for k in range(n):
            a = b  # bad
            b = tl.load(p + k)
    """,
    "an element of a tuple": """
        pair = (zero, zero)
        a = pair[0]
        for k in range(n):
            a = pair[1]  # bad
            pair = (tl.load(p + k), tl.load(q + k))
    """,
    "a tuple whose elements are all the same": """
        pair, a, b = (zero, zero), zero, zero
        for k in range(n):
            pair = (a, b)  # bad
            a, b = tl.load(p + k), tl.load(q + k)
    """,
    "an argument of the kernel": """
        a, b = x, x
        for k in range(n):
            a = b  # bad
            b += k
    """,
    "in a while loop": """
        a, b, k = zero, zero, 0
        while k < n:
            a = b  # bad
            b = tl.load(p + k)
            k += 1
    """,
    "in a branch of the loop": """
        a, b = zero, zero
        for k in range(n):
            if k > 2:
                a = b  # bad
            b = tl.load(p + k)
    """,
    "in the other branch": """
        a, b = zero, zero
        for k in range(n):
            if FLAG:
                a = tl.load(p + k)
            else:
                a = b  # bad
            b = tl.load(q + k)
    """,
    "in the inner of two loops": """
        for t in range(n):
            a, b = zero, zero
            for k in range(n):
                a = b  # bad
                b = tl.load(p + k)
    """,
    "dropped from the outer of two loops": """
        a, b = zero, zero
        for t in range(n):
            a = b  # bad
            for k in range(n):
                b += tl.load(p + k)
    """,
    "in a static loop within a loop": """
        a, b = zero, zero
        for t in range(n):
            for k in tl.static_range(1):
                a = b  # bad
            b = tl.load(p + t)
    """,
    "by a name of the loop's own": """
        a, b = zero, zero
        for k in range(n):
            t = b
            b = tl.load(p + k)
            a = t  # bad
    """,
    "by a cast to the type that it has": """
        a, b = zero, zero
        for k in range(n):
            a = b.to(tl.float32)  # bad
            b = tl.load(p + k)
    """,
    "by a function that returns its argument": """
        a, b = zero, zero
        for k in tl.range(0, n, num_stages=2):
            a = tl.cast(b, tl.float32)  # bad
            b = tl.load(p + k)
    """,
    "in one of two values": """
        a, b = zero, zero
        for k in range(n):
            a = b if FLAG else tl.load(q + k)  # bad
            b = tl.load(p + k)
    """,
    "with a type": """
        a: tl.tensor = zero
        b: tl.tensor = zero
        for k in range(n):
            a: tl.tensor = b  # bad
            b = tl.load(p + k)
    """,
    "begun in a branch": """
        a = zero
        if FLAG:
            b = zero
        else:
            b = tl.load(p)
        for k in range(n):
            a = b  # bad
            b = tl.load(p + k)
    """,
    "exchanged": """
        a, b = zero, zero
        for k in range(n):
            a, b = b, a  # bad bad
    """,
}
GOOD = {
    "each begins as its own": """
        d0, d1 = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for k in range(n):
            d2 = tl.load(p + k)
            d0, d1 = d1, d2
    """,
    "made anew before it is handed on": """
        a, b = zero, zero
        for k in range(n):
            b = tl.load(p + k)
            a = b
    """,
    "an aug-assignment is a new value": """
        a, b = zero, zero
        for k in range(n):
            b += tl.load(p + k)
            a = b
    """,
    "an alias that ends before the loop": """
        a = b = zero
        b += 1
        for k in range(n):
            a = b
            b = tl.load(p + k)
    """,
    "a sum with nothing is a new value": """
        a, b = zero, zero
        for k in range(n):
            a = b + 0
            b = tl.load(p + k)
    """,
    "a name of the loop's own": """
        a = zero
        for k in range(n):
            before = a
            a = before + tl.load(p + k)
    """,
    "of two tuples one element differs": """
        state = (zero, zero)
        for k in range(n):
            state = (state[1], tl.load(p + k))
    """,
    "a static loop alone": """
        a, b = zero, zero
        for k in tl.static_range(4):
            a = b
            b = tl.load(p + k)
    """,
    "no loop": """
        a, b = zero, zero
        a = b
    """,
    "exchanged, from different values": """
        a, b = zero, tl.load(p)
        for k in range(n):
            a, b = b, a
    """,
    "itself": """
        a = zero
        for k in range(n):
            a = a
            b = tl.load(p + k)
    """,
    "overwritten before the loop's end": """
        a, b = zero, zero
        for k in range(n):
            a = b
            b = tl.load(p + k)
            a = a + b
    """,
    "the result of a loop within": """
        a, b = zero, zero
        for t in range(n):
            for k in range(n):
                b += tl.load(p + k)
            a = b
    """,
    "what a call returns": """
        a, b = zero, zero
        for k in range(n):
            a = _helper(b)
            b = tl.load(p + k)
    """,
}


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL))


def kernel(body):
    head = "@triton.jit\ndef _kernel(p, q, x, n, FLAG: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):\n"
    return head + textwrap.indent("zero = tl.zeros((BLOCK,), tl.float32)\n" + textwrap.dedent(body).strip(), "    ")


def marked(source):
    """The lines that say they are bad, each as often as it does."""
    lines = enumerate(source.splitlines(), 1)
    return [number for number, line in lines for _ in range(line.partition("#")[2].count("bad"))]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_no_kernel_has_one(tool, path):
    assert not list(map(str, tool["dropped"](path.read_text(encoding="utf-8"), path.name)))


def test_every_kernel_is_read():
    assert len(KERNELS) >= 5 and all("@triton.jit" in path.read_text(encoding="utf-8") for path in KERNELS)


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_the_bad_are_found_where_they_are(tool, body):
    source = kernel(body)
    assert [found.line for found in tool["dropped"](source)] == marked(source) != []


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_the_good_pass(tool, body):
    assert not tool["dropped"](kernel(body))


def test_what_no_kernel_holds_is_not_read(tool):
    assert not tool["dropped"](kernel(BAD["one name after the other"]).removeprefix("@triton.jit\n"))


@pytest.mark.parametrize(
    "decorator", ["@triton.jit(do_not_specialize=['n'])", "@jit", "@triton.autotune(())\n@triton.jit"]
)
def test_however_a_kernel_is_declared(tool, decorator):
    source = kernel(BAD["one name after the other"]).replace("@triton.jit", decorator)
    assert len(tool["dropped"](source)) == 1


def test_as_a_command_it_says_file_line_names_and_what_to_do(tmp_path):
    (tmp_path / "bad.py").write_text(kernel(BAD["one name after the other"]))
    (tmp_path / "good.py").write_text(kernel(GOOD["itself"]))
    run = [
        subprocess.run([sys.executable, TOOL, name], cwd=tmp_path, capture_output=True, text=True)
        for name in ("bad.py", "good.py")
    ]
    assert [one.returncode for one in run] == [1, 0]
    assert run[0].stdout.startswith("bad.py:6: _kernel: `first = second` in a loop: ")
    assert "begin them apart" in run[0].stdout and run[0].stdout.count("\n") == 1
    assert run[1].stdout == ""
