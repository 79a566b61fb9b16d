"""Low-rank adapters (LoRA) in PEFT's layout.

An adapter is a side path inside ``Linear`` and ``Conv``: y += alpha/rank * B(A(x)),
with A of kernel kxk to ``rank`` channels and B of 1x1. Base weights stay separate, so
training adapters alone computes no full-size weight gradient. Adapters are data, added
to the base by ``nets.overlay``; ``nets.merge_lora`` folds them into it for export.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.models.layers import Conv, Linear

# OSEDiff's targets: all attention, feed-forward, projection and convolution weights,
# without norms and time layers. 258 modules of the SD2.1 UNet.
UNET_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_out",
    "conv_shortcut",
)
ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Rank, alpha (scale = alpha/rank) and module-name suffixes to adapt."""

    rank: int = 64
    alpha: float = 128.0
    targets: tuple[str, ...] = UNET_TARGETS

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"LoRAConfig.rank is {self.rank}. Give 1 or more.")
        if not math.isfinite(self.alpha):
            raise ValueError(f"LoRAConfig.alpha is {self.alpha}. Give a number.")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Keys(Protocol):
    """The interface of `nnx.Rngs` that adapters use."""

    def params(self) -> jax.Array: ...


def attach(model: nnx.Module, config: LoRAConfig, rngs: Keys) -> int:
    """Add adapters to the matching layers of ``model``; return how many.

    A ~ N(0, 1/rank^2), B = 0 (PEFT's "gaussian" init): a new adapter changes nothing.
    """
    count = 0
    for path, layer in list(nnx.iter_modules(model)):
        if not isinstance(layer, Linear | Conv) or not _matches(path, config.targets):
            continue
        *window, cin, cout = layer.kernel[...].shape
        shape_a = (*window, cin, config.rank)
        shape_b = (*(1 for _ in window), config.rank, cout)
        draw = jax.random.normal(rngs.params(), shape_a, jnp.float32)
        layer.lora_a = nnx.Param(draw / config.rank)
        layer.lora_b = nnx.Param(jnp.zeros(shape_b, jnp.float32))
        layer.lora_scale = config.scale
        count += 1
    return count


def merge_kernel(
    kernel: jax.Array, lora_a: jax.Array, lora_b: jax.Array, scale: float
) -> jax.Array:
    """The kernel of base plus adapter, for linear layers and convolutions."""
    rank = lora_b.shape[-2]
    delta = jnp.dot(
        lora_a.astype(jnp.float32),
        lora_b.astype(jnp.float32).reshape(rank, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    return (kernel.astype(jnp.float32) + scale * delta).astype(kernel.dtype)


def _matches(path: tuple, targets: tuple[str, ...]) -> bool:
    name = ".".join(str(key) for key in path)
    return any(name == t or name.endswith("." + t) for t in targets)
