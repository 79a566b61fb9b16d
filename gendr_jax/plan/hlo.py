"""A compiled program's text as computations and instructions, and their counts."""

import functools
import math
import re
from dataclasses import dataclass

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}


@dataclass(frozen=True)
class Instruction:
    """One line. `inside` is what stands between the parentheses after `op`."""

    name: str
    type: str
    op: str
    inside: str
    attributes: str
    root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(_NAME.findall(self.inside))

    @functools.cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """{"body": (name,), "calls": (name,), ...}"""
        found = _CALLED.findall(self.attributes)
        return {how: tuple(_NAME.findall(names)) for how, names in found}

    def attribute(self, name: str) -> str:
        """A value without spaces or in braces, "" where absent."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return match[1] if match else ""


@dataclass(frozen=True)
class Computation:
    """A function of the program; instructions in order."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        rows = self.instructions.values()
        return {int(i.inside): i for i in rows if i.op == "parameter"}


@dataclass(frozen=True)
class Module:
    """A program: computations, callees before their callers."""

    computations: dict[str, Computation]
    entry: str


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, sizes) of every array in a type, tuples included."""
    return [
        (dtype, tuple(int(n) for n in sizes.split(",") if n))
        for dtype, sizes in _SHAPE.findall(text)
    ]


def size_bytes(text: str) -> int:
    """Bytes of a type, tuples summed, layouts and padding left out."""
    return sum(math.prod(s) * _bits(d) for d, s in shapes(text)) // 8


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.match(r"[a-z]+(\d+)", dtype)
    return int(width[1]) if width else 0


def parse(text: str) -> Module:
    """Read `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, rows, name = "", {}, ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head and " = " not in line.split("(", 1)[0]:
            name, rows = head[2], {}
            computations[name] = Computation(name, rows)
            entry = name if head[1] else entry
        elif name and _LINE.match(line):
            one = _instruction(line)
            rows[one.name] = one
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    start = _LINE.match(line)
    assert start is not None, f"no instruction: {line[:80]!r}"
    rest = line[start.end() :]
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = _closing(rest, opened)
    return Instruction(
        name=start[2],
        type=type_,
        op=rest[:opened],
        inside=rest[opened + 1 : closed],
        attributes=rest[closed + 1 :],
        root=bool(start[1]),
    )


def _closing(text: str, opened: int) -> int:
    depth = 0
    for i in range(opened, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def trips(module: Module, caller: Computation, loop: Instruction) -> int | None:
    """How often a `while` runs its body; None where the text does not say.

    Either the compiler wrote it down, or the condition compares a counter that starts
    at a constant, and goes up by one, with a constant.
    """
    noted = _TRIPS.search(loop.attributes)
    if noted:
        return int(noted[1])
    test = module.computations[loop.called["condition"][0]]
    if test.root.op != "compare":
        return None
    begin = caller.instructions.get(loop.operands[0])
    values = [_constant(test, n, begin, caller) for n in test.root.operands]
    first = _constant(test, test.root.operands[0], begin, caller)
    low, high = values
    if low is None or high is None or first is None:
        return None
    count = {"LT": 0, "LE": 1, "GT": 0, "GE": 1, "NE": 0}
    extra = count.get(test.root.attribute("direction"))
    return None if extra is None else abs(high - low) + extra


def _constant(
    where: Computation,
    name: str,
    tuple_: Instruction | None,
    caller: Computation | None,
) -> int | None:
    """The integer that `name` is when a loop begins, looked up through copies."""
    one = where.instructions.get(name)
    if one is None:
        return None
    if one.op == "constant":
        return int(one.inside) if re.fullmatch(r"-?\d+", one.inside) else None
    if one.op in ("copy", "bitcast", "convert") and one.operands:
        return _constant(where, one.operands[0], tuple_, caller)
    if one.op == "get-tuple-element" and tuple_ is not None and caller is not None:
        index = int(one.attribute("index"))
        if tuple_.op != "tuple" or index >= len(tuple_.operands):
            return None
        return _constant(caller, tuple_.operands[index], None, None)
    return None


@dataclass(frozen=True)
class Runs:
    """How often computations run in one call of the program.

    Attributes:
        times: with loops, unknown ones once.
        once: as if every loop ran once, which is how XLA counts costs.
        inside: computations that are part of a fused instruction.
        unknown: loops whose number of trips the text does not say.
    """

    times: dict[str, float]
    once: dict[str, float]
    inside: frozenset[str]
    unknown: int


def runs(module: Module) -> Runs:
    """Follow every call from the entry; of branches, the heaviest (as XLA does)."""
    times = dict.fromkeys(module.computations, 0.0)
    once = dict(times)
    times[module.entry] = once[module.entry] = 1.0
    weight, inside, unknown = _weights(module), set(), 0
    for computation in reversed(module.computations.values()):
        if not once[computation.name]:
            continue
        for one in computation.instructions.values():
            if one.op in ("async-update", "async-done"):
                continue  # name again what async-start began
            factor, names = 1, [n for names in one.called.values() for n in names]
            if one.op == "while":
                found = trips(module, computation, one)
                unknown += found is None
                factor = 1 if found is None else found
            elif one.op == "conditional":
                names = [max(names, key=lambda n: weight[n])]
            elif one.op == "fusion" or computation.name in inside:
                inside.update(names)
            for name in names:
                times[name] += factor * times[computation.name]
                once[name] += once[computation.name]
    return Runs(times, once, frozenset(inside), unknown)


def _weights(module: Module) -> dict[str, int]:
    """Bytes that a computation writes, callees included: which branch is heavier."""
    weight: dict[str, int] = {}
    for name, computation in module.computations.items():
        own = sum(size_bytes(i.type) for i in computation.instructions.values())
        called = [
            weight.get(n, 0)
            for i in computation.instructions.values()
            for names in i.called.values()
            for n in names
        ]
        weight[name] = own + sum(called)
    return weight
