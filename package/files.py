"""Files that are written whole or not at all, with errors that name them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["replaced", "write_text"]


@contextmanager
def replaced(file: Path, new: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `file` at the end: a kill at any moment leaves the old one or the new.

    new: what it is called meanwhile, in the same folder. Whatever goes wrong, it is taken away again, so that a full
    disk gets no fuller; an OSError that names no file, as that of a full disk does not, is raised anew with this one's.
    """
    new = new or file.with_name(f".{file.name}.new")
    try:
        with new.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(new, file)
    except BaseException as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(new)):
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(file)) from error
        raise


def write_text(file: Path, text: str) -> None:
    """Replace a file by this text in UTF-8. Raises OSError with the file's name."""
    with replaced(file) as opened:
        opened.write(text.encode())
