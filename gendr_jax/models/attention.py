"""`attend`: attention by the fastest kernel for platform and shape.

GPU with half precision: cuDNN's flash kernel. TPU with many queries: the Pallas splash
kernel. CPU with many scores: head by head (attention_blocks.py).
Otherwise XLA, in chunks of queries if the score matrix would be large (the VAE's single
512-wide head). All variants compute softmax in float32.

Under a mesh each device computes its own samples, with a `space` axis its own queries
against all keys, and with a `model` axis its own heads or queries; by shard_map, since
the partitioner cannot split Pallas and cuDNN kernels.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gendr_jax.models import platform, tensor_axis
from gendr_jax.models.attention_blocks import attend_blocks

# Larger score matrices are computed in chunks (64 Mi float32 = 256 MiB).
MAX_SCORES = 64 * 2**20
FLASH_MIN_TOKENS = 256
FLASH_BLOCK, FLASH_UNIT = 512, 128
KEYS_BACKWARD = 2048  # so many of up to 128 channels; 4096 do not fit a v5e's VMEM
CUDNN_MAX_HEAD = 128
# Number of scores of one head above which blocks are faster on a CPU.
BLOCKS_MIN_SCORES = 256 * 256
# Names of mesh axes (sharding/mesh.py), used if a mesh is current.
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
        by_heads: split heads over a mesh axis `model` if it divides them, else queries.

    Returns: [B, L, N, D] in q's dtype.
    """
    (batch, length, heads), shape = q_blnd.shape[:3], _free_axes()
    local = functools.partial(_attend_local, alone=platform.alone())
    spec = _spec(batch, heads if by_heads else 1, shape)
    if spec is None:
        return local(q_blnd, k_blnd, v_blnd)
    rows, queries, over_heads = spec
    query_spec = PartitionSpec(rows, queries or None, over_heads)
    key_spec = PartitionSpec(rows, None, over_heads)  # every query needs all keys
    # The deepest maps may have fewer queries than there are devices.
    pad = -length % math.prod(shape[name] for name in queries)
    q = jnp.pad(q_blnd, ((0, 0), (0, pad), (0, 0), (0, 0)))
    out = jax.shard_map(
        local,
        in_specs=(query_spec, key_spec, key_spec),
        out_specs=query_spec,
        check_vma=False,
    )(q, k_blnd, v_blnd)
    return out[:, :length]


def _free_axes() -> dict[str, int]:
    """Sizes of the current mesh's axes, without those of an outer shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    return {n: mesh.shape[n] for n in mesh.axis_names if n not in mesh.manual_axes}


def _spec(
    batch: int, heads: int, shape: dict[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...], str | None] | None:
    """Mesh axes of samples, queries and heads; None: no shard_map is needed.

    XLA's partitioner splits plain attention over samples well, so shard_map is used
    only for kernels, and for queries or heads over other axes.
    """
    if not shape:
        return None
    split_axes = [SPACE] if shape.get(SPACE, 1) > 1 else []
    split_axes += [MODEL] if tensor_axis.axis_size() > 1 else []
    # shard_map's backward pass sums over axes missing from the spec, so axes of size
    # one are named too.
    batch_axes = {*BATCH_AXES, SPACE}.difference(split_axes)
    rows = tuple(name for name in shape if name in batch_axes or shape[name] == 1)
    if batch % math.prod(shape[name] for name in rows) or (
        not split_axes and platform.platform() == "cpu"
    ):
        return None
    over_heads = MODEL if MODEL in split_axes and heads % shape[MODEL] == 0 else None
    queries = tuple(name for name in split_axes if name != over_heads)
    return rows, queries, over_heads


def _attend_local(q_blnd, k_blnd, v_blnd, alone):
    """Attention on the arrays of one device, by the kernel for platform and shape."""
    batch, length, heads, width = q_blnd.shape
    keys, platform_name = k_blnd.shape[1], platform.platform()
    half = q_blnd.dtype in (jnp.bfloat16, jnp.float16)
    if platform_name == "gpu" and half and width <= CUDNN_MAX_HEAD and width % 8 == 0:
        return jax.nn.dot_product_attention(
            q_blnd, k_blnd, v_blnd, implementation="cudnn"
        )
    if platform_name == "tpu" and length >= FLASH_MIN_TOKENS and width <= 256:
        return flash_tpu_local(q_blnd, k_blnd, v_blnd)
    # No loops in programs of several CPU devices, which wait for each other: they share
    # few threads, and loops are suspected of deadlocking them.
    if platform_name == "cpu" and alone and length * keys >= BLOCKS_MIN_SCORES:
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
    attend_chunk = jax.checkpoint(lambda q: _attend_xla(q, k_blnd, v_blnd))
    out = jnp.moveaxis(jax.lax.map(attend_chunk, chunks), 0, 1)
    return out.reshape(batch, count * chunk, heads, -1)[:, :length]


def _attend_xla(q_blnd, k_blnd, v_blnd):
    return jax.nn.dot_product_attention(q_blnd, k_blnd, v_blnd, implementation="xla")


def flash_tpu_local(q_blnd, k_blnd, v_blnd):
    """The TPU's splash kernel on local arrays; lengths are padded and masked.

    Unlike JAX's flash kernel it has one fused backward kernel, and does not store
    softmax sums broadcast over lanes for it.
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
            block_kv_dkv=_keys_backward(size[1], width),
            block_kv_dkv_compute=bk,
            use_fused_bwd_kernel=True,
            # Channels of a head are fewer than the 128 lanes of a tile: with tokens
            # along the lanes nothing is padded, and XLA needs fewer copies around.
            q_layout=splash.QKVLayout.SEQ_MINOR,
            k_layout=splash.QKVLayout.SEQ_MINOR,
            v_layout=splash.QKVLayout.SEQ_MINOR,
        ),
    )
    out = jax.vmap(kernel)(q, k, v, ids)
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(q_blnd.dtype)


def _keys_backward(length: int, width: int) -> int:
    """How many keys the backward kernel holds at a time.

    It sums the gradient of the queries over them on the chip, and writes one partial
    sum to HBM for each such block of keys.
    """
    blocks = max(length // FLASH_BLOCK, 1)
    limit = max(KEYS_BACKWARD * 128 // max(width, 128) // FLASH_BLOCK, 1)
    divisor = max(n for n in range(1, limit + 1) if blocks % n == 0)
    return divisor * min(FLASH_BLOCK, length)


def _padded(x_blnd):
    """[B, N, L', D] with L' a multiple of the block, and segment ids of the padding.

    Fewer tokens than a block, such as a prompt, are one block of their own size.
    """
    batch, length = x_blnd.shape[:2]
    pad = -length % (FLASH_BLOCK if length > FLASH_BLOCK else FLASH_UNIT)
    x = jnp.pad(jnp.swapaxes(x_blnd, 1, 2), ((0, 0), (0, 0), (0, pad), (0, 0)))
    ids = jnp.broadcast_to(jnp.arange(length + pad) >= length, (batch, length + pad))
    return x, ids.astype(jnp.int32)
