"""Plan every request of a sweep in turn: cache, compile, suggest changes."""

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
    """How a sweep is run.

    Attributes:
        folder: of the cache (`plan/cache.py`); None caches nothing.
        reread: use cached facts.
        timeout: seconds a compilation may take.
        suggest: estimate which change may fit, or compile until one does.
        jobs: programs of a step that are compiled at once, each in a process of its
            own; the largest of a full-size step take about 10 GB of memory.
        efficiency: of a device's resources, for times.
        refuse: raises `UsageError` for a request that cannot be compiled; asked of
            every request before the first is compiled.
        log: takes progress lines.
    """

    folder: Path | None = None
    reread: bool = True
    timeout: float | None = None
    suggest: Suggest = "estimate"
    jobs: int = 1
    efficiency: Efficiency = PEAK
    refuse: Callable[[Request], None] = lambda request: None
    log: Callable[[str], None] = lambda line: None

    def refusal(self, request: Request) -> str:
        """Why a request cannot be compiled; "" where it can."""
        try:
            self.refuse(request)
        except UsageError as error:
            return str(error)
        return ""


def requests(
    base: Request,
    topology_names: Sequence[str],
    meshes: Sequence[str],
    batches: Sequence[int | None],
) -> list[Request]:
    """The product, topologies outermost, with canonical topology names."""
    canonical = [str(topologies.parse(name)) for name in topology_names]
    return [
        dataclasses.replace(base, topology=topology, mesh=mesh, batch_per_device=batch)
        for topology, mesh, batch in itertools.product(canonical, meshes, batches)
    ]


def run(
    requests: Sequence[Request], pairs: float, options: Options
) -> Iterator[dict[str, Any]]:
    """A row for every request, in order. One that fails is a row with "error".

    Raises:
        UsageError: the only request is invalid.
    """
    refusals = {
        i: text for i, text in enumerate(map(options.refusal, requests), 1) if text
    }
    if refusals and len(requests) == 1:
        raise UsageError(refusals[1])
    for number, request in enumerate(requests, 1):
        title = f"[{number}/{len(requests)}] {report.title(request)}"
        if number in refusals:
            yield report.row(request, {"error": refusals[number]}, pairs)
            continue
        try:
            facts = facts_of(request, options, title)
        except UsageError as error:
            if len(requests) == 1:
                raise
            facts = {"error": str(error)}
        row = report.row(request, facts, pairs, options.efficiency)
        if row.get("fits") is False:
            row["change"] = _change(request, facts, row, options, title)
        yield row


def facts_of(request: Request, options: Options, title: str) -> dict[str, Any]:
    """The facts of one request; each program of its step is compiled alone."""

    def phase(number: int) -> dict[str, Any]:
        program_request = dataclasses.replace(request, phase=number)
        return _phase(program_request, options, f"{title}, program {number + 1}")

    first = phase(0)
    with ThreadPoolExecutor(options.jobs) as pool:
        others = pool.map(phase, range(1, first.get("phase_count", 1)))
        per_program = [first, *others]
    failed = next((facts for facts in per_program if "error" in facts), None)
    return failed or (first if len(per_program) == 1 else measure.joined(per_program))


def _phase(request: Request, options: Options, title: str) -> dict[str, Any]:
    """The facts of one program, from the cache or compiled."""
    cache_key = cache.key(request)
    if options.folder and options.reread:
        cached = cache.load(options.folder, cache_key)
        if cached is not None:
            options.log(f"{title}: from the cache")
            return cached
    options.log(f"{title}: compiling, {request.effort} effort")
    begun = time.perf_counter()
    facts = compile_process.measure_in_subprocess(request, timeout=options.timeout)
    seconds = time.perf_counter() - begun
    options.log(f"{title}: {facts.get('error') or 'done'} in {seconds:.0f} s")
    if options.folder and "error" not in facts:
        cache.store(options.folder, cache_key, facts)
    return facts


def _change(
    request: Request,
    facts: dict[str, Any],
    row: dict[str, Any],
    options: Options,
    title: str,
) -> dict[str, Any]:
    """The least change that fits: by arithmetic, or by compiling one after another."""
    candidates = suggest.changes(request, facts, row["hbm_bytes"])
    for candidate in candidates:
        if options.suggest == "estimate":
            outcome = {"peak_bytes": candidate.estimate, "compiled": False}
            return {"words": candidate.words} | outcome
        facts_of_change = facts_of(
            candidate.request, options, f"{title}, with {candidate.words}"
        )
        if facts_of_change.get("fits"):
            outcome = {"peak_bytes": facts_of_change["peak_bytes"], "compiled": True}
            return {"words": candidate.words} | outcome
    advice = suggest.larger(request.topology)
    return {"words": advice, "peak_bytes": None, "compiled": False}
