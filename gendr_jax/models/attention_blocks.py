"""Exact attention for CPUs, by blocks of queries of one head.

XLA on a CPU keeps the scores of all heads in memory (336 MB for SD2.1's first level at
512 x 512 pixels) and reads them four times. The scores of one block stay in the cache:
three to four times as fast (docs/tiling.md).
"""

import jax
import jax.numpy as jnp

# Queries of one block: 8 MiB of float32 scores with 4096 keys.
BLOCK = 512


def attend_blocks(
    q_blnd: jax.Array, k_blnd: jax.Array, v_blnd: jax.Array, block: int = BLOCK
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, one block of queries of one head at a time.

    The batch stays an axis of every product, so that a batch that is split over devices
    stays split. Scores and softmax are float32, and recomputed in the backward pass.

    Args: q [B, L, N, D]; k, v [B, M, N, D]. Returns [B, L, N, D] in q's dtype.
    """
    batch, length, heads, width = q_blnd.shape
    block = min(block, length)
    count = -(-length // block)
    padding = ((0, 0), (0, count * block - length), (0, 0), (0, 0))
    q = jnp.pad(q_blnd, padding).reshape(batch, count, block, heads, width)
    q_ncbqd = q.transpose(3, 1, 0, 2, 4)
    k_nbdm, v_nbmd = k_blnd.transpose(2, 0, 3, 1), v_blnd.transpose(2, 0, 1, 3)

    @jax.checkpoint
    def attend_block(q_bqd, k_bdm, v_bmd):
        scores = _product("bqd,bdm->bqm", q_bqd, k_bdm) * width**-0.5
        scores -= jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores)
        total = jnp.sum(weights, -1, keepdims=True)
        return _product("bqm,bmd->bqd", weights.astype(v_bmd.dtype), v_bmd) / total

    def attend_head(head_arrays):
        q_cbqd, k_bdm, v_bmd = head_arrays
        return jax.lax.map(lambda q: attend_block(q, k_bdm, v_bmd), q_cbqd)

    out_ncbqd = jax.lax.map(attend_head, (q_ncbqd, k_nbdm, v_nbmd))
    out = out_ncbqd.transpose(2, 1, 3, 0, 4).reshape(batch, count * block, heads, -1)
    return out[:, :length].astype(q_blnd.dtype)


def _product(subscripts, a, b):
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)
