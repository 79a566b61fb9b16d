"""Parser of HLO text: computations, instructions, loop trip counts."""

import functools
import math
import re
from dataclasses import dataclass

# A computation begins with `[ENTRY] %NAME (PARAMETERS) -> TYPE {`, an instruction is
# `[ROOT] %NAME = TYPE OP(ARGUMENTS), ATTRIBUTES`.
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
    """One line of HLO text: `NAME = TYPE OP(ARGUMENTS), ATTRIBUTES`."""

    name: str
    type: str
    op: str
    arguments: str
    attributes: str
    root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(_NAME.findall(self.arguments))

    @functools.cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """{"body": (name,), "calls": (name,), ...}"""
        pairs = _CALLED.findall(self.attributes)
        return {how: tuple(_NAME.findall(names)) for how, names in pairs}

    def attribute(self, name: str) -> str:
        """The value of `NAME=VALUE`, with braces if it has them; "" where absent."""
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
        return {int(i.arguments): i for i in rows if i.op == "parameter"}


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
    entry, instructions, name = "", {}, ""
    for line in text.splitlines():
        header = _HEAD.match(line)
        # An instruction's line may end in "{" too, but has " = " before its operands.
        if header and " = " not in line.split("(", 1)[0]:
            name, instructions = header[2], {}
            computations[name] = Computation(name, instructions)
            entry = name if header[1] else entry
        elif name and _LINE.match(line):
            instruction = _instruction(line)
            instructions[instruction.name] = instruction
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    start = _LINE.match(line)
    assert start is not None, f"no instruction: {line[:80]!r}"
    rest = line[start.end() :]
    if rest.startswith("("):  # a tuple type has spaces: up to its own parenthesis
        end = _closing_parenthesis(rest, 0) + 1
    else:
        end = rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    open_at = rest.index("(")
    close_at = _closing_parenthesis(rest, open_at)
    return Instruction(
        name=start[2],
        type=type_,
        op=rest[:open_at],
        arguments=rest[open_at + 1 : close_at],
        attributes=rest[close_at + 1 :],
        root=bool(start[1]),
    )


def _closing_parenthesis(text: str, open_at: int) -> int:
    depth = 0
    for i in range(open_at, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def trips(module: Module, caller: Computation, loop: Instruction) -> int | None:
    """How often a `while` runs its body; None where the text does not say.

    Either the compiler noted it (known_trip_count), or the condition compares a counter
    that starts at a constant, and goes up by one, with a constant.
    """
    known = _TRIPS.search(loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.called["condition"][0]]
    if condition.root.op != "compare":
        return None
    loop_operands = caller.instructions.get(loop.operands[0])
    values = [
        _constant(condition, n, loop_operands, caller) for n in condition.root.operands
    ]
    first = _constant(condition, condition.root.operands[0], loop_operands, caller)
    # NE and the strict comparisons stop before the bound, the others at it.
    low, high = values
    if low is None or high is None or first is None:
        return None
    extra_by_direction = {"LT": 0, "LE": 1, "GT": 0, "GE": 1, "NE": 0}
    extra = extra_by_direction.get(condition.root.attribute("direction"))
    return None if extra is None else abs(high - low) + extra


def _constant(
    computation: Computation,
    name: str,
    loop_operands: Instruction | None,
    caller: Computation | None,
) -> int | None:
    """The integer that `name` is when a loop begins, looked up through copies."""
    instruction = computation.instructions.get(name)
    if instruction is None:
        return None
    if instruction.op == "constant":
        return (
            int(instruction.arguments)
            if re.fullmatch(r"-?\d+", instruction.arguments)
            else None
        )
    if instruction.op in ("copy", "bitcast", "convert") and instruction.operands:
        return _constant(computation, instruction.operands[0], loop_operands, caller)
    if (
        instruction.op == "get-tuple-element"
        and loop_operands is not None
        and caller is not None
    ):
        index = int(instruction.attribute("index"))
        if loop_operands.op != "tuple" or index >= len(loop_operands.operands):
            return None
        return _constant(caller, loop_operands.operands[index], None, None)
    return None


def starts_slice(module: Module, instruction: Instruction) -> bool:
    """Whether it is a slice-start as the compiler's dump writes it, as a call."""
    if instruction.op != "async-start":
        return False
    called = module.computations[instruction.called["calls"][0]]
    return called.root.op == "slice"


@dataclass(frozen=True)
class Runs:
    """How often computations run in one call of the program.

    Attributes:
        times: loop bodies count by their trips, those of unknown loops once.
        once: as if every loop ran once, which is how XLA counts costs.
        fused: computations inside a fused instruction.
        unknown: loops whose number of trips the text does not say.
    """

    times: dict[str, float]
    once: dict[str, float]
    fused: frozenset[str]
    unknown: int


def runs(module: Module) -> Runs:
    """Follow every call from the entry; of branches, the heaviest (as XLA does)."""
    times = dict.fromkeys(module.computations, 0.0)
    once = dict(times)
    times[module.entry] = once[module.entry] = 1.0
    weight, fused, unknown = _weights(module), set(), 0
    # Callers come after their callees in HLO text, so reversed is callers first.
    for computation in reversed(module.computations.values()):
        if not once[computation.name]:
            continue
        for instruction in computation.instructions.values():
            if instruction.op in ("async-update", "async-done"):
                continue  # they name the computation that async-start has called
            factor = 1
            names = [n for called in instruction.called.values() for n in called]
            if instruction.op == "while":
                trip_count = trips(module, computation, instruction)
                unknown += trip_count is None
                factor = 1 if trip_count is None else trip_count
            elif instruction.op == "conditional":
                names = [max(names, key=lambda n: weight[n])]
            elif instruction.op == "fusion" or computation.name in fused:
                fused.update(names)
            elif starts_slice(module, instruction):
                fused.update(names)
            for name in names:
                times[name] += factor * times[computation.name]
                once[name] += once[computation.name]
    return Runs(times, once, frozenset(fused), unknown)


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
