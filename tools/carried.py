"""Finds variables that Triton's compiler would drop from a loop of a kernel: `python tools/carried.py ops/*_triton.py`.

Triton visits the body of a loop once to see which variables the loop carries: those that hold another value after it
than before. One that is given a value it already has, by the name of a variable that began as the same value, holds the
same one still. It is taken for a constant of the loop and keeps its first value for ever:

    first = second = tl.zeros((BLOCK,), tl.float32)
    for k in range(n):
        first = second                  # looks unchanged after one visit: `first` stays 0
        second = tl.load(pointer + k)

Triton's interpreter runs kernels as Python, where this is right: only what is compiled is wrong. Here the same visit is
made on the syntax tree, with a number for each value.
"""

import ast
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# These return their first argument as it is, where it has that type, shape or property already.
SAME = {"to", "cast", "broadcast_to", "reshape", "view", "multiple_of", "max_contiguous", "max_constancy"}
SAID = (
    "{path}:{line}: {kernel}: `{target} = {source}` in a loop: `{target}` began as the same value, so Triton drops it "
    "from the loop and it keeps that value; begin them apart, each by an expression of its own (tl.zeros(...))"
)


class Found(NamedTuple):
    """A variable that a loop would drop, and the line that assigns it."""

    path: str
    line: int
    kernel: str
    target: str
    source: str

    def __str__(self) -> str:
        return SAID.format(**self._asdict())


class Origin(NamedTuple):
    """A value by its number, and the assignment that handed it on, which is none where it was made."""

    value: int
    line: int = 0
    source: str = ""


# What a variable may hold: one of several, where branches differ. A tuple of Triton's is one value for each element.
Held = frozenset[Origin] | tuple[Any, ...]
Names = dict[str, Held]


def is_same(a: Held, b: Held) -> bool:
    """Whether both may be one value; tuples, which Triton compares as a whole, in every element."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, tuple) or isinstance(b, tuple):
        return False
    return not {origin.value for origin in a}.isdisjoint(origin.value for origin in b)


def either(a: Held, b: Held) -> Held:
    """After a branch."""
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(map(either, a, b))
    return frozenset(origins(a)) | frozenset(origins(b))


def origins(held: Held) -> Iterator[Origin]:
    """Of all elements."""
    for one in held:
        if isinstance(one, Origin):
            yield one
        else:
            yield from origins(one)


def handed_on(held: Held, line: int, source: str) -> Held:
    """By the name of a variable, or by what leaves it as it is."""
    if isinstance(held, tuple):
        return tuple(handed_on(one, line, source) for one in held)
    return frozenset(Origin(origin.value, line, source) for origin in held)


class Kernel:
    """One visit of a kernel, as Triton makes it."""

    def __init__(self, path: str, function: ast.FunctionDef) -> None:
        self.path, self.name = path, function.name
        self.count = itertools.count()
        self.found: dict[Found, None] = {}
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.block(function.body, {argument.arg: self.new() for argument in every})

    def new(self) -> Held:
        return frozenset([Origin(next(self.count))])

    # -- expressions

    def value(self, node: ast.expr, names: Names) -> Held:
        """What is not a name, nor handed on as it is, is a new value."""
        match node:
            case ast.Name(id) if id in names:
                return handed_on(names[id], node.lineno, ast.unparse(node))
            case ast.Tuple(elts) | ast.List(elts):
                return tuple(self.value(one, names) for one in elts)
            case ast.IfExp(_, body, orelse):
                return either(self.value(body, names), self.value(orelse, names))
            case ast.UnaryOp(ast.UAdd(), operand):
                return self.value(operand, names)
            case ast.NamedExpr(target, value):
                return self.assigned([target], value, names)
            case ast.Subscript(value, ast.Constant(int(index))):
                return handed_on(self.element(self.value(value, names), index), node.lineno, ast.unparse(node))
            case ast.Call(ast.Attribute(owner, name), given) if name in SAME:
                is_method = not (isinstance(owner, ast.Name) and owner.id in ("tl", "language"))
                return self.value(owner if is_method else given[0], names) if is_method or given else self.new()
        return self.new()

    def element(self, held: Held, index: int) -> Held:
        if isinstance(held, tuple) and -len(held) <= index < len(held):
            return held[index]
        return self.new()

    # -- statements

    def block(self, statements: Iterable[ast.stmt], names: Names) -> Names:
        for statement in statements:
            names = self.statement(statement, names)
        return names

    def statement(self, node: ast.stmt, names: Names) -> Names:
        match node:
            case ast.Assign(targets, value):
                self.assigned(targets, value, names)
            case ast.AnnAssign(target, _, value) if value is not None:
                self.assigned([target], value, names)
            case ast.AugAssign(ast.Name(id)):
                names[id] = self.new()  # an alias no longer
            case ast.If(_, body, orelse):
                return self.merged(self.block(body, dict(names)), self.block(orelse, dict(names)))
            case ast.For(target, iterator, body):
                return self.unrolled(body, names) if is_static(iterator) else self.loop(target, body, names)
            case ast.While(_, body):
                return self.loop(None, body, names)
            case ast.With(_, body):
                return self.block(body, names)
            case ast.Expr(ast.NamedExpr() as value):
                self.value(value, names)
        return names

    def assigned(self, targets: list[ast.expr], value: ast.expr, names: Names) -> Held:
        """A tuple is made before any of its names is assigned."""
        held = self.value(value, names)
        for target in targets:
            if ast.unparse(target) != ast.unparse(value):  # x = x
                self.bind(target, held, names)
        return held

    def bind(self, target: ast.expr, held: Held, names: Names) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = held
        elif isinstance(target, ast.Tuple | ast.List):
            for i, one in enumerate(target.elts):
                self.bind(one, self.element(held, i), names)

    def merged(self, a: Names, b: Names) -> Names:
        return {name: either(a.get(name, b.get(name)), b.get(name, a.get(name))) for name in a | b}  # type: ignore[arg-type]

    def unrolled(self, body: list[ast.stmt], names: Names) -> Names:
        """A static loop carries nothing. Twice: what one round hands on meets the next one's."""
        return self.block(body, self.block(body, names))

    def loop(self, target: ast.expr | None, body: list[ast.stmt], names: Names) -> Names:
        """What was assigned and is the same is dropped; all else that changed is a new value after the loop."""
        inside = dict(names)
        if target is not None:
            self.bind(target, self.new(), inside)
        after = self.block(body, inside)
        for name, held in names.items():
            if is_same(held, after[name]):
                self.drops(name, held, after[name])
        return {name: held if after[name] == held else self.new() for name, held in names.items()}

    def drops(self, name: str, before: Held, after: Held) -> None:
        """Say so, if it was assigned in the loop: an origin that was there before was not."""
        begun = {origin.value for origin in origins(before)}
        new = [origin for origin in set(origins(after)) - set(origins(before)) if origin.value in begun]
        for line in {origin.line for origin in new}:
            source = ", ".join(sorted({origin.source for origin in new if origin.line == line}))
            self.found[Found(self.path, line, self.name, name, source)] = None


def is_static(iterator: ast.expr) -> bool:
    """Whether a loop is unrolled as Python."""
    if not isinstance(iterator, ast.Call):
        return False
    function = iterator.func
    return (function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)) == "static_range"


def dropped(source: str, path: str = "<kernel>") -> list[Found]:
    """Of every function that `jit` decorates."""
    found: list[Found] = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(one) for one in node.decorator_list):
            found += Kernel(path, node).found
    return sorted(found)


def main(paths: list[str]) -> int:
    """Say what is found in the files; 1 if anything is."""
    found = [one for path in paths for one in dropped(Path(path).read_text(encoding="utf-8"), path)]
    for one in found:
        print(one)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
