"""Measured peak FLOP/s of matrix products on a device.

Utilisation relative to this figure does not depend on data sheets. Square matrices are
enlarged until one product takes long enough to use the device fully.
"""

import jax
import jax.numpy as jnp

from gendr_jax.bench import timing

LONG_ENOUGH = 0.02  # seconds
LARGEST = 16384
FIRST = 512
CALLS = 5


def matmul_ceiling(dtype: str, device: jax.Device) -> float:
    """FLOP/s of the fastest product in this dtype, at the precision of passes.

    The fastest of a few calls counts, as only other programs make a call slower.
    """
    precision = "highest" if dtype == "float32" else "default"
    side, best = FIRST, 0.0
    while True:
        x = jax.device_put(jnp.full((side, side), 1 / side, dtype), device)
        program = jax.jit(lambda a, b: jnp.dot(a, b, precision=precision))
        call = lambda x=x, run=program: jax.block_until_ready(run(x, x))  # noqa: E731
        taken = timing.in_turn({"": call}, CALLS)[""].best
        best = max(best, 2 * side**3 / taken)
        if taken > LONG_ENOUGH or side >= LARGEST:
            return best
        side *= 2
