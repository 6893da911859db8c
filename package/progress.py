"""How work that takes long says how far it is; `cli.main.Progress` draws it."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with what is done, how much of it is done, and how much there is of it, None where that is not known."""
