"""Contact sheets of a stage's sample pictures, of the same few samples each time."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.image_io.sheets import contact_sheet
from gendr_jax.train.run.feed import Batches, first_rows
from gendr_jax.train.stage import Frozen, Stage, State


class Columns:
    """A stage's sample pictures on the host, by title and in the stage's order.

    Args:
        rows: so many of the first samples; None: all of a batch.
    """

    def __init__(self, stage: Stage, mesh: Mesh, rows: int | None = None):
        titles: list[str] = []

        def sample(*args: Any) -> list[jax.Array]:
            columns = stage.sample(*args)
            titles[:] = columns  # at trace time: jit would sort a dict by key
            return [images_bhwc[:rows] for images_bhwc in columns.values()]

        self._titles = titles
        self._sample = jax.jit(sample, out_shardings=sharding.replicated(mesh))

    def __call__(
        self, state: State, frozen: Frozen, batch: Any, key: jax.Array
    ) -> dict[str, np.ndarray]:
        """{title: image_bhwc in [0, 1], float32}; all processes call this."""
        images = self._sample(state, frozen, batch, key)
        columns = [np.asarray(image_bhwc, np.float32) for image_bhwc in images]
        return dict(zip(self._titles, columns, strict=True))


class Sampler:
    """Draws `rows` samples of the very first batch; reads and compiles at first use."""

    def __init__(
        self, stage: Stage, batches: Batches, rows: int, mesh: Mesh, key: jax.Array
    ):
        self._batches, self._rows, self._mesh, self._key = batches, rows, mesh, key
        self._columns = Columns(stage, mesh, rows)
        self._batch: Any = None

    def sheet(self, step: int, state: State, frozen: Frozen) -> np.ndarray:
        """The sheet after `step`, uint8 [height, width, 3]; all processes call this."""
        if self._batch is None:
            self._batch = first_rows(self._batches, self._mesh, self._rows)
        titled = self._columns(state, frozen, self._batch, self._key)
        return contact_sheet(titled, caption=f"step {step}")
