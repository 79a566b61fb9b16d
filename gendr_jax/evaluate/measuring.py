"""Measure every metric of every picture of every method, in batches of one size."""

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

BATCH_PIXELS = 8 * 512 * 512  # of results; metric networks need much more memory
BATCH = 64
READERS = 4
CROP = "Crop or resize it."

Arrays = dict[str, np.ndarray]  # by the names of items


@dataclass(frozen=True)
class ItemPixels:
    """The pixels of one item, passed on after it was measured.

    Attributes:
        results: {method: picture}, all of the item's size.
    """

    item: Item
    gt: np.ndarray | None
    lr: np.ndarray | None
    results: dict[str, np.ndarray]


@dataclass
class Figures:
    """`values[method][item][metric]`; figures that failed are missing."""

    values: dict[str, dict[str, dict[str, float]]]
    problems: list[str] = field(default_factory=list)


def run(
    pairs: Pairs,
    metrics: list[Opened],
    *,
    on_item: Callable[[ItemPixels], None] = lambda pixels: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Figures:
    """Measure all items.

    Args:
        on_item: called with the pixels of each item.
        advance: called with the number of items after each batch.
    """
    figures = Figures({method.name: {} for method in pairs.methods})
    with ThreadPoolExecutor(READERS) as pool:
        for batch in batches(pairs.items):
            _batch(batch, pairs.methods, metrics, figures, on_item, pool)
            advance(len(batch))
    return figures


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Batches of items of equal sizes, within BATCH and BATCH_PIXELS."""

    def sizes(item: Item) -> tuple[tuple[int, int], tuple[int, int]]:
        return item.size_hw, item.lr_hw or (0, 0)

    for (size_hw, _), group in itertools.groupby(sorted(items, key=sizes), sizes):
        count = max(1, min(BATCH, BATCH_PIXELS // math.prod(size_hw)))
        group_items = list(group)
        yield from (
            group_items[i : i + count] for i in range(0, len(group_items), count)
        )


def _batch(
    items: list[Item],
    methods: list[Method],
    metrics: list[Opened],
    figures: Figures,
    on_item: Callable[[ItemPixels], None],
    pool: ThreadPoolExecutor,
) -> None:
    problems = figures.problems
    gts = _cropped(_read({i.name: i.gt for i in items if i.gt}, problems, pool), items)
    lrs = _read({i.name: i.lr for i in items if i.lr}, problems, pool)
    others = {"nothing": None, "gt": gts, "lr": lrs}
    results: dict[str, Arrays] = {}
    for method in methods:
        uncut = _results(method, items, lrs, problems, pool)
        results[method.name] = cut = _cropped(uncut, items)
        values = figures.values[method.name]
        values.update({name: {} for name in cut})
        for opened in metrics:
            # Inputs are compared with the uncut result.
            pictures = uncut if opened.metric.against == "lr" else cut
            measured = _measure(
                opened, pictures, others[opened.metric.against], method.name, problems
            )
            for name, value in measured.items():
                values[name][opened.metric.name] = value
    for item in items:
        name = item.name
        by_method = {m: cut[name] for m, cut in results.items() if name in cut}
        on_item(ItemPixels(item, gts.get(name), lrs.get(name), by_method))


def _read(
    paths: dict[str, Path], problems: list[str], pool: ThreadPoolExecutor
) -> Arrays:
    """The pictures that can be read; a problem for each other."""

    def read_one(path: Path) -> np.ndarray | str:
        try:
            return methods_lib.read(path)
        except InputError as error:
            return str(error)

    pictures = dict(zip(paths, pool.map(read_one, paths.values()), strict=True))
    problems += [problem for problem in pictures.values() if isinstance(problem, str)]
    return {name: x for name, x in pictures.items() if not isinstance(x, str)}


def _results(
    method: Method,
    items: list[Item],
    lrs: Arrays,
    problems: list[str],
    pool: ThreadPoolExecutor,
) -> Arrays:
    """A method's uncut pictures of these items; a problem for each wrong size."""
    if method.make is None:
        paths = {i.name: method.files[i.name] for i in items if i.name in method.files}
        pictures = _read(paths, problems, pool)
    else:
        pictures = _make(method, items, lrs, problems)
    fitting = {}
    for item in items:
        if item.name not in pictures:
            continue
        height, width = pictures[item.name].shape[:2]
        fit = item.effective_fit
        if fit.takes((height, width)):
            fitting[item.name] = pictures[item.name]
            continue
        rows, columns = fit.truth_hw or fit.size_hw
        tolerance = f" (up to {fit.most} pixels are cut)" if fit.most else ""
        file = method.files.get(item.name, item.name)
        problems.append(
            f"{method.name}: {file} is {width}x{height}, its partner needs "
            f"{columns}x{rows}{tolerance}. "
            + ("Give the scale with -s." if item.lr and not item.gt else CROP)
        )
    return fitting


def _cropped(pictures: Arrays, items: list[Item]) -> Arrays:
    """Crop at the right and bottom to the sizes at which items are compared."""
    sizes = {item.name: item.size_hw for item in items}
    return {n: x[: sizes[n][0], : sizes[n][1]] for n, x in pictures.items()}


def _make(
    method: Method, items: list[Item], lrs: Arrays, problems: list[str]
) -> Arrays:
    assert method.make is not None
    names = [item.name for item in items if item.name in lrs]
    if not names:
        return {}
    size_hw = items[0].effective_fit.uncut_hw
    try:
        results = method.make([lrs[name] for name in names], size_hw)
        return dict(zip(names, results, strict=True))
    except InputError:
        pass  # measured one by one, to know which fails
    pictures = {}
    for name in names:
        try:
            pictures[name] = method.make([lrs[name]], size_hw)[0]
        except InputError as error:
            problems.append(f"{method.name}: {name}: {error}")
    return pictures


def _measure(
    opened: Opened,
    results: Arrays,
    others: Arrays | None,
    method: str,
    problems: list[str],
) -> dict[str, float]:
    """One metric of those results that have the second picture it needs."""
    names = [name for name in results if others is None or name in others]

    def shape_and_dtype(name: str) -> str:  # equal in a batch, which is one array
        pair = [results[name]] + ([] if others is None else [others[name]])
        return " ".join(f"{x.dtype.name} {x.shape}" for x in pair)

    def report(name: str, problem: str) -> None:
        problems.append(f"{method}: {opened.metric.name} of {name}: {problem}")

    measured: dict[str, float] = {}
    for _, group in itertools.groupby(
        sorted(names, key=shape_and_dtype), shape_and_dtype
    ):
        measured |= _values(opened, list(group), results, others, report)
    for name in [n for n, value in measured.items() if not math.isfinite(value)]:
        report(name, f"{measured.pop(name)} is not finite. Check the picture.")
    return measured


def _values(
    opened: Opened,
    names: list[str],
    results: Arrays,
    others: Arrays | None,
    report: Callable[[str, str], None],
) -> dict[str, float]:
    """Measure in one call; after an error one by one, to know which picture fails."""
    second = None if others is None else [others[name] for name in names]
    try:
        values = opened.measure([results[name] for name in names], second)
    except InputError as error:
        if len(names) == 1:
            report(names[0], str(error))
            return {}
        singles = (_values(opened, [n], results, others, report) for n in names)
        return {name: value for single in singles for name, value in single.items()}
    return {n: float(value) for n, value in zip(names, values, strict=True)}
