"""All cells of a table, one after the other: cache, compile, suggest."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from gendr_jax.errors import UsageError
from gendr_jax.plan import cache, compile_process, measure, report, suggest, topologies
from gendr_jax.plan.request import Request
from gendr_jax.plan.roofline import PEAK, Efficiency

Suggest = Literal["estimate", "compile"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to go about it.

    Attributes:
        folder: of kept answers; None keeps none.
        reread: use kept answers.
        timeout: seconds a compilation may take.
        suggest: say what may fit by arithmetic, or compile until something does.
        jobs: programs of a step that are compiled at once, each by a process of its
            own; the largest of a full-size step take about 10 GB of memory.
        efficiency: of a device's resources, for times.
        refuse: raises `UsageError` for a request that cannot be compiled; asked of
            every request before the first is compiled.
        say: takes progress lines.
    """

    folder: Path | None = None
    reread: bool = True
    timeout: float | None = None
    suggest: Suggest = "estimate"
    jobs: int = 1
    efficiency: Efficiency = PEAK
    refuse: Callable[[Request], None] = lambda request: None
    say: Callable[[str], None] = lambda line: None

    def refusal(self, request: Request) -> str:
        """Why a request cannot be compiled; "" where it can."""
        try:
            self.refuse(request)
        except UsageError as error:
            return str(error)
        return ""


def requests(
    base: Request,
    named: Sequence[str],
    meshes: Sequence[str],
    batches: Sequence[int | None],
) -> list[Request]:
    """The product, topologies outermost; names are read and made canonical."""
    machines = [str(topologies.parse(name)) for name in named]
    return [
        dataclasses.replace(base, topology=machine, mesh=mesh, batch_per_device=batch)
        for machine, mesh, batch in itertools.product(machines, meshes, batches)
    ]


def run(
    asked: Sequence[Request], pairs: float, options: Options
) -> Iterator[dict[str, Any]]:
    """A row for every request, in order. One that breaks is a row with "error".

    Raises:
        UsageError: the only request makes no sense.
    """
    refused = {i: text for i, text in enumerate(map(options.refusal, asked), 1) if text}
    if refused and len(asked) == 1:
        raise UsageError(refused[1])
    for number, request in enumerate(asked, 1):
        head = f"[{number}/{len(asked)}] {report.title(request)}"
        if number in refused:
            yield report.row(request, {"error": refused[number]}, pairs)
            continue
        try:
            facts = facts_of(request, options, head)
        except UsageError as error:
            if len(asked) == 1:
                raise
            facts = {"error": str(error)}
        row = report.row(request, facts, pairs, options.efficiency)
        if row.get("fits") is False:
            row["change"] = _change(request, facts, row, options, head)
        yield row


def facts_of(request: Request, options: Options, head: str) -> dict[str, Any]:
    """The answer of one request, its programs one by one."""

    def phase(number: int) -> dict[str, Any]:
        one = dataclasses.replace(request, phase=number)
        return _phase(one, options, f"{head}, program {number + 1}")

    first = phase(0)
    with ThreadPoolExecutor(options.jobs) as pool:
        rest = pool.map(phase, range(1, first.get("phase_count", 1)))
        answers = [first, *rest]
    broken = next((one for one in answers if "error" in one), None)
    return broken or (first if len(answers) == 1 else measure.joined(answers))


def _phase(request: Request, options: Options, head: str) -> dict[str, Any]:
    """The answer of one program, kept or new."""
    name = cache.key(request)
    if options.folder and options.reread:
        kept = cache.load(options.folder, name)
        if kept is not None:
            options.say(f"{head}: kept answer")
            return kept
    options.say(f"{head}: compiling, {request.effort} effort")
    begun = time.perf_counter()
    facts = compile_process.answer(request, timeout=options.timeout)
    seconds = time.perf_counter() - begun
    options.say(f"{head}: {facts.get('error') or 'done'} in {seconds:.0f} s")
    if options.folder and "error" not in facts:
        cache.store(options.folder, name, facts)
    return facts


def _change(
    request: Request,
    facts: dict[str, Any],
    row: dict[str, Any],
    options: Options,
    head: str,
) -> dict[str, Any]:
    """The least change that fits: by arithmetic, or by compiling one after another."""
    found = suggest.changes(request, facts, row["hbm_bytes"])
    for one in found:
        if options.suggest == "estimate":
            told = {"peak_bytes": one.estimate, "compiled": False}
            return {"words": one.words} | told
        answer = facts_of(one.request, options, f"{head}, with {one.words}")
        if answer.get("fits"):
            told = {"peak_bytes": answer["peak_bytes"], "compiled": True}
            return {"words": one.words} | told
    words = suggest.larger(request.topology)
    return {"words": words, "peak_bytes": None, "compiled": False}
