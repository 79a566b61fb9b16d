"""DINOv2 ViT-S/B/L with 14-pixel patches: the frozen target of feature alignment.

Attribute names follow HF transformers' Dinov2Model. The input is ImageNet-normalised
(``losses.alignment.dino_input``). ViT-g, whose feed-forward is a SwiGLU, is not
supported.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gendr_jax.models.attention import attend
from gendr_jax.models.layers import Conv, LayerArguments, LayerNorm, Linear
from gendr_jax.models.remat import Policy
from gendr_jax.models.remat import remat as recompute


@dataclasses.dataclass(frozen=True)
class DINOv2Config:
    """ViT-B/14 by default, with the 518-pixel position grid of the published files."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    image_size: int = 518
    patch_size: int = 14
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1.0
    use_mask_token: bool = True

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"DINOv2Config.hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads. Change num_attention_heads."
            )
        if self.image_size < self.patch_size:
            raise ValueError(
                f"DINOv2Config.image_size {self.image_size} is smaller than a patch of "
                f"{self.patch_size} pixels. Enlarge image_size."
            )

    @classmethod
    def small(cls) -> "DINOv2Config":
        """ViT-S/14."""
        return cls(hidden_size=384, num_attention_heads=6)

    @classmethod
    def base(cls) -> "DINOv2Config":
        """ViT-B/14, REPA's target."""
        return cls()

    @classmethod
    def large(cls) -> "DINOv2Config":
        """ViT-L/14."""
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)

    @property
    def grid(self) -> int:
        """Side of the stored position grid, in patches."""
        return self.image_size // self.patch_size


class PatchEmbeddings(nnx.Module):
    """One token per patch: a convolution whose stride is its kernel."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        p = config.patch_size
        self.projection = Conv(
            3, config.hidden_size, p, stride=p, padding=0, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.projection(x)


class Embeddings(nnx.Module):
    """CLS token, patches, positions; the mask token is for pre-training, unused."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        d, grid = config.hidden_size, config.grid
        draw = nnx.initializers.truncated_normal(0.02)
        self.cls_token = nnx.Param(draw(rngs.params(), (1, 1, d), jnp.float32))
        self.mask_token = (
            nnx.Param(jnp.zeros((1, d), jnp.float32)) if config.use_mask_token else None
        )
        self.position_embeddings = nnx.Param(
            draw(rngs.params(), (1, 1 + grid * grid, d), jnp.float32)
        )
        self.patch_embeddings = PatchEmbeddings(config, dtype=dtype, rngs=rngs)
        self.grid, self.dtype = grid, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        patches = self.patch_embeddings(x)  # B h w D
        b, h, w, d = patches.shape
        positions = self.position_embeddings[...].astype(jnp.float32)
        table = positions[0, 1:].reshape(self.grid, self.grid, d)
        table = resample_positions(table, (h, w)).reshape(1, h * w, d)
        tokens = patches.reshape(b, h * w, d) + table.astype(self.dtype)
        cls = self.cls_token[...].astype(jnp.float32) + positions[:, :1]
        cls = jnp.broadcast_to(cls.astype(self.dtype), (b, 1, d))
        return jnp.concatenate([cls, tokens], axis=1)


class SelfAttention(nnx.Module):
    """Query, key and value projections, and attention."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        d = config.hidden_size
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        bias = config.qkv_bias
        self.query = Linear(d, d, bias=bias, **kw)
        self.key = Linear(d, d, bias=bias, **kw)
        self.value = Linear(d, d, bias=bias, **kw)
        self.heads = config.num_attention_heads

    def __call__(self, x: jax.Array) -> jax.Array:
        b, length, d = x.shape
        shape = (b, length, self.heads, d // self.heads)
        q, k, v = (f(x).reshape(shape) for f in (self.query, self.key, self.value))
        return attend(q, k, v).reshape(b, length, d)


class AttentionOutput(nnx.Module):
    """The output projection, one level deeper as in HF's names."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        d = config.hidden_size
        self.dense = Linear(d, d, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(x)


class Attention(nnx.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        self.attention = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.output = AttentionOutput(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(self.attention(x))


class LayerScale(nnx.Module):
    """A learned gain per channel."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        gain = jnp.full((config.hidden_size,), config.layerscale_value, jnp.float32)
        self.lambda1 = nnx.Param(gain)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.lambda1[...].astype(self.dtype)[None, None, :]


class MLP(nnx.Module):
    """Two linear layers with the exact (erf) GELU between."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        d, hidden = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.fc1 = Linear(d, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, d, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Layer(nnx.Module):
    """Pre-norm transformer block with layer scale."""

    def __init__(self, config: DINOv2Config, *, dtype, rngs: nnx.Rngs):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        d, eps = config.hidden_size, config.layer_norm_eps
        self.norm1 = LayerNorm(d, eps, **kw)
        self.attention = Attention(config, **kw)
        self.layer_scale1 = LayerScale(config, **kw)
        self.norm2 = LayerNorm(d, eps, **kw)
        self.mlp = MLP(config, **kw)
        self.layer_scale2 = LayerScale(config, **kw)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: DINOv2Config, *, dtype, remat: Policy, rngs: nnx.Rngs):
        layers = range(config.num_hidden_layers)
        self.layer = nnx.List([Layer(config, dtype=dtype, rngs=rngs) for _ in layers])
        self.remat = remat

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layer:
            x = recompute(layer, self.remat)(x)
        return x


class DINOv2(nnx.Module):
    """Image to normalised patch tokens, row-major, CLS dropped."""

    def __init__(
        self, config: DINOv2Config, *, dtype, remat: Policy = "none", rngs: nnx.Rngs
    ):
        self.embeddings = Embeddings(config, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(config, dtype=dtype, remat=remat, rngs=rngs)
        self.layernorm = LayerNorm(
            config.hidden_size, config.layer_norm_eps, dtype=dtype, rngs=rngs
        )
        self.patch_size = config.patch_size

    def __call__(self, x_bhwc: jax.Array) -> jax.Array:
        """Tokens [B, H/14 * W/14, D] of ImageNet-normalised pixels [B, H, W, 3].

        Raises ValueError when H or W is not a positive multiple of the patch.
        """
        h, w = x_bhwc.shape[1:3]
        if h % self.patch_size or w % self.patch_size or not h * w:
            raise ValueError(
                f"DINOv2: {h}x{w} pixels are not multiples of the patch size "
                f"{self.patch_size}. Resize the image to a multiple."
            )
        x = self.encoder(self.embeddings(x_bhwc))
        return self.layernorm(x)[:, 1:]


def resample_positions(table_hwd: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """The position table on another grid, bicubic as HF transformers does it.

    torch's ``interpolate(size=grid, mode="bicubic", align_corners=False)``: Keys'
    kernel with a = -3/4, no antialiasing when shrinking, edges repeated. (Facebook's
    repository passes a scale factor with an offset of 0.1 instead of the size, which
    shifts the sample positions slightly.)
    """
    if table_hwd.shape[:2] == grid:
        return table_hwd
    rows = jnp.asarray(_bicubic(table_hwd.shape[0], grid[0]), jnp.float32)
    columns = jnp.asarray(_bicubic(table_hwd.shape[1], grid[1]), jnp.float32)
    high = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, table_hwd, precision=high)


def _bicubic(size: int, new_size: int) -> np.ndarray:
    """[new, size] interpolation weights in float64, at most four a row."""
    a = -0.75
    weights = np.zeros((new_size, size))
    for i in range(new_size):
        centre = (i + 0.5) * size / new_size - 0.5
        left = int(np.floor(centre))
        for tap in range(left - 1, left + 3):
            x = abs(centre - tap)
            if x <= 1:
                w = ((a + 2) * x - (a + 3)) * x * x + 1
            else:
                w = ((x - 5) * x + 8) * x * a - 4 * a
            weights[i, min(max(tap, 0), size - 1)] += w
    return weights
