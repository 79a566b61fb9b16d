"""Validation: PSNR, SSIM and L1 on held-out photographs during training."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax import metrics, sharding
from gendr_jax.image_io.sheets import contact_sheet
from gendr_jax.train.run.feed import Batches, spread
from gendr_jax.train.run.sample_sheet import Columns
from gendr_jax.train.run_settings import RunSettings
from gendr_jax.train.settings import BestBy
from gendr_jax.train.stage import Frozen, Stage, State

# Whether more is better.
HIGHER: dict[BestBy, bool] = {"psnr": True, "ssim": True, "l1": False}


@dataclass(frozen=True)
class Measured:
    """Means over the held-out pictures, as metrics, and a sheet of the first ones."""

    values: dict[str, float]
    sheet_hwc: np.ndarray


class Validation:
    """The same crops and degradations at every step; reads and compiles at first use.

    Args:
        batches: of held-out photographs, as `loop.run` takes those to train on.
        settings: `validate_count` pictures are measured, rounded up to full batches.
    """

    def __init__(
        self,
        stage: Stage,
        batches: Batches,
        settings: RunSettings,
        mesh: Mesh,
        key: jax.Array,
    ):
        self._batches, self._stage, self._mesh, self._key = batches, stage, mesh, key
        self._rows = settings.samples
        self._count = -(-settings.validate_count // settings.batch_size)
        self._columns = Columns(stage, mesh)
        self._pictures: list[Mapping[str, np.ndarray]] = []

    def measure(self, step: int, state: State, frozen: Frozen) -> Measured:
        """Restore and compare; all processes call this and get the same."""
        rows: list[tuple[float, float, float]] = []
        sheet_columns: dict[str, np.ndarray] = {}
        if not self._pictures:
            self._pictures = self._read()
        for batch in self._pictures:
            placed = spread(batch, sharding.batch_sharding(self._mesh))
            columns = self._columns(state, frozen, placed, self._key)
            sheet_columns = sheet_columns or {
                t: x[: self._rows] for t, x in columns.items()
            }
            output, truth = (columns[title] for title in self._stage.compared)
            rows += [_compare(y, x) for y, x in zip(output, truth, strict=True)]
        means = np.mean(rows, axis=0)
        values = dict(
            zip(("val_psnr", "val_ssim", "val_l1"), map(float, means), strict=True)
        )
        return Measured(
            values, contact_sheet(sheet_columns, caption=f"held out, step {step}")
        )

    def _read(self) -> list[Mapping[str, np.ndarray]]:
        reader = iter(self._batches(0))
        try:
            return [dict(next(reader)) for _ in range(self._count)]
        finally:
            close = getattr(reader, "close", None)
            if close is not None:
                close()


def better(name: BestBy, value: float, best: float | None) -> bool:
    """Whether `value` is finite and better than `best`, the best so far."""
    if not np.isfinite(value):
        return False
    if best is None:
        return True
    return value > best if HIGHER[name] else value < best


def _compare(
    output_hwc: np.ndarray, truth_hwc: np.ndarray
) -> tuple[float, float, float]:
    """PSNR and SSIM of luma as in published tables, and the mean absolute error."""
    if not np.isfinite(output_hwc).all():
        nan = float("nan")
        return nan, nan, nan
    a, b = (
        np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
        for x in (output_hwc, truth_hwc)
    )
    l1 = float(np.mean(np.abs(a.astype(np.float64) - b)) / 255)
    return metrics.psnr(a, b), metrics.ssim(a, b), l1
