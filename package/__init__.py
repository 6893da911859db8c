"""motionspec: is a motion operator right?

An executable specification (`motionspec.refimpl`), operators that provably compute the same (`motionspec.ops`), and a
judge that holds anybody's callable against an equation (`motionspec.check`, command `motionspec check`).
"""

if __name__ != "motionspec":
    raise ImportError(f"import motionspec, not {__name__}: the folder is mapped to the package motionspec")

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motionspec.cli.check import Verdict

__version__ = version("motionspec")
__all__ = ["__version__", "case", "check"]


def check(
    fn: Callable[..., Any] | str,
    equation: str,
    *,
    variant: Mapping[str, Any] | None = None,
    framework: str = "numpy",
    dtype: str | Sequence[str] = "float64",
    device: str = "cpu",
    cases: int = 48,
    seed: int = 0,
    grad: bool = False,
    timeout: float | None = 60.0,
) -> "list[Verdict]":
    """Hold a callable against an equation; for other projects' test suites. What `motionspec check` does, as a call.

    fn: the callable, or "package.module:function" or "FILE.py:function". It gets the equation's arrays by position and
        of the variant's keywords those that it takes. It is judged on all variants that fit `variant` and differ in the
        keywords that it takes; the first verdict's `not_judged` names the others.
    equation: an id such as "warp.bilinear"; `motionspec list` shows all.
    framework: "numpy" or "torch": what fn takes and returns. `grad` needs torch.
    dtype: one or several of float64, float32, bfloat16, float16.
    cases: how many inputs; the default ones have each small size and each kind of large size at kinks and away from
        them. seed: the values and the large sizes follow from it.
    timeout: seconds for one call of fn, made in a child process that can be killed. None: in this process, unprotected
        (for a debugger, for CUDA that this process has already initialised, and for a callable that sets the number
        of torch's threads, which do not survive the fork).

    Returns the verdicts when all agree. Raises AssertionError with the printed report when one does not, and
    motionspec.cli.runner.CannotRun, a ValueError, when the question cannot be asked (no such equation, variant, dtype
    or callable, or one that takes other arguments, or another framework's arrays, in every case); an argument of the
    wrong type raises a TypeError.
    """
    from motionspec.cli import asked
    from motionspec.cli.cases import MOST_CASES
    from motionspec.cli.check import judge
    from motionspec.cli.runner import CannotRun, Runner
    from motionspec.cli.text import report

    asked.the_equation("check", equation)
    asked.the_callable(fn)
    asked.variant(variant, equation)
    asked.word("check", "framework", framework, asked.FRAMEWORKS)
    dtypes = asked.dtypes("check", dtype, framework)
    asked.device("check", device, framework)
    asked.whole("check", "cases", cases, 1, MOST_CASES)
    asked.whole("check", "seed", seed, 0)
    asked.flag("grad", grad)
    asked.timeout(timeout)
    if grad and framework == "numpy":
        raise CannotRun("check: grad: expected framework='torch', which has gradients, got 'numpy'")
    with Runner(timeout, None if isinstance(fn, str) else fn) as runner:
        verdicts = judge(
            fn,
            equation,
            runner,
            variant=variant,
            dtypes=dtypes,
            framework=framework,
            device=device,
            cases=cases,
            seed=seed,
            grad=grad,
        )
    if not all(v.ok for v in verdicts):
        raise AssertionError("\n" + report(verdicts))
    return verdicts


def case(
    equation: str, k: int, *, seed: int = 0, dtype: str = "float64", framework: str = "numpy", device: str = "cpu"
) -> dict[str, Any]:
    """The inputs of case number `k` of an equation, by argument name, as the judge hands them to an implementation.

    Raises TypeError or ValueError in one line for arguments that make no sense.
    """
    from motionspec.cli import asked, cases
    from motionspec.cli.runner import CannotRun

    asked.the_equation("case", equation)
    asked.whole("case", "k", k, 0, cases.MOST_CASES - 1)
    asked.whole("case", "seed", seed, 0)
    asked.word("case", "framework", framework, asked.FRAMEWORKS)
    asked.dtype("case", dtype, framework)
    asked.device("case", device, framework)
    try:
        return cases.case(equation, k, seed=seed, dtype=dtype, framework=framework, device=device)
    except (RuntimeError, AssertionError) as error:  # a CPU build of torch asserts that there is CUDA
        raise CannotRun(f"case: device: expected a device of this machine, got {device!r}") from error
