"""The comparison image of `gendr quickstart`: LQ | bicubic | GenDR | truth, with PSNR.

It shows four photographs for the shipped weights, and for `--train` the photograph held
out from training; for `--train` logs and weights of the stages are also collected here.
"""

import dataclasses
import json
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
from gendr_jax.own_outputs import OwnOutputs
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.weights.resolve import DEFAULT

SCALE, SEED, SIDE = 4, 7, 256
SHOWN = ("astronaut", "chelsea", "coffee", "rocket")
PICTURE, WEIGHTS, LOG, RUN = "comparison.png", "weights", "metrics.jsonl", "run.json"
COLLECTED = (LOG, RUN, WEIGHTS)  # made from those of the three stages


@dataclasses.dataclass(frozen=True)
class Shown:
    """A photograph, its LQ image and two enlargements; HWC uint8, PSNR in dB."""

    name: str
    low: np.ndarray
    plain: np.ndarray
    restored: np.ndarray
    truth: np.ndarray

    @property
    def bicubic(self) -> float:
        return float(metrics.psnr(self.plain, self.truth))

    @property
    def ours(self) -> float:
        return float(metrics.psnr(self.restored, self.truth))

    def panels(self) -> dict[str, np.ndarray]:
        """The images by title, left to right."""
        blocks = np.repeat(np.repeat(self.low, SCALE, axis=0), SCALE, axis=1)
        return {
            f"low quality {self.low.shape[1]}x{self.low.shape[0]}": blocks,
            f"bicubic {self.bicubic:.2f} dB": self.plain,
            f"GenDR {self.ours:.2f} dB": self.restored,
            "truth": self.truth,
        }


def shipped() -> list[Shown]:
    """Photographs of scikit-image, degraded, and restored by the shipped weights.

    None of them was used in training; the images are equal in every run.

    Raises:
        UsageError: scikit-image is not installed.
    """
    pictures = dict(photos.photographs())
    return restored([_centre(pictures[name]) for name in SHOWN], SHOWN)


def restored(
    truths: list[np.ndarray], names: tuple[str, ...], weights: Path | str = DEFAULT
) -> list[Shown]:
    """Degrade squares of SIDE pixels with the preset `realesrgan`; restore them."""
    keys = jax.random.split(jax.random.key(SEED), len(truths))
    unit = np.stack(truths).astype(np.float32) / 255.0
    lows = np.asarray(degrade(keys, unit, recipe("realesrgan"), SCALE))
    lows = np.round(lows * 255.0).astype(np.uint8)
    restored_images: Any = Restorer.from_pretrained(weights, "float32")(
        list(lows), scale=SCALE
    )
    results: list[np.ndarray] = list(restored_images)
    plains = [_enlarged(low, truths[0].shape[:2]) for low in lows]
    rows = zip(names, lows, plains, results, truths, strict=True)
    return [Shown(*row) for row in rows]


def means(shown: list[Shown]) -> tuple[float, float]:
    """Mean PSNR in dB of bicubic enlargement and of GenDR."""
    count = len(shown)
    return sum(e.bicubic for e in shown) / count, sum(e.ours for e in shown) / count


def save_rows(shown: list[Shown], path: Path) -> None:
    """Write one image with a row for each photograph."""
    sheets.save(
        sheets.stack([sheets.strip(example.panels()) for example in shown]), path
    )


def outputs(workdir: Path) -> OwnOutputs:
    """The files that quickstart itself has made there; only these are replaced."""
    return OwnOutputs(workdir, "Choose an empty folder with --workdir.")


def save_picture(shown: list[Shown], workdir: Path) -> Path:
    """Write comparison.png and return its path.

    Raises:
        UsageError: a file of that name exists that quickstart has not made.
    """
    with outputs(workdir).replacing(PICTURE) as temporary:
        save_rows(shown, temporary)
    return workdir / PICTURE


def draw(workdir: Path) -> tuple[float, float]:
    """Write comparison.png; PSNR in dB of bicubic and GenDR (luma, no crop)."""
    truth = _centre(dict(photos.photographs())[photos.HELD_OUT])
    shown = restored([truth], (photos.HELD_OUT,), workdir / WEIGHTS)
    save_picture(shown, workdir)
    return means(shown)


def collect(workdir: Path, stages: list[str], seconds: float) -> None:
    """Merge metrics.jsonl and run.json of all stages; copy the weights of the last.

    Raises:
        UsageError: one of them exists and quickstart has not made it.
    """
    own = outputs(workdir)
    own.refuse_foreign(COLLECTED)
    lines, runs = [], {}
    for stage in stages:
        for line in (workdir / stage / "metrics.jsonl").read_text().splitlines():
            lines.append(json.dumps({"stage": stage, **json.loads(line)}))
        runs[stage] = json.loads((workdir / stage / "run.json").read_text())
    with own.replacing(LOG) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    summary: dict[str, Any] = {"seconds": round(seconds, 1), "stages": runs}
    with own.replacing(RUN) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    with own.replacing(WEIGHTS, folder=True) as temporary:
        shutil.copytree(workdir / stages[-1] / "weights", temporary, dirs_exist_ok=True)


def _centre(image: np.ndarray) -> np.ndarray:
    """The centre crop of a photograph, HWC uint8."""
    top, left = ((n - SIDE) // 2 for n in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def _enlarged(low: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    plain = np.clip(bicubic(low.astype(np.float32) / 255.0, size_hw), 0.0, 1.0)
    return np.round(plain * 255.0).astype(np.uint8)
