"""What every reference checks before it computes."""

from typing import Any

import numpy as np

from motionspec.checks import message, positive, shapes, single

Array = np.ndarray[Any, np.dtype[np.float64]]


def arrays(
    operator: str,
    /,
    *,
    nonfinite: tuple[str, ...] = (),
    boolean: tuple[str, ...] = (),
    integer: tuple[str, ...] = (),
    **arguments: Any,
) -> list[Array]:
    """Check NumPy arrays against shape patterns (see `motionspec.checks.shapes`) and return them as float64 (exact).

    Arguments named in `boolean` or `integer` must be of such a type and keep it. Raises TypeError for another type,
    ValueError for shapes, and for values that are NaN or infinite in an argument not named in `nonfinite`: the oracle
    states no meaning for them.
    """
    for name, (array, _) in arguments.items():
        kind: tuple[Any, str] = (np.floating, "a floating-point")
        if name in boolean:
            kind = (np.bool_, "a bool")
        elif name in integer:
            kind = (np.integer, "an integer")
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, kind[0]):
            got = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(message(operator, name, f"{kind[1]} NumPy array", got))
    shapes(operator, **arguments)
    for name, (array, _) in arguments.items():
        if name not in nonfinite and not np.isfinite(array).all():
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(message(operator, name, "finite values", f"{array[first]} at {first}"))
    kept = (*boolean, *integer)
    return [array if name in kept else array.astype(np.float64) for name, (array, _) in arguments.items()]


def number(operator: str, argument: str, value: Any) -> float:
    """Check a Python number or a floating-point array of one element that is above 0, and return it as a float.

    Raises TypeError for another type, ValueError unless it has one element that is finite and above 0.
    """
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        single(operator, argument, value.shape)
        if not np.isfinite(value).all():
            first = (0,) * value.ndim
            raise ValueError(message(operator, argument, "finite values", f"{value[first]} at {first}"))
        value = float(value.reshape(()))
    elif not isinstance(value, int | float):
        got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(message(operator, argument, "a number or a floating-point NumPy array", got))
    positive(operator, argument, value)
    return float(value)
