"""What `gendr quickstart` leaves behind: one picture, one log, one weights folder.

Low quality | bicubic | GenDR | truth, with PSNR, of the photograph held out from
training. Training and restoring themselves are elsewhere.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gendr_jax import metrics
from gendr_jax.data import photos
from gendr_jax.data.degrade import degrade, recipe
from gendr_jax.image_io import sheets
from gendr_jax.image_io.resize import bicubic
from gendr_jax.restore.pipeline import Restorer

SCALE, SEED, SIDE = 4, 7, 256


def draw(workdir: Path) -> tuple[float, float]:
    """Write comparison.png; PSNR in dB of bicubic and of GenDR (luma, no border)."""
    truth = _held_out()
    key = jax.random.key(SEED)[None]
    unit = truth[None].astype(np.float32) / 255.0
    low = np.asarray(degrade(key, unit, recipe(), SCALE))[0]
    low = np.round(low * 255.0).astype(np.uint8)
    restorer = Restorer.from_pretrained(workdir / "weights", dtype="float32")
    ours = restorer(low, scale=SCALE)
    plain = np.clip(bicubic(low.astype(np.float32) / 255.0, truth.shape[:2]), 0.0, 1.0)
    plain = np.round(plain * 255.0).astype(np.uint8)
    scores = [float(metrics.psnr(image, truth)) for image in (plain, ours)]
    blocks = np.repeat(np.repeat(low, SCALE, axis=0), SCALE, axis=1)
    pictures = {
        f"low quality {low.shape[1]}x{low.shape[0]}": blocks,
        f"bicubic {scores[0]:.2f} dB": plain,
        f"GenDR {scores[1]:.2f} dB": ours,
        "truth": truth,
    }
    sheets.save(sheets.strip(pictures), workdir / "comparison.png")
    return scores[0], scores[1]


def collect(workdir: Path, stages: list[str], seconds: float) -> None:
    """One metrics.jsonl, run.json and weights folder for the stages' three."""
    lines, runs = [], {}
    for stage in stages:
        for line in (workdir / stage / "metrics.jsonl").read_text().splitlines():
            lines.append(json.dumps({"stage": stage, **json.loads(line)}))
        runs[stage] = json.loads((workdir / stage / "run.json").read_text())
    _write(workdir / "metrics.jsonl", "\n".join(lines) + "\n")
    summary: dict[str, Any] = {"seconds": round(seconds, 1), "stages": runs}
    _write(workdir / "run.json", json.dumps(summary, indent=2) + "\n")
    fresh = workdir / ".weights.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(workdir / stages[-1] / "weights", fresh)
    shutil.rmtree(workdir / "weights", ignore_errors=True)
    os.replace(fresh, workdir / "weights")


def _held_out() -> np.ndarray:
    """The middle of the photograph that training has not seen, HWC uint8."""
    image = dict(photos.photographs())[photos.HELD_OUT]
    top, left = ((n - SIDE) // 2 for n in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
