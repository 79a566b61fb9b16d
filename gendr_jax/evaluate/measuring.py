"""Every metric of every picture of every method, in batches of one size."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gendr_jax.errors import InputError
from gendr_jax.evaluate import methods as methods_lib
from gendr_jax.evaluate.methods import Method
from gendr_jax.evaluate.pairing import Item, Pairs
from gendr_jax.metrics.kinds import Opened

BATCH_PIXELS = 8 * 512 * 512  # of results; networks that compare hold much more
BATCH = 64
READERS = 4
CROP = "Crop or resize it."

Arrays = dict[str, np.ndarray]  # by the names of items


@dataclass(frozen=True)
class Seen:
    """The pixels of one item while they are at hand.

    Attributes:
        results: {method: picture}, all of the item's size.
    """

    item: Item
    gt: np.ndarray | None
    lr: np.ndarray | None
    results: dict[str, np.ndarray]


@dataclass
class Figures:
    """`values[method][item][metric]`; what could not be measured is absent."""

    values: dict[str, dict[str, dict[str, float]]]
    problems: list[str] = field(default_factory=list)


def run(
    pairs: Pairs,
    metrics: list[Opened],
    *,
    see: Callable[[Seen], None] = lambda seen: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Figures:
    """Measure all; `see` is shown each item once, `advance` told how many were done."""
    figures = Figures({method.name: {} for method in pairs.methods})
    with ThreadPoolExecutor(READERS) as pool:
        for batch in batches(pairs.items):
            _batch(batch, pairs.methods, metrics, figures, see, pool)
            advance(len(batch))
    return figures


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items of equal sizes, as many at once as BATCH_PIXELS allow."""

    def sizes(item: Item) -> tuple[tuple[int, int], tuple[int, int]]:
        return item.size_hw, item.lr_hw or (0, 0)

    for (size_hw, _), group in itertools.groupby(sorted(items, key=sizes), sizes):
        count = max(1, min(BATCH, BATCH_PIXELS // math.prod(size_hw)))
        same = list(group)
        yield from (same[i : i + count] for i in range(0, len(same), count))


def _batch(
    items: list[Item],
    methods: list[Method],
    metrics: list[Opened],
    figures: Figures,
    see: Callable[[Seen], None],
    pool: ThreadPoolExecutor,
) -> None:
    problems = figures.problems
    gts = _cut(_read({i.name: i.gt for i in items if i.gt}, problems, pool), items)
    lrs = _read({i.name: i.lr for i in items if i.lr}, problems, pool)
    others = {"nothing": None, "gt": gts, "lr": lrs}
    results: dict[str, Arrays] = {}
    for method in methods:
        whole = _results(method, items, lrs, problems, pool)
        results[method.name] = found = _cut(whole, items)
        values = figures.values[method.name]
        values.update({name: {} for name in found})
        for opened in metrics:
            # An input belongs to its result as it was made.
            shown = whole if opened.metric.against == "lr" else found
            measured = _measure(
                opened, shown, others[opened.metric.against], method.name, problems
            )
            for name, value in measured.items():
                values[name][opened.metric.name] = value
    for item in items:
        name = item.name
        mine = {m: found[name] for m, found in results.items() if name in found}
        see(Seen(item, gts.get(name), lrs.get(name), mine))


def _read(
    paths: dict[str, Path], problems: list[str], pool: ThreadPoolExecutor
) -> Arrays:
    """The pictures that can be read; a line for each other."""

    def one(path: Path) -> np.ndarray | str:
        try:
            return methods_lib.read(path)
        except InputError as error:
            return str(error)

    found = dict(zip(paths, pool.map(one, paths.values()), strict=True))
    problems += [what for what in found.values() if isinstance(what, str)]
    return {name: x for name, x in found.items() if not isinstance(x, str)}


def _results(
    method: Method,
    items: list[Item],
    lrs: Arrays,
    problems: list[str],
    pool: ThreadPoolExecutor,
) -> Arrays:
    """A method's pictures of these items, not cut; those that do not fit are told."""
    if method.make is None:
        here = {i.name: method.files[i.name] for i in items if i.name in method.files}
        found = _read(here, problems, pool)
    else:
        found = _made(method, items, lrs, problems)
    fitting = {}
    for item in items:
        if item.name not in found:
            continue
        height, width = found[item.name].shape[:2]
        fit = item.effective_fit
        if fit.takes((height, width)):
            fitting[item.name] = found[item.name]
            continue
        rows, columns = fit.truth_hw or fit.size_hw
        most = f" (up to {fit.most} pixels are cut)" if fit.most else ""
        where = method.files.get(item.name, item.name)
        problems.append(
            f"{method.name}: {where} is {width}x{height}, its partner needs "
            f"{columns}x{rows}{most}. "
            + ("Give the scale with -s." if item.lr and not item.gt else CROP)
        )
    return fitting


def _cut(pictures: Arrays, items: list[Item]) -> Arrays:
    """At the right and at the bottom to the sizes at which items are compared."""
    sizes = {item.name: item.size_hw for item in items}
    return {n: x[: sizes[n][0], : sizes[n][1]] for n, x in pictures.items()}


def _made(
    method: Method, items: list[Item], lrs: Arrays, problems: list[str]
) -> Arrays:
    assert method.make is not None
    names = [item.name for item in items if item.name in lrs]
    if not names:
        return {}
    size_hw = items[0].effective_fit.uncut_hw
    try:
        made = method.make([lrs[name] for name in names], size_hw)
        return dict(zip(names, made, strict=True))
    except InputError:
        pass  # which of them? one by one
    found = {}
    for name in names:
        try:
            found[name] = method.make([lrs[name]], size_hw)[0]
        except InputError as error:
            problems.append(f"{method.name}: {name}: {error}")
    return found


def _measure(
    opened: Opened,
    results: Arrays,
    others: Arrays | None,
    method: str,
    problems: list[str],
) -> dict[str, float]:
    """One metric of these results, those alone that have a second picture."""
    names = [name for name in results if others is None or name in others]

    def kind(name: str) -> str:  # alike in a batch, for it becomes one array
        pair = [results[name]] + ([] if others is None else [others[name]])
        return " ".join(f"{x.dtype.name} {x.shape}" for x in pair)

    def report(name: str, what: str) -> None:
        problems.append(f"{method}: {opened.metric.name} of {name}: {what}")

    measured: dict[str, float] = {}
    for _, group in itertools.groupby(sorted(names, key=kind), kind):
        measured |= _values(opened, list(group), results, others, report)
    for name in [n for n, value in measured.items() if not math.isfinite(value)]:
        report(name, f"{measured.pop(name)} is no figure. Look at the picture.")
    return measured


def _values(
    opened: Opened,
    names: list[str],
    results: Arrays,
    others: Arrays | None,
    report: Callable[[str, str], None],
) -> dict[str, float]:
    """In one call, or one by one where that shows which picture cannot be used."""
    second = None if others is None else [others[name] for name in names]
    try:
        values = opened.measure([results[name] for name in names], second)
    except InputError as error:
        if len(names) == 1:
            report(names[0], str(error))
            return {}
        alone = (_values(opened, [n], results, others, report) for n in names)
        return {name: value for part in alone for name, value in part.items()}
    return {n: float(value) for n, value in zip(names, values, strict=True)}
