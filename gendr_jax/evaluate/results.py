"""Results of an evaluation as JSON, CSV and a table for the terminal.

The JSON has no dates, times or machine names: the same pictures and command give the
same bytes. "whole" has the metrics of sets of pictures (FID).

    {protocol, gendr_jax, gt, lr, set, order: [metric],
     method, metrics, images                     those of the first method
     methods: {name: {source, pictures, metrics: {metric: {mean, ci95, n}},
                      images: {picture: {metric: value}}}},
     common: {pictures, methods: {name: {metric: {mean, ci95, n}}}} | null,
      differences: [{a, b, metric, mean, ci95, n, above, below}],
     best: {metric: method | null},
     whole: {order: [metric], methods: {name: {metric: {value, n}}},
             common: {name: {metric: {value, n}}} | null} | null, problems: [line]}
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendr_jax.errors import UsageError
from gendr_jax.evaluate import statistics
from gendr_jax.evaluate.measuring import Figures
from gendr_jax.evaluate.methods import Method
from gendr_jax.evaluate.set_metrics import Figure, SetFigures
from gendr_jax.evaluate.statistics import Mean
from gendr_jax.evaluate.winners import winners
from gendr_jax.metrics.kinds import Metric, Opened, OpenedSet
from gendr_jax.version import __version__

DECIMALS = 6
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # starts of spreadsheet formulas
PLAIN = ("paired by name", "paired by name; no truth cut")


@dataclass(frozen=True)
class About:
    """Names of the compared folders, as given by the user; None if not given.

    `pairing` is a line of the protocol: how pictures were paired and cut.
    """

    gt: str | None = None
    lr: str | None = None
    test_set: str | None = None
    pairing: str = "paired by name"


def collect(
    about: About,
    methods: list[Method],
    metrics: list[Opened],
    figures: Figures,
    problems: list[str],
    sets: Sequence[OpenedSet] = (),
    set_figures: SetFigures | None = None,
) -> dict[str, Any]:
    """All results as JSON values; pictures in the order of their names.

    `sets` and `set_figures` are the metrics of sets of pictures, and their figures.
    """
    names = [opened.metric.name for opened in metrics]
    tables = {
        method.name: _method(method, figures.values[method.name], names)
        for method in methods
    }
    first = methods[0].name
    protocol = {opened.metric.name: opened.protocol for opened in [*metrics, *sets]}
    common = _common(tables, names)
    return {
        "protocol": {
            **protocol,
            "ci95": statistics.PROTOCOL,
            "pictures": about.pairing,
        },
        "gendr_jax": __version__,
        "set": about.test_set,
        "gt": about.gt,
        "lr": about.lr,
        "order": names,
        "method": first,
        "metrics": tables[first]["metrics"],
        "images": tables[first]["images"],
        "methods": tables,
        "common": common,
        "differences": _differences(tables, names),
        "best": winners(
            {name: own["images"] for name, own in tables.items()},
            [opened.metric for opened in metrics],
        ),
        "whole": set_figures
        and _set_figures_json(sets, set_figures, common is not None),
        "problems": problems,
    }


def dumps(results: dict[str, Any]) -> str:
    """The text of the JSON file."""
    return json.dumps(results, indent=1, allow_nan=False) + "\n"


def to_csv(results: dict[str, Any]) -> str:
    """One line a picture and method; every line has the protocol.

    For spreadsheets: it begins with a UTF-8 byte order mark, and text that would be
    read as a formula gets an apostrophe in front.
    """
    out = io.StringIO("\ufeff")
    out.seek(1)
    writer = csv.writer(out, lineterminator="\n")
    names = results["order"]
    stamp = f"gendr_jax {results['gendr_jax']}; " + "; ".join(
        f"{name}: {results['protocol'][name]}" for name in [*names, "pictures"]
    )
    writer.writerow(["method", "image", *names, "protocol"])
    for method, table in results["methods"].items():
        for image, values in table["images"].items():
            figures = [values.get(name, "") for name in names]
            writer.writerow([as_text(method), as_text(image), *figures, stamp])
    return out.getvalue()


def as_text(text: str) -> str:
    """Text of a cell that no spreadsheet reads as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def table(
    results: dict[str, Any], metrics: list[Opened], sets: Sequence[OpenedSet] = ()
) -> str:
    """Table of means and intervals, and one for the pictures that all methods have.

    A last line says how pictures were paired and cut, unless by name and not at all.
    """
    own_means = {name: m["metrics"] for name, m in results["methods"].items()}
    counts = {name: m["pictures"] for name, m in results["methods"].items()}
    columns = [opened.metric for opened in [*metrics, *sets]]
    set_results = results["whole"] or {"methods": {}, "common": {}}
    lines = _rows(_joined(own_means, set_results["methods"]), counts, columns)
    if common := results["common"]:
        count = common["pictures"]
        lines = ["each on its own pictures, not comparable:", *lines]
        shared_text = "picture" if count == 1 else f"{count} pictures"
        lines += ["", f"on the {shared_text} that all methods have:"]
        shared_counts = dict.fromkeys(counts, count)
        shared_means = _joined(common["methods"], set_results["common"])
        lines += _rows(shared_means, shared_counts, columns) if count else ["none"]
    if results["protocol"]["pictures"] not in PLAIN:
        lines += ["", results["protocol"]["pictures"]]
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Check before all work that `write` can write there; creates the folder.

    Raises:
        UsageError: it cannot.
    """
    try:
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}). Give another file."
        ) from error


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _method(
    method: Method, values: dict[str, dict[str, float]], names: list[str]
) -> dict[str, Any]:
    images = {
        image: {n: round(values[image][n], DECIMALS) for n in names if n in own}
        for image, own in sorted(values.items())
    }
    return {
        "source": method.source,
        "pictures": len(images),
        "metrics": _means(images.values(), names),
        "images": images,
    }


def _means(images: Iterable[dict[str, float]], names: list[str]) -> dict[str, Any]:
    """{metric: {mean, ci95, n}} of metrics with any figure."""
    images = list(images)
    means = {}
    for name in names:
        average = statistics.mean([own[name] for own in images if name in own])
        if average is not None:
            means[name] = _json(average)
    return means


def _json(average: Mean) -> dict[str, Any]:
    interval = average.ci95 and [round(x, DECIMALS) for x in average.ci95]
    return {"mean": round(average.mean, DECIMALS), "ci95": interval, "n": average.n}


def _common(tables: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
    """Means on the pictures that all methods have; None if no method lacks any."""
    sets = [set(table["images"]) for table in tables.values()]
    shared = sorted(set.intersection(*sets))
    if all(len(own) == len(shared) for own in sets):
        return None
    means = {
        method: _means((table["images"][image] for image in shared), names)
        for method, table in tables.items()
    }
    return {"pictures": len(shared), "methods": means}


def _set_figures_json(
    sets: Sequence[OpenedSet], set_figures: SetFigures, has_common: bool
) -> dict[str, Any] | None:
    """Figures of sets of pictures; None if there are no such metrics."""
    if not sets:
        return None

    def plain(figures: dict[str, dict[str, Figure]]) -> dict[str, Any]:
        return {
            method: {
                metric: {"value": round(figure.value, DECIMALS), "n": figure.n}
                for metric, figure in own.items()
            }
            for method, own in figures.items()
        }

    return {
        "order": [opened.metric.name for opened in sets],
        "methods": plain(set_figures.own),
        "common": plain(set_figures.common) if has_common else None,
    }


def _differences(tables: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    differences = []
    for (a, first), (b, second) in itertools.combinations(tables.items(), 2):
        for name in names:
            pairs = [
                (own[name], second["images"][image][name])
                for image, own in first["images"].items()
                if name in own and name in second["images"].get(image, {})
            ]
            if not pairs:
                continue
            d = statistics.difference(*zip(*pairs, strict=True))
            if d is None:  # no figure of a pair is finite
                continue
            counts = {"above": d.above, "below": d.below}
            differences.append(
                {"a": a, "b": b, "metric": name, **_json(d.mean), **counts}
            )
    return differences


def _joined(
    means: dict[str, dict[str, Any]], set_means: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {
        method: {**own, **set_means.get(method, {})} for method, own in means.items()
    }


def _rows(
    figures: dict[str, dict[str, Any]], counts: dict[str, int], columns: list[Metric]
) -> list[str]:
    """A table with columns as wide as their contents."""
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}
    rows = [["method", "pictures", *(f"{m.name}{arrows[m.better]}" for m in columns)]]
    for method, own in figures.items():
        count = counts[method]
        cells = [_cell_text(own.get(m.name), m.digits, count) for m in columns]
        rows.append([method, str(count), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cell_text(entry: dict[str, Any] | None, digits: int, count: int) -> str:
    """A figure with its interval, and its number of pictures if not `count`."""
    if entry is None:
        return "-"
    text = f"{entry['mean' if 'mean' in entry else 'value']:.{digits}f}"
    if entry.get("ci95"):
        low, high = (f"{x:.{digits}f}" for x in entry["ci95"])
        text += f" [{low}, {high}]"
    return text if entry["n"] == count else f"{text} of {entry['n']}"
