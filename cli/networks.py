"""`motionspec models`: the networks of the papers, from their table."""

import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from motionspec.cli.runner import CannotRun
from motionspec.cli.text import table

if TYPE_CHECKING:  # the command starts without torch
    from motionspec.models.table import Network

COUNTED = (
    "Parameters at full size; floating-point operations for one clip (C, T, H, W) of convolutions, matrix\n"
    "products, displacement maps and representation flow, a multiply-add as two."
)


def known() -> "dict[str, Network]":
    """Every network by name. Raises CannotRun without torch."""
    try:
        from motionspec.models.table import networks
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise CannotRun(str(error)) from error
    return networks()


def find(name: str) -> "Network":
    """The network of that name. Raises CannotRun with one line where there is none."""
    rows = known()
    if name in rows:
        return rows[name]
    near = difflib.get_close_matches(name, rows, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise CannotRun(f"no network {name!r}.{hint} `motionspec models` shows all")


@contextmanager
def readable(weights: str) -> Iterator[None]:
    """Turns an error of the file that --weights names into CannotRun that names it."""
    try:
        yield
    except OSError as error:  # safetensors' have a text only
        raise CannotRun(f"--weights {weights}: {error.strerror or error}") from error
    except ValueError as error:
        raise CannotRun(f"--weights {weights}: {str(error).removeprefix('load: file: ')}") from error


def sides(shape: tuple[int, ...]) -> str:
    """Like 3 x 7 x 224 x 224."""
    return " x ".join(map(str, shape))


def listing(markdown: bool) -> str:
    """All networks: source, parameters, operations, input."""
    rows = []
    for row in as_json(None):
        parameters, operations = f"{row['parameters'] / 1e6:.1f} M", f"{row['operations'] / 1e9:.1f} G"
        rows.append([row["name"], row["source"], parameters, operations, sides(row["input"])])
    header = ["name", "source", "parameters", "FLOPs", "input"]
    if markdown:
        lines = [header, ["---"] * 5, *([f"`{name}`", *cells] for name, *cells in rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table(header, rows, right=header[2:4])}\n\n{COUNTED}"


def details(name: str) -> str:
    """One network: what it says, its arguments and its stage table."""
    row = find(name)
    lines = []
    for argument, default in _arguments(row.build).items():
        own = f", here {row.arguments[argument]!r}" if argument in row.arguments else ""
        lines.append(f"  {argument} = {default!r}{own}")
    stages = [(stage.module, sides(stage.shape), stage.source) for stage in row.stages]
    return "\n".join(
        [
            f"{name}   [{row.source}]\n",
            inspect.getdoc(row.build) or "",
            f"\narguments of {row.build.__module__}.{row.build.__qualname__} and their defaults:",
            *lines,
            f"\nstages for a clip {sides(row.input)}, of one sample:",
            table(("module", "shape", "source"), stages),
        ]
    )


def as_json(name: str | None) -> Any:
    """What `listing` shows, or, of one network, `details`; counts are not rounded."""
    if name is None:
        return [_cost(row) for row in known().values()]
    row = find(name)
    arguments = {**_arguments(row.build), **row.arguments}
    stages = [{"module": stage.module, "shape": stage.shape, "source": stage.source} for stage in row.stages]
    return {**_cost(row), "about": inspect.getdoc(row.build), "arguments": arguments, "stages": stages}


def _cost(row: "Network") -> dict[str, Any]:
    parameters, operations = row.cost()
    return {
        "name": row.name,
        "source": row.source,
        "parameters": parameters,
        "operations": operations,
        "input": row.input,
    }


def _arguments(build: Any) -> dict[str, Any]:
    """Argument -> default; those that a class hands on to its base included, which have one: the others it gives."""
    found: dict[str, Any] = {}
    for function in getattr(build, "__mro__", (build,)):
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is not p.empty:
                found.setdefault(p.name, p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
