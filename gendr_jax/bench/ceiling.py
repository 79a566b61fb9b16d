"""The most that a product of matrices reaches on a device, measured.

A utilisation against this figure says what is lost beside the arithmetic, whatever a
data sheet promises. Two square matrices, of growing size until one product takes long
enough to fill the device.
"""

import jax
import jax.numpy as jnp

from gendr_jax.bench import timing

LONG_ENOUGH = 0.02  # seconds
LARGEST = 16384
FIRST = 512
CALLS = 5


def matmul_ceiling(dtype: str, device: jax.Device) -> float:
    """FLOP/s of the best product, in this dtype; the precision is that of the passes.

    The fastest of a few calls counts, since nothing but the machine's other work makes
    one slower.
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
