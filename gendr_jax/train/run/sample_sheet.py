"""Contact sheets of a stage's sample pictures, of the same few samples each time."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.image_io.sheets import contact_sheet
from gendr_jax.train.run.feed import Batches, first_rows
from gendr_jax.train.stage import Frozen, Stage, State


class Sampler:
    """Draws `rows` samples of the very first batch; reads and compiles at first use."""

    def __init__(
        self, stage: Stage, batches: Batches, rows: int, mesh: Mesh, key: jax.Array
    ):
        self._batches, self._rows, self._mesh, self._key = batches, rows, mesh, key
        self._titles, self._sample = _jitted(stage, rows, mesh)
        self._batch: Any = None

    def sheet(self, step: int, state: State, frozen: Frozen) -> np.ndarray:
        """The sheet after `step`, uint8 [height, width, 3]; all processes call this."""
        if self._batch is None:
            self._batch = first_rows(self._batches, self._mesh, self._rows)
        columns = self._sample(state, frozen, self._batch, self._key)
        images = [np.asarray(images, np.float32) for images in columns]
        titled = dict(zip(self._titles, images, strict=True))
        return contact_sheet(titled, caption=f"step {step}")


def _jitted(stage: Stage, rows: int, mesh: Mesh) -> tuple[list[str], Any]:
    """(titles, jitted function): the columns as a list, for jit sorts dicts by key."""
    titles: list[str] = []

    def sample(*args: Any) -> list[jax.Array]:
        columns = stage.sample(*args)
        titles[:] = columns
        return [images_bhwc[:rows] for images_bhwc in columns.values()]

    return titles, jax.jit(sample, out_shardings=sharding.replicated(mesh))
