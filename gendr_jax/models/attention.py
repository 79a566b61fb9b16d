"""The one attention function; it picks the best kernel for platform and shape.

GPU with half precision: cuDNN's flash kernel. TPU with many queries: the Pallas splash
kernel. CPU with many scores: head by head (attention_blocks.py).
Otherwise XLA, and query by query chunks when the score matrix would be large (the
VAE's single 512-wide head). All variants compute softmax in float32.

Under a mesh each device works on its own samples, with a `space` axis on its own
queries against all keys, and with a `model` axis on its own heads or queries; all by
shard_map, which kernels need and which leaves the partitioner nothing to guess.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gendr_jax.models import platform, tensor_axis
from gendr_jax.models.attention_blocks import attend_blocks

# Scores above this many numbers are never formed at once (64 Mi float32 = 256 MiB).
MAX_SCORES = 64 * 2**20
FLASH_MIN_TOKENS = 256
FLASH_BLOCK, FLASH_UNIT = 512, 128
CUDNN_MAX_HEAD = 128
# Scores of one head from which blocks are faster on a CPU.
BLOCKS_MIN_SCORES = 256 * 256
# Names of mesh axes, should a mesh be current (sharding/mesh.py).
BATCH_AXES, SPACE, MODEL = ("dcn", "data", "fsdp_outer", "fsdp"), "space", "model"


def attend(
    q_blnd: jax.Array,
    k_blnd: jax.Array,
    v_blnd: jax.Array,
    *,
    by_heads: bool = True,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v per head.

    Args:
        q_blnd: [B, L, N, D].
        k_blnd: [B, M, N, D].
        v_blnd: as k.
        by_heads: let a mesh axis `model` split heads where it divides them, else
            queries.

    Returns: [B, L, N, D] in q's dtype.
    """
    (batch, length, heads), shape = q_blnd.shape[:3], _free_axes()
    local = functools.partial(_attend_local, alone=platform.alone())
    spec = _spec(batch, heads if by_heads else 1, shape)
    if spec is None:
        return local(q_blnd, k_blnd, v_blnd)
    rows, queries, over_heads = spec
    split = PartitionSpec(rows, queries or None, over_heads)
    whole = PartitionSpec(rows, None, over_heads)  # every query looks at all keys
    # The deepest maps may have fewer queries than there are devices.
    pad = -length % math.prod(shape[name] for name in queries)
    q = jnp.pad(q_blnd, ((0, 0), (0, pad), (0, 0), (0, 0)))
    out = jax.shard_map(
        local, in_specs=(split, whole, whole), out_specs=split, check_vma=False
    )(q, k_blnd, v_blnd)
    return out[:, :length]


def _free_axes() -> dict[str, int]:
    """Sizes of the current mesh's axes, but for those of an outer shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    return {n: mesh.shape[n] for n in mesh.axis_names if n not in mesh.manual_axes}


def _spec(
    batch: int, heads: int, shape: dict[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...], str | None] | None:
    """The axes of samples, queries and heads; None: nothing is split by hand.

    Plain XLA attention is left to the partitioner, which splits samples well; kernels
    and queries or heads split over other axes are not.
    """
    if not shape:
        return None
    others = [SPACE] if shape.get(SPACE, 1) > 1 else []
    others += [MODEL] if tensor_axis.parts() > 1 else []
    # An axis that is not named would be summed over in the backward pass, of size one
    # as well.
    known = {*BATCH_AXES, SPACE}.difference(others)
    rows = tuple(name for name in shape if name in known or shape[name] == 1)
    if batch % math.prod(shape[name] for name in rows) or (
        not others and platform.platform() == "cpu"
    ):
        return None
    over_heads = MODEL if MODEL in others and heads % shape[MODEL] == 0 else None
    queries = tuple(name for name in others if name != over_heads)
    return rows, queries, over_heads


def _attend_local(q_blnd, k_blnd, v_blnd, alone):
    """On the arrays of one device: the kernel for its platform and shape."""
    batch, length, heads, width = q_blnd.shape
    keys, where = k_blnd.shape[1], platform.platform()
    half = q_blnd.dtype in (jnp.bfloat16, jnp.float16)
    if where == "gpu" and half and width <= CUDNN_MAX_HEAD and width % 8 == 0:
        return jax.nn.dot_product_attention(
            q_blnd, k_blnd, v_blnd, implementation="cudnn"
        )
    if where == "tpu" and length >= FLASH_MIN_TOKENS and width <= 256:
        return flash_tpu_local(q_blnd, k_blnd, v_blnd)
    # Loops in programs that wait for each other are suspected of blocking XLA's threads
    # on a CPU, where many devices share few: those have none.
    if where == "cpu" and alone and length * keys >= BLOCKS_MIN_SCORES:
        return attend_blocks(q_blnd, k_blnd, v_blnd)
    if batch * heads * length * keys > MAX_SCORES:
        return attend_chunked(q_blnd, k_blnd, v_blnd)
    return _attend_xla(q_blnd, k_blnd, v_blnd)


def attend_chunked(
    q_blnd: jax.Array, k_blnd: jax.Array, v_blnd: jax.Array, chunk: int | None = None
) -> jax.Array:
    """Exact attention, ``chunk`` queries at a time; scores are recomputed backward.

    Memory grows with the number of keys, not with its product with the queries.
    """
    batch, length, heads, _ = q_blnd.shape
    if chunk is None:
        chunk = max(1, MAX_SCORES // (batch * heads * k_blnd.shape[1]))
    chunk = min(chunk, length)
    count = -(-length // chunk)
    pad = count * chunk - length
    padded = jnp.pad(q_blnd, ((0, 0), (0, pad), (0, 0), (0, 0)))
    chunks = jnp.moveaxis(padded.reshape(batch, count, chunk, heads, -1), 1, 0)
    part = jax.checkpoint(lambda q: _attend_xla(q, k_blnd, v_blnd))
    out = jnp.moveaxis(jax.lax.map(part, chunks), 0, 1)
    return out.reshape(batch, count * chunk, heads, -1)[:, :length]


def _attend_xla(q_blnd, k_blnd, v_blnd):
    return jax.nn.dot_product_attention(q_blnd, k_blnd, v_blnd, implementation="xla")


def flash_tpu_local(q_blnd, k_blnd, v_blnd):
    """The TPU's splash kernel on local arrays; lengths are padded and masked.

    Of the two kernels that come with JAX it is the one that stores no sums spread over
    lanes for the backward pass, which it does in one kernel.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    length, heads, width = q_blnd.shape[1:]
    q, q_ids = _padded(q_blnd * jnp.asarray(width**-0.5, q_blnd.dtype))
    k, k_ids = _padded(k_blnd)
    v, _ = _padded(v_blnd)
    size = q.shape[2], k.shape[2]
    padded = size != (length, k_blnd.shape[1])
    ids = splash.SegmentIds(q=q_ids, kv=k_ids) if padded else None
    bq, bk = (min(FLASH_BLOCK, n) for n in size)  # `_padded` makes them divide
    kernel = splash.make_splash_mha(
        mask=masks.MultiHeadMask([masks.FullMask(size) for _ in range(heads)]),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash.BlockSizes(
            block_q=bq,
            block_kv=bk,
            block_kv_compute=bk,
            block_q_dkv=bq,
            block_kv_dkv=bk,
            block_kv_dkv_compute=bk,
            use_fused_bwd_kernel=True,
        ),
    )
    out = jax.vmap(kernel)(q, k, v, ids)
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(q_blnd.dtype)


def _padded(x_blnd):
    """[B, N, L', D] with L' a multiple of the block, and ids that mark the padding.

    Less than one block, as the words of a prompt are, is one block of its own size.
    """
    batch, length = x_blnd.shape[:2]
    pad = -length % (FLASH_BLOCK if length > FLASH_BLOCK else FLASH_UNIT)
    x = jnp.pad(jnp.swapaxes(x_blnd, 1, 2), ((0, 0), (0, 0), (0, pad), (0, 0)))
    ids = jnp.broadcast_to(jnp.arange(length + pad) >= length, (batch, length + pad))
    return x, ids.astype(jnp.int32)
