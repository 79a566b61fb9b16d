"""The one attention function; it picks the best kernel for platform and shape.

GPU with half precision: cuDNN's flash kernel. TPU with long self-attention: the
Pallas flash kernel, inside a shard_map over whatever mesh is current. CPU with many
scores: head by head (attention_blocks.py). Otherwise XLA, and query by query chunks
when the score matrix would be large (the VAE's single 512-wide head). All variants
compute softmax in float32. Where a picture is spread over devices (mesh axis `space`),
each device attends with its own queries to all keys.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gendr_jax.models.attention_blocks import attend_blocks

# Scores above this many numbers are never formed at once (64 Mi float32 = 256 MiB).
MAX_SCORES = 64 * 2**20
FLASH_MIN_TOKENS = 1024
FLASH_BLOCK = 512
CUDNN_MAX_HEAD = 128
# Scores of one head from which blocks are faster on a CPU.
BLOCKS_MIN_SCORES = 256 * 256


def attend(q_blnd: jax.Array, k_blnd: jax.Array, v_blnd: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v per head.

    Args: q [B, L, N, D]; k, v [B, M, N, D]. Returns [B, L, N, D] in q's dtype.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("space", 1) > 1 and "space" not in mesh.manual_axes:
        return _attend_space(q_blnd, k_blnd, v_blnd, mesh)
    if platform() == "tpu" and _suits_flash(q_blnd, k_blnd):
        return _flash_tpu(q_blnd, k_blnd, v_blnd)
    return _attend_here(q_blnd, k_blnd, v_blnd)


def _attend_here(q_blnd, k_blnd, v_blnd):
    """On arrays of one device, or that the partitioner may split as it likes."""
    batch, length, heads, width = q_blnd.shape
    keys, where = k_blnd.shape[1], platform()
    half = q_blnd.dtype in (jnp.bfloat16, jnp.float16)
    if where == "gpu" and half and width <= CUDNN_MAX_HEAD and width % 8 == 0:
        return jax.nn.dot_product_attention(
            q_blnd, k_blnd, v_blnd, implementation="cudnn"
        )
    # Loops of several programs at once have been seen to block XLA's threads on a CPU:
    # with more than one device there are none.
    one = jax.device_count() == 1
    if where == "cpu" and one and length * keys >= BLOCKS_MIN_SCORES:
        return attend_blocks(q_blnd, k_blnd, v_blnd)
    if batch * heads * length * keys > MAX_SCORES:
        return attend_chunked(q_blnd, k_blnd, v_blnd)
    return _attend_xla(q_blnd, k_blnd, v_blnd)


def _suits_flash(q_blnd, k_blnd):
    tokens = min(q_blnd.shape[1], k_blnd.shape[1])
    return tokens >= FLASH_MIN_TOKENS and q_blnd.shape[-1] <= 256


def _attend_space(q_blnd, k_blnd, v_blnd, mesh):
    """Queries stay where their rows of the picture are; keys and values are gathered.

    Without the shard_map the partitioner would gather the scores.
    """
    batch_axes = tuple(name for name in mesh.axis_names if name != "space")
    pad = -q_blnd.shape[1] % mesh.shape["space"]  # the deepest maps have few rows
    q = jnp.pad(q_blnd, ((0, 0), (0, pad), (0, 0), (0, 0)))
    split, whole = PartitionSpec(batch_axes, "space"), PartitionSpec(batch_axes)
    # The shards are the kernel's own, as in _flash_tpu.
    flash = platform() == "tpu" and _suits_flash(q_blnd, k_blnd)
    local = flash_tpu_local if flash else _attend_here
    out = jax.shard_map(
        local, in_specs=(split, whole, whole), out_specs=split, check_vma=False
    )(q, k_blnd, v_blnd)
    return out[:, : q_blnd.shape[1]]


def platform() -> str:
    """ "cpu", "gpu" or "tpu": the current mesh's, else the default backend's.

    The mesh decides so that a program can be compiled for devices that are not here.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    name = getattr(device, "platform", None) or jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


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


def _flash_tpu(q_blnd, k_blnd, v_blnd):
    """Pallas kernels see one device's shard only, hence the shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    axes = tuple(name for name in ("data", "fsdp") if name in free)
    if not axes:
        return flash_tpu_local(q_blnd, k_blnd, v_blnd)
    spec = PartitionSpec(axes, None, None, None)
    return jax.shard_map(
        flash_tpu_local, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
    )(q_blnd, k_blnd, v_blnd)


def flash_tpu_local(q_blnd, k_blnd, v_blnd):
    """The TPU flash kernel on local arrays; lengths are padded and masked."""
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    length, keys = q_blnd.shape[1], k_blnd.shape[1]
    q, q_ids = _padded(q_blnd)
    k, k_ids = _padded(k_blnd)
    v, _ = _padded(v_blnd)
    masked = q.shape[2] != length or k.shape[2] != keys
    ids = flash.SegmentIds(q=q_ids, kv=k_ids) if masked else None
    block = functools.partial(min, FLASH_BLOCK)
    bq, bk = block(q.shape[2]), block(k.shape[2])
    sizes = flash.BlockSizes(
        block_q=bq,
        block_k_major=bk,
        block_k=bk,
        block_b=1,
        block_q_major_dkv=bq,
        block_k_major_dkv=bk,
        block_k_dkv=bk,
        block_q_dkv=bq,
        block_k_major_dq=bk,
        block_k_dq=bk,
        block_q_dq=bq,
    )
    scale = q_blnd.shape[-1] ** -0.5
    out = flash.flash_attention(
        q, k, v, segment_ids=ids, sm_scale=scale, block_sizes=sizes
    )
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(q_blnd.dtype)


def _padded(x_blnd):
    """[B, N, L', D] with L' a multiple of the block, and ids that mark the padding."""
    batch, length = x_blnd.shape[:2]
    pad = -length % FLASH_BLOCK
    x = jnp.pad(jnp.swapaxes(x_blnd, 1, 2), ((0, 0), (0, 0), (0, pad), (0, 0)))
    ids = jnp.broadcast_to(jnp.arange(length + pad) >= length, (batch, length + pad))
    return x, ids.astype(jnp.int32)
