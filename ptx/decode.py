"""PTX text, as Triton writes it, read into instructions that the machine executes.

`statements` splits the text; `Decoder` numbers registers and finds for each opcode its row in the machine's table. What
the machine does not know is refused by name: nothing is guessed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from motionspec.ptx.native import OPERANDS, Instruction, codes

_Meaning = tuple[str, dict[str, int], list[str]]
"""Row of the machine's table, fields of the instruction, and operands in the order that the row expects."""


class NotModelled(NotImplementedError):
    """The kernel has an instruction that the machine does not execute."""


@dataclass(frozen=True)
class Statement:
    """One instruction as text: `@guard opcode operands`."""

    opcode: str
    operands: tuple[str, ...]
    guard: str = ""  # "%p1", "!%p1" or none
    line: str = ""  # of the kernel's source: "off_triton.py:57"

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}".rstrip()


@dataclass(frozen=True)
class Text:
    """A kernel's parameters (type and name), instructions, and the number of the instruction that each label is at."""

    parameters: tuple[tuple[str, str], ...]
    statements: tuple[Statement, ...]
    labels: dict[str, int]


def read(ptx: str) -> Text:
    """Split the only kernel of a PTX module into statements. Raises NotModelled for functions beside it."""
    ptx = re.sub(r"/\*.*?\*/", "", ptx, flags=re.S)
    if re.search(r"^\s*(\.\w+\s+)*\.func\b", ptx, re.M):
        raise NotModelled("functions beside the kernel")
    head, body = re.search(r"\.entry\s+([^{]*?)\)[^{(]*\{(.*)\}", ptx, re.S).groups()  # type: ignore[union-attr]
    parameters = re.findall(
        r"\.param\s+\.(\w+)\s+(?:\.ptr\s+)?(?:\.\w+\s+)*?(?:\.align\s+\d+\s+)?(\w+)\s*[,\n]", head + "\n"
    )
    files = {number: Path(name).name for number, name in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', ptx, re.M)}
    statements: list[Statement] = []
    labels: dict[str, int] = {}
    line = ""
    for kind, text in _pieces(body):
        if kind == "label":
            labels[text] = len(statements)
        elif kind == "loc":
            file, number = text.split()[1:3]
            line = f"{files.get(file, '?')}:{number}"
        else:
            statements.append(replace(_statement(text), line=line))
    # A label may stand at the end, behind the last instruction.
    return Text(tuple(parameters), (*statements, Statement("ret", ())), labels)


def _pieces(body: str) -> Iterator[tuple[str, str]]:
    """Labels, `.loc` lines and instructions, in order, without other directives and scopes of inline assembly."""
    for full in body.splitlines():
        text = full.split("//")[0].strip()
        if text.startswith(".loc"):
            yield "loc", text
        elif match := re.fullmatch(r"([\w$]+):", text):
            yield "label", match[1]
        elif not text.startswith("."):
            for one in text.split(";"):
                # Of a scope `{ ... }` only what stands in it; a brace of operands comes behind an opcode.
                if one := one.strip().removeprefix("{").removesuffix("}" if one.strip() == "}" else "").strip():
                    yield "instruction", one


def _statement(text: str) -> Statement:
    guard, opcode, rest = re.fullmatch(r"(?:@(!?%\w+)\s+)?([\w.:]+)\s*(.*)", text, re.S).groups()  # type: ignore[union-attr]
    # A comma within braces or brackets does not end an operand.
    operands = re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", rest)
    return Statement(opcode, tuple(operand.strip() for operand in operands if operand.strip()), guard or "")


def contracted(text: Text) -> Text:
    """The kernel with products and the sums that take them fused, rounded once, as ptxas may do.

    It may for `mul.f32` and `add.f32`, which Triton writes without `.rn`; here it does wherever a block allows.
    """
    leaders = set(text.labels.values())
    products: dict[str, tuple[str, ...]] = {}
    made = []
    for number, statement in enumerate(text.statements):
        if number in leaders:
            products.clear()
        made.append(_fused(statement, products))
        result = statement.operands[0] if statement.operands else ""
        stale = [name for name, factors in products.items() if result in (name, *factors)]
        for name in stale:
            del products[name]
        if statement.opcode == "mul.f32" and not statement.guard and result not in statement.operands[1:]:
            products[result] = statement.operands[1:]
    return replace(text, statements=tuple(made))


def _fused(statement: Statement, products: dict[str, tuple[str, ...]]) -> Statement:
    if statement.opcode not in ("add.f32", "sub.f32") or statement.guard:
        return statement
    result, a, b = statement.operands
    if a in products:
        opcode = "fma.rn.f32" if statement.opcode == "add.f32" else "fms.f32"
        return replace(statement, opcode=opcode, operands=(result, *products[a], b))
    if b in products:
        opcode = "fma.rn.f32" if statement.opcode == "add.f32" else "fnma.f32"
        return replace(statement, opcode=opcode, operands=(result, *products[b], a))
    return statement


# ---- Registers and opcodes

# A comparison as the relations in which it holds: 1 less, 2 equal, 4 greater, 8 unordered.
_RELATIONS = {"lt": 1, "eq": 2, "le": 3, "gt": 4, "ne": 5, "ge": 6, "num": 7, "nan": 8}
_RELATIONS |= {f"{name}u": relations | 8 for name, relations in _RELATIONS.items() if relations < 7}
_RELATIONS |= {"lo": 1, "ls": 3, "hi": 4, "hs": 6}
_ROUNDINGS = {"rni": 1, "rzi": 2, "rmi": 3, "rpi": 4}
_CHANGES = {name: number for number, name in enumerate(("add", "min", "max", "and", "or", "xor", "exch", "cas"))}
_CHANGED = {"u32": 0, "b32": 0, "s32": 1, "u64": 2, "b64": 2, "s64": 3, "f32": 4, "f64": 5}
_SHUFFLES = {name: number for number, name in enumerate(("bfly", "idx", "up", "down"))}
_SPECIAL = {"%tid.x": "thread", "%laneid": "lane", "%ctaid.x": "x", "%ctaid.y": "y", "%ctaid.z": "z"}


@dataclass
class Begin:
    """How a register begins. `of` names what is known at launch only: a parameter, or the size of the grid."""

    kind: str = "noise"
    value: int = 0
    of: str = ""
    signed: int = 0  # a parameter's bits, of which the highest is a sign


@dataclass
class Decoder:
    """Turns statements into instructions, and collects the registers that they name."""

    text: Text
    warps: int
    registers: dict[str, int] = field(default_factory=dict)
    begins: list[Begin] = field(default_factory=list)

    def instructions(self) -> list[Instruction]:
        """All of the kernel's. Raises NotModelled with the opcode that the machine lacks."""
        return [self._instruction(statement) for statement in self.text.statements]

    def _instruction(self, statement: Statement) -> Instruction:
        try:
            name, options, operands = self._meaning(statement)
            code = codes()[name]
        except (KeyError, ValueError) as error:
            raise NotModelled(f"{statement} ({statement.line})") from error
        made = Instruction(code=code, guard=-1, **options)
        if statement.guard:
            made.guard = self._register(statement.guard.removeprefix("!"))
            made.negated = int(statement.guard.startswith("!"))
        numbers = [self._register(operand) for operand in operands]
        if len(numbers) > OPERANDS:
            raise NotModelled(f"{statement} ({statement.line})")
        made.operand[: len(numbers)] = numbers
        return made

    def _meaning(self, statement: Statement) -> _Meaning:
        family, *parts = statement.opcode.split(".")
        special = getattr(self, f"_{family}", None)
        if special is not None:
            return special(parts, statement.operands)
        return self._scalar(family, parts, statement.operands)

    def _scalar(self, family: str, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        flush = int("ftz" in parts)
        kept = [part for part in parts if part not in ("ftz", "rn")]
        return ".".join([family, *kept]), {"flush": flush}, list(operands)

    # Control

    def _bra(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return "bra", {"target": self.text.labels[operands[0]]}, []

    def _ret(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return "ret", {}, []

    _exit = _ret

    def _bar(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        if parts == ["warp", "sync"]:  # lanes of a warp are never apart here where they must not be
            return "nothing", {}, []
        if parts not in (["sync"], ["sync", "aligned"]) or operands != ("0",):
            raise ValueError("only the barrier of all warps is known")
        return "bar", {}, []

    _barrier = _bar

    def _membar(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return "nothing", {}, []

    _fence = _membar

    # Memory

    def _ld(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        if parts[0] == "param":
            return self._parameter(parts, operands)
        return self._access("ld", parts, _names(operands[0]), operands[1])

    def _st(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return self._access("st", parts, _names(operands[1]), operands[0])

    def _access(self, name: str, parts: list[str], values: list[str], at: str) -> _Meaning:
        length = next((int(part[1:]) for part in parts if re.fullmatch(r"v\d", part)), 1)
        if len(values) != length:
            raise ValueError("as many registers as elements")
        pointer, offset = _address(at)
        fields = {"length": length, "size": _bytes(parts[-1]), "shared": _is_shared(parts), "offset": offset}
        return name, fields, [*values, pointer]

    def _parameter(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        """A parameter is a constant of the launch; with a sign it may be longer in its register."""
        name, offset = _address(operands[1])
        if offset or len(parts) != 2:
            raise ValueError("whole parameters, one at a time")
        bits = 8 * _bytes(parts[1])
        signed = bits if parts[1].startswith("s") else 0
        source = f"{name}:{parts[1]}"
        if source not in self.registers:
            self._new(source, Begin("constant", of=name, signed=signed))
        return "mov.b64", {}, [*_names(operands[0]), source]

    def _atom(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        how = next(part for part in parts if part in _CHANGES)
        pointer, offset = _address(operands[1])
        fields = {"option": _CHANGES[how], "combine": _CHANGED[parts[-1]], "size": _bytes(parts[-1])}
        return "atom", fields | {"shared": _is_shared(parts), "offset": offset}, [operands[0], pointer, *operands[2:]]

    def _red(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return self._atom(parts, ("_", *operands))

    # What the lanes of a warp do together

    def _shfl(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        result, value, by, clamp, lanes = operands
        whole = {"bfly": 31, "idx": 31, "up": 0, "down": 31}[parts[1]]
        if int(clamp, 0) != whole or int(lanes, 0) & 0xFFFFFFFF != 0xFFFFFFFF or "|" in result:
            raise ValueError("only shuffles of whole warps are known")
        return "shfl", {"option": _SHUFFLES[parts[1]]}, [result, value, by]

    def _redux(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return "redux", {"option": _CHANGES[parts[1]], "combine": _CHANGED[parts[2]]}, list(operands[:2])

    def _ldmatrix(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        if "m8n8" not in parts or parts[-1] != "b16":
            raise ValueError("only matrices of halves are known")
        pointer, offset = _address(operands[1])
        length = next(int(part[1:]) for part in parts if part in ("x1", "x2", "x4"))
        fields = {"length": length, "shared": 1, "offset": offset, "option": int("trans" in parts)}
        return "ldmatrix", fields, [*_names(operands[0]), pointer]

    def _mma(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        shape = ["sync", "aligned", "m16n8k16", "row", "col", "f32"]
        if parts not in ([*shape, "f16", "f16", "f32"], [*shape, "bf16", "bf16", "f32"]):
            raise ValueError("only products of halves, summed in float32, are known")
        return "mma", {"option": int("bf16" in parts)}, [name for group in operands for name in _names(group)]

    # Scalar instructions whose opcodes say more than a row of the table

    def _mov(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        to, source = operands
        if "{" not in to + source:
            return f"mov.{_plain(parts[0])}", {}, [to, source]
        inner = _names(source if "{" in source else to)
        fields = {"length": len(inner), "size": _bytes(parts[0]) // len(inner)}
        return ("pack", fields, [to, *inner]) if "{" in source else ("unpack", fields, [*inner, source])

    def _selp(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        return f"selp.{_plain(parts[0])}", {}, list(operands)

    def _setp(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        relation, *rest = (part for part in parts if part != "ftz")
        kind = rest[-1]
        combine = ["", "and", "or", "xor"].index(rest[0]) if len(rest) > 1 else 0
        fields = {"option": _RELATIONS[relation], "combine": combine, "flush": int("ftz" in parts)}
        results = [name.strip() for name in operands[0].split("|")]
        if (len(results) > 1) != kind.endswith("x2") or operands[-1].startswith("!") or (combine and len(results) > 1):
            raise ValueError("one result, or two of a pair")
        return f"setp.{kind}", fields, [*results, *operands[1:]]

    def _cvt(self, parts: list[str], operands: tuple[str, ...]) -> _Meaning:
        rounding = next((_ROUNDINGS[part] for part in parts if part in _ROUNDINGS), 0)
        to, source = parts[-2:]
        known = {"rn", "ftz", *_ROUNDINGS}
        if not known.issuperset(parts[:-2]) or (_is_floating(source) and not _is_floating(to) and not rounding):
            raise ValueError("another rounding")
        return f"cvt.{to}.{source}", {"option": rounding, "flush": int("ftz" in parts)}, list(operands)

    # Registers

    def _register(self, name: str) -> int:
        if name not in self.registers:
            self._new(name, self._begin(name))
        return self.registers[name]

    def _new(self, name: str, begin: Begin) -> None:
        self.registers[name] = len(self.begins)
        self.begins.append(begin)

    def _begin(self, name: str) -> Begin:
        if name in _SPECIAL:
            return Begin(_SPECIAL[name])
        if name.startswith("%nctaid."):
            return Begin("constant", of=name)
        if name in ("%ntid.x", "%ntid.y", "%ntid.z"):
            return Begin("constant", 32 * self.warps if name == "%ntid.x" else 1)
        if name in ("%tid.y", "%tid.z", "global_smem"):  # threads lie along x; shared memory begins at 0
            return Begin("constant", 0)
        if re.fullmatch(r"%[a-z]+\d+|_", name):
            return Begin()
        if match := re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", name):
            return Begin("constant", int(match[1], 16))
        return Begin("constant", int(name.rstrip("U"), 0) & (2**64 - 1))


def _names(operand: str) -> list[str]:
    """`{ %r1, %r2 }` as its parts, `%r1` as the only one."""
    return [name.strip() for name in operand.strip("{} ").split(",")]


def _address(operand: str) -> tuple[str, int]:
    """`[%rd1 + 8]` as register and bytes."""
    match = re.fullmatch(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+)\s*)?\]", operand)
    if match is None:
        raise ValueError(f"address {operand}")
    return match[1], int(match[2] or 0)


def _bytes(kind: str) -> int:
    return int(kind.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8


def _plain(kind: str) -> str:
    """The type of a move, which knows sizes only."""
    return kind if kind == "pred" else f"b{8 * _bytes(kind)}"


def _is_floating(kind: str) -> bool:
    return kind.startswith(("f", "bf"))


def _is_shared(parts: list[str]) -> int:
    space = next((part for part in parts if part.split("::")[0] in ("global", "shared", "local", "const")), "")
    if space not in ("global", "shared", "shared::cta"):
        raise ValueError("only global and shared memory are known")
    return int(space != "global")
