"""Render the report: one self-contained HTML file that works offline."""

import base64
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from gendr_jax.evaluate.gallery import INPUT, Gallery
from gendr_jax.metrics.kinds import Opened, OpenedSet


def render(
    results: dict[str, Any],
    metrics: list[Opened],
    gallery: Gallery,
    sets: Sequence[OpenedSet] = (),
) -> str:
    """The HTML text.

    Args:
        results: as results.py collects them.
        metrics: in the order of their columns.
        gallery: after every item was added.
        sets: metrics of sets of pictures (FID).
    """
    files = resources.files("gendr_jax.evaluate")
    page, css, script, pictures = (
        (files / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "page.js", "pictures.js")
    )
    # Within a script element "</script" and "<!--" would be read as HTML.
    data = json.dumps(_data(results, metrics, gallery, sets), separators=(",", ":"))
    inserts = {
        "/*PAGE.CSS*/": css,
        "/*PAGE.JS*/": script,
        "/*PICTURES.JS*/": pictures,
        "/*DATA*/": data.replace("<", "\\u003c"),
    }
    for mark, text in inserts.items():
        before, matched, after = page.partition(mark)
        assert matched, mark
        page = before + text + after
    return page


def _data(
    results: dict[str, Any],
    metrics: list[Opened],
    gallery: Gallery,
    sets: Sequence[OpenedSet],
) -> dict[str, Any]:
    """The JSON data that page.js reads."""
    methods, common = results["methods"], results["common"]
    names = sorted({image for own in methods.values() for image in own["images"]})
    return {
        "title": _title(results),
        "about": _about(results, len(names)),
        "version": f"gendr_jax {results['gendr_jax']}",
        "ci": results["protocol"]["ci95"],
        "pairing": results["protocol"]["pictures"],
        "metrics": [_metric(opened) for opened in metrics],
        "sets": [_metric(opened) for opened in sets],
        "whole": results["whole"],
        "methods": [
            {"name": name, "source": own["source"], "pictures": own["pictures"]}
            for name, own in methods.items()
        ],
        "summary": {
            "all": {name: own["metrics"] for name, own in methods.items()},
            "common": common and common["methods"],
        },
        "commonPictures": common and common["pictures"],
        "differences": results["differences"],
        "best": results["best"],
        "images": [_image(name, results, gallery) for name in names],
        "crops": [
            {
                "name": crop.name,
                "box": crop.box,
                "size": crop.size,
                "panels": [
                    [label, _uri("image/webp", file)]
                    for label, file in crop.panels.items()
                ],
            }
            for crop in gallery.crops
        ],
        "problems": results["problems"],
    }


def _metric(opened: Opened | OpenedSet) -> dict[str, Any]:
    return {
        "name": opened.metric.name,
        "better": opened.metric.better,
        "digits": opened.metric.digits,
        "protocol": opened.protocol,
    }


def _title(results: dict[str, Any]) -> str:
    methods = " · ".join(results["methods"])
    return f"{methods} on {results['set']}" if results["set"] else methods


def _about(results: dict[str, Any], count: int) -> str:
    lines = [f"{count} pictures"]
    counts = {m: own["pictures"] for m, own in results["methods"].items()}
    lines += [f"{m} has {n} of them" for m, n in counts.items() if n != count]
    lines += [f"truths: {results['gt']}"] if results["gt"] else []
    lines += [f"{INPUT}s: {results['lr']}"] if results["lr"] else []
    return "; ".join([*lines, f"gendr_jax {results['gendr_jax']}"])


def _image(name: str, results: dict[str, Any], gallery: Gallery) -> dict[str, Any]:
    thumb = gallery.thumbs.get(name)
    return {
        "name": name,
        "thumb": thumb and _uri("image/jpeg", thumb),
        "values": [
            [own["images"].get(name, {}).get(metric) for metric in results["order"]]
            for own in results["methods"].values()
        ],
    }


def _uri(kind: str, file: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(file).decode('ascii')}"
