"""Pictures of results. A picture that cannot be drawn costs no number: it says so in one line."""

import os
import unicodedata
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from motionspec.checks import printable

__all__ = ["LITERAL", "drawn", "shortened", "width"]

LITERAL: dict[str, Any] = {"parse_math": False, "usetex": False}
"""Properties of a text of matplotlib that is drawn as it is: names of classes may have dollars and backslashes."""
_LONGEST = 40  # characters of a name in a picture


def drawn(file: Path, draw: Callable[[Path], None]) -> str:
    """Let `draw` make this picture, of which nothing is seen before it is complete.

    Returns "", or why there is none, in one line. What matplotlib warns of, such as letters that its font lacks, is for
    nobody who has asked for numbers.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draw(new)
        os.replace(new, file)
    except ModuleNotFoundError:
        return f"no {file.name} without matplotlib: pip install 'motionspec[figures]'"
    except Exception as error:  # whatever matplotlib, its fonts, its caches and a full disk lead to
        with suppress(OSError):
            new.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"{file.name} is not drawn: {printable(reason)}"
    return ""


def shortened(name: str) -> str:
    """A name as it stands in a picture: in one line, and not longer than can be read."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"


def width(name: str) -> int:
    """How wide a name is, in letters: Chinese, Japanese and Korean ones take two places."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)
