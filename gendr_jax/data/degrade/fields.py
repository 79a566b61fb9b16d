"""Fields of standard normals that do not depend on the canvas they are drawn for.

The value at a channel, row and column is a function of the key and these three numbers
(a counter-based generator), so a picture gets the same noise on every canvas. The bits
are Threefry-2x32 with 20 rounds (Salmon et al., 2011), as in `jax.random`, written out
here because XLA then fuses it into one loop; `jax.random.bits` takes four times as long
on a CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
# The counter is (4 row + channel, column), so pictures have four channels at most.
CHANNELS = 4


def normals(source: jax.Array, channels: int, canvas: tuple[int, int]) -> jax.Array:
    """A field of standard normals, [channels, *canvas].

    Args:
      source: a typed key, or a field chw that is cut to that size.
    """
    if not jnp.issubdtype(source.dtype, jax.dtypes.prng_key):
        return source[:channels, : canvas[0], : canvas[1]]
    assert channels <= CHANNELS, channels
    key = jax.random.bits(source, (2,), jnp.uint32)
    shape = (channels, *canvas)
    channel, row, column = (
        jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(3)
    )
    high, low = threefry(key[0], key[1], row * np.uint32(CHANNELS) + channel, column)
    return _normal(high ^ low)


def threefry(
    key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Two words of Threefry-2x32-20 for each counter (x0, x1), all uint32."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _normal(bits: jax.Array) -> jax.Array:
    """Standard normals by the inverse error function of the upper 23 bits."""
    # The exponent of 1.0 and 23 random mantissa bits: uniform in [1, 2).
    one_bits = np.float32(1.0).view(np.uint32)
    unit = (
        jax.lax.bitcast_convert_type((bits >> np.uint32(9)) | one_bits, jnp.float32) - 1
    )
    # in (-1, 1), shifted by half a step so that erf_inv is finite
    uniform = 2.0 * unit - np.float32(1.0 - 2.0**-23)
    return np.float32(np.sqrt(2.0)) * jax.lax.erf_inv(uniform)
