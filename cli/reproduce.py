"""Names a callable so that another process finds it: for the line of Python that reproduces a failure."""

import ast
import importlib.machinery
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

PLACEHOLDER = "your_function"


def python(target: str | Callable[..., Any], options: str) -> tuple[str, bool]:
    """Code that replays a case on the callable, and whether a process of its own can run it.

    Lambdas, local functions and what a notebook defines have no name that another process can import: there the code
    says `your_function` and runs where that stands.
    """
    said, imports = (repr(target), "") if isinstance(target, str) else _expression(target)
    before = imports + _path_to(target) if said else ""
    return f"{before}from motionspec.cli.check import replay; print(*replay({said or PLACEHOLDER}, {options}))", bool(
        said
    )


def _expression(target: Callable[..., Any]) -> tuple[str, str]:
    """Python for the callable, empty if there is none, and the imports that it needs."""
    if place := _place(target):
        return repr(place), ""
    if type(target) is not partial:
        return "", ""
    inner = _place(target.func)
    arguments = [*map(_literal, target.args), *(f"{k}={_literal(v)}" for k, v in target.keywords.items())]
    if not inner or not all(part and not part.endswith("=") for part in arguments):
        return "", ""
    imports = "from functools import partial; from motionspec.cli.runner import load; "
    return f"partial({', '.join([f'load({inner!r})', *arguments])})", imports


def _literal(value: Any) -> str:
    """The value as Python, if it is one that can be written down."""
    text = repr(value)
    try:
        return text if ast.literal_eval(text) == value else ""
    except (ValueError, SyntaxError):
        return ""


def _place(target: Callable[..., Any]) -> str:
    """`module:name` or `FILE.py:name`; empty if nothing by that name is this callable."""
    own, others = _modules(target)
    for module in own:
        if _is_there(target, module, qualified := getattr(target, "__qualname__", "")):
            return _at(module, qualified)
    for module in (*own, *others):
        if names := _names(target, module):
            return _at(module, names[0])
    return ""


def _is_there(target: Callable[..., Any], module: ModuleType, name: str) -> bool:
    """Whether the module has the callable by this name, dots followed."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None) if part.isidentifier() else None
    return found is target or (isinstance(found, MethodType) and isinstance(target, MethodType) and found == target)


def _at(module: ModuleType, name: str) -> str:
    where = _file_or_module(module)
    return f"{where}:{name}" if where else ""


def _modules(target: Callable[..., Any]) -> tuple[list[ModuleType], list[ModuleType]]:
    """Where the callable may stand: its own module, that of its class or of its object; and all others."""
    owner = getattr(target, "__self__", None)
    names = [getattr(thing, "__module__", None) for thing in (target, type(target), type(owner))]
    own = [sys.modules[name] for name in names if isinstance(name, str) and name in sys.modules]
    others = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    return own, [module for module in others if "__file__" in vars(module)]


def _names(target: Callable[..., Any], module: ModuleType) -> list[str]:
    """What the module calls the callable, or the object whose method it is; nothing in it is asked, only looked at."""
    owner, method = getattr(target, "__self__", None), getattr(target, "__name__", "")
    found = []
    for name, value in list(vars(module).items()):
        if value is target:
            found.append(name)
        elif isinstance(target, MethodType) and value is owner:
            found.append(f"{name}.{method}")
    return [name for name in found if all(part.isidentifier() for part in name.split("."))]


def _file_or_module(module: ModuleType) -> str:
    """A file for a module that lies in no package, else its name; empty for what only this process has."""
    file, package = getattr(module, "__file__", None), getattr(module, "__package__", None)
    if file is None or not file.endswith(".py"):
        return module.__name__ if module.__name__ != "__main__" and _is_found(module.__name__) else ""
    if not Path(file).is_file():
        return ""
    if package or _is_found(module.__name__):
        return module.__name__ if module.__name__ != "__main__" else ""
    path, here = Path(file).resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _is_found(name: str) -> bool:
    """Whether any process finds this module: built in, or beside the installed packages."""
    installed = [p for p in sys.path if p and ("site-packages" in p or p.startswith(os.path.dirname(os.__file__)))]
    top = name.partition(".")[0]
    if top in sys.builtin_module_names:
        return True
    return importlib.machinery.PathFinder.find_spec(top, installed) is not None


def _path_to(target: str | Callable[..., Any]) -> str:
    """Code that makes a package importable that this process found elsewhere; empty where that is not needed."""
    place = target if isinstance(target, str) else _place(getattr(target, "func", target)) or _place(target)
    name = place.rpartition(":")[0]
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if isinstance(target, str) or name.endswith(".py") or file is None or _is_found(name):
        return ""
    path = Path(file).resolve()
    parts = name.split(".")
    inner = path.parent if path.stem == "__init__" else path.with_suffix("")
    if list(inner.parts[-len(parts) :]) != parts:
        return ""  # an installed package whose folders have other names: its finder knows
    root = str(inner.parents[len(parts) - 1])
    return "" if root == os.getcwd() else f"import sys; sys.path.insert(0, {root!r}); "
