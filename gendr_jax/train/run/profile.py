"""JAX profiler traces of a range of steps (`config.profile`).

View the result with TensorBoard or xprof: `tensorboard --logdir WORKDIR/profile`.
"""

from pathlib import Path
from typing import Any

import jax


class Profiler:
    """Records the steps of `steps` under `folder`. Close it when done."""

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self._steps, self._folder, self._running = steps, folder, False

    def before(self, step: int, state: Any) -> None:
        """Call before each `step`; `state` is the output of the steps before it."""
        if self._steps is None:
            return
        first, last = self._steps
        if not self._running and first <= step <= last:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and step > last:
            self.close(state)

    def close(self, state: Any = None) -> None:
        """Wait for `state`, then write what was recorded."""
        if self._running:
            self._running = False
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
