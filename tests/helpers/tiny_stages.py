"""The three stages at the smallest size that still has every part, for tests."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gendr_jax import nets, sharding
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.heads import (
    DiscriminatorHead,
    DiscriminatorHeadConfig,
    RepaProjector,
    RepaProjectorConfig,
)
from gendr_jax.models.layers import Conv, Linear, nearest
from gendr_jax.models.lpips import LPIPSConfig
from gendr_jax.models.transformer import SpatialTransformer
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.train import settings as settings_lib
from gendr_jax.train.stages import build
from gendr_jax.train.stages.base import BaseNets
from gendr_jax.train.stages.roles import DistillNets
from gendr_jax.train.typed import typed

CROP = 16
SETTINGS = {
    "vae": settings_lib.VAESettings,
    "base": settings_lib.BaseSettings,
    "distill": settings_lib.DistillSettings,
}
PARTS = {
    "vae": {
        "latent_channels": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_groups": 4,
        "scaling_factor": 0.8,
        "shift_factor": 0.1,
    },
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "heads": (1, 2),
        "attention": (False, False),
        "cross_attention_dim": 8,
        "norm_groups": 4,
    },
    "alignment": {
        "dino": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
        },
        "hidden": 16,
    },
}
COMMON = {
    "batch_size": 4,
    "dtype": "float32",
    "remat": "none",
    "data": {"crop": CROP, "preset": "bicubic"},
    "init": {"random": True},
    "log": {"every": 1, "samples_every": 0},
}
OWN = {
    "vae": {
        "vae": PARTS["vae"],
        "discriminator": {"widths": (8, 8), "norm_groups": 4},
        "optim": {"lr": 3e-3},
    },
    "base": {
        **PARTS,
        "surgery": False,
        "surgery_steps": 0,
        "optim_new": {"lr": 1e-3},
        "optim": {"lr": 1e-3},
        "sample_steps": 2,
    },
    "distill": {
        **PARTS,
        "lora": {"rank": 2, "alpha": 4.0},
        "adapters": "side",
        "discriminator_width": 8,
        "warmup_steps": 0,
        "adversarial_start": 0,
    },
}


def config(stage: str, **changes: Any) -> dict[str, Any]:
    """Settings of a stage as a configuration file would give them."""
    return {"stage": stage, **COMMON, **OWN[stage], **changes}


def settings(stage: str, **changes: Any) -> Any:
    """The same, checked and typed."""
    return typed(SETTINGS[stage], config(stage, **changes))


def batch(size: int = 4, crop: int = CROP, seed: int = 0) -> dict[str, jax.Array]:
    """Smooth pictures with some texture, and indices that are not 0, 1, 2..."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (size, 4, 4, 3))
    smooth = np.repeat(np.repeat(coarse, crop // 4, 1), crop // 4, 2)
    noisy = smooth + rng.normal(0, 8, smooth.shape)
    return {
        "hq": jnp.asarray(np.clip(noisy, 0, 255).astype(np.uint8)),
        "index": jnp.arange(100, 100 + size, dtype=jnp.uint32),
    }


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh("data=1", jax.devices()[:1])


def gather_on(mesh: jax.sharding.Mesh, dtype: str = "float32", rules=()):
    """What ``build.setup`` passes to the steps."""
    where = sharding.Placement(mesh, rules)
    return functools.partial(build.gather_weights, placement=where, dtype=dtype)


class ToyUNet(nnx.Module):
    """The interface of UNet in four convolutions: time, context, features, adapters.

    Where the configuration has attention, a transformer at both of its sizes.
    """

    def __init__(self, config, *, dtype, remat="none", rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        width, last = config.block_out_channels[0], config.block_out_channels[-1]
        self.conv_in = Conv(config.in_channels, width, **kw)
        self.time = Linear(2, width, **kw)
        self.to_k = Linear(config.cross_attention_dim, width, bias=False, **kw)
        self.conv1 = Conv(width, width, stride=2, **kw)
        self.conv2 = Conv(width, last, **kw)
        self.conv_out = Conv(width + last, config.out_channels, **kw)
        self.attention = nnx.List([])
        if all(config.attention):
            kw |= {"groups": config.norm_groups, "linear": True}
            words, heads = config.cross_attention_dim, config.heads
            self.attention = nnx.List(
                [
                    SpatialTransformer(width, words, heads[0], **kw),
                    SpatialTransformer(last, words, heads[-1], **kw),
                ]
            )

    def encode(self, z, t, context):
        return self._down(z, t, context)[1]

    def _down(self, z, t, context):
        angle = (t / 200.0).astype(z.dtype)[:, None]
        time = self.time(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1))
        words = self.to_k(jnp.mean(jnp.tanh(context), axis=1))
        h = nnx.silu(self.conv_in(z) + (time + words)[:, None, None, :])
        if self.attention:
            h = self.attention[0](h, context)
        down0 = nnx.silu(self.conv1(h))
        mid = nnx.silu(self.conv2(down0))
        if self.attention:
            mid = self.attention[1](mid, context)
        return h, {"down0": down0, "mid": mid}

    def __call__(self, z, t, context):
        h, features = self._down(z, t, context)
        up = nearest(features["mid"], h.shape[1:3])
        return self.conv_out(jnp.concatenate([h, up], -1)), features


class ToyVAE(nnx.Module):
    """One strided convolution down, one convolution up."""

    def __init__(self, config, *, dtype, remat="none", rngs):
        f, c = config.factor, config.latent_channels
        kw = {"dtype": dtype, "rngs": rngs}
        self.encoder = Conv(3, 2 * c, f, stride=f, padding=0, **kw)
        self.decoder = Conv(c, 3, **kw)
        self.factor = f

    def encode(self, x):
        mean, logvar = jnp.split(self.encoder(x), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z):
        size = (z.shape[1] * self.factor, z.shape[2] * self.factor)
        return self.decoder(nearest(z, size))


class ToyDINO(nnx.Module):
    """Patch tokens and nothing else."""

    def __init__(self, config, *, dtype, remat="none", rngs):
        p = config.patch_size
        self.projection = Conv(
            3, config.hidden_size, p, stride=p, padding=0, dtype=dtype, rngs=rngs
        )

    def __call__(self, x):
        y = self.projection(x)
        return y.reshape(len(y), -1, y.shape[-1])


class ToyLPIPS(nnx.Module):
    """A distance per sample on one layer of features."""

    def __init__(self, config, *, dtype, remat="none", rngs):
        self.features = Conv(3, 4, 3, dtype=dtype, rngs=rngs)

    def __call__(self, a, b):
        square = jnp.square(self.features(a) - self.features(b))
        return jnp.mean(square, (1, 2, 3))


class ToyHead(nnx.Module):
    """Logits without a norm: those are computed in float32 whatever the dtype."""

    def __init__(self, config, *, dtype, remat="none", rngs):
        self.conv2 = Conv(config.in_channels, 1, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.conv2(x)


def parts(
    s: Any, mesh=None, *, toy: bool = True, dtype: str = "float32"
) -> tuple[Any, dict[str, Any]]:
    """(BaseNets or DistillNets, frozen weights) for settings ``s``."""
    mesh = one_device() if mesh is None else mesh
    gather = gather_on(mesh, dtype, s.sharding.rules)
    split = functools.partial(sharding.split_rows, mesh=mesh)
    build = functools.partial(nets.build, dtype=dtype)
    vae = build(ToyVAE if toy else VAE, s.vae)
    dino = build(ToyDINO if toy else DINOv2, s.alignment.dino)
    unet_class = ToyUNet if toy else UNet
    unet = build(unet_class, s.unet)
    shapes = RepaProjectorConfig(
        s.unet.block_out_channels[0], s.alignment.hidden, s.alignment.dino.hidden_size
    )
    projector = build(RepaProjector, shapes)
    words = jax.random.normal(jax.random.key(7), (2, 4, s.unet.cross_attention_dim))
    frozen = {
        "vae": random(vae, 1),
        "dino": random(dino, 2),
        "prompt": {"positive": words[0], "negative": words[1]},
    }
    if s.stage == "base":
        return BaseNets(vae, unet, projector, dino, gather, split), frozen
    frozen["unet"] = random(unet, 3)
    head = DiscriminatorHeadConfig(
        s.unet.block_out_channels[-1], s.discriminator_width, s.unet.norm_groups
    )
    adapted = build(
        unet_class,
        s.unet,
        lora=s.lora,
        lora_in_kernel=s.adapters == "side-gradient",
    )
    head_net = build(ToyHead if dtype == "float64" else DiscriminatorHead, head)
    parts = (vae, unet, adapted, projector, dino, head_net, gather, split)
    if not s.weights.perceptual:
        return DistillNets(*parts), frozen
    lpips = build(ToyLPIPS, LPIPSConfig())
    frozen["lpips"] = random(lpips, 4)
    return DistillNets(*parts, lpips=lpips), frozen


def random(net: nets.Net, seed: int) -> nets.Params:
    """Random float32 weights without compiling ``net.init``; no zeros anywhere."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1] in ("scale", "lambda1"):
            return jnp.asarray(1 + 0.1 * noise)
        if path[-1] == "bias":
            return jnp.asarray(0.1 * noise)
        return jnp.asarray(noise / np.sqrt(max(np.prod(leaf.shape[:-1]), 1)))

    flat = nets.flatten(net.abstract)
    return nets.unflatten({path: draw(path, leaf) for path, leaf in flat.items()})


def same(a: Any, b: Any) -> bool:
    """Bit for bit, leaf by leaf."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def gap(a: Any, b: Any) -> float:
    """Largest difference of two trees over the largest number in the second."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    top = max(float(np.max(np.abs(y))) for _, y in pairs)
    return max(float(np.max(np.abs(np.subtract(x, y)))) for x, y in pairs) / top


def fewer_passes():
    """A fixture's body: compile without LLVM's costly passes, for programs that run
    a few times only."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
