"""Layouts of LDM's single-file checkpoints (CompVis, Stability, FLUX's autoencoder).

Names are without the file's prefixes (``UNET_PREFIX``, ``VAE_PREFIX``).
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.layouts import (
    Layout,
    Shape,
    StoredTensor,
    all_same,
    shape_of,
)

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
EMA_PREFIX = "model_ema."

Pairs = Iterator[tuple[str, str]]  # (our module, LDM's)

# Other tensors of such files, and their meaning. An entry that ends in a dot is a
# prefix, the others are full names.
DROPPED: tuple[tuple[str, str], ...] = (
    ("cond_stage_model.", "text encoder"),
    ("conditioner.", "text encoder"),
    ("text_encoders.", "text encoder"),
    ("loss.", "discriminator of the autoencoder's training"),
    (VAE_PREFIX + "loss.", "discriminator of the autoencoder's training"),
    (EMA_PREFIX + "decay", "counter of the moving average"),
    (EMA_PREFIX + "num_updates", "counter of the moving average"),
    (VAE_PREFIX + EMA_PREFIX + "decay", "counter of the moving average"),
    (VAE_PREFIX + EMA_PREFIX + "num_updates", "counter of the moving average"),
    ("scale_factor", "latent scale"),
    ("logvar", "loss weights by timestep"),
    ("lvlb_weights", "loss weights by timestep"),
    ("betas", "noise schedule"),
    ("alphas_cumprod", "noise schedule"),
    ("alphas_cumprod_prev", "noise schedule"),
    ("sqrt_alphas_cumprod", "noise schedule"),
    ("sqrt_one_minus_alphas_cumprod", "noise schedule"),
    ("log_one_minus_alphas_cumprod", "noise schedule"),
    ("sqrt_recip_alphas_cumprod", "noise schedule"),
    ("sqrt_recipm1_alphas_cumprod", "noise schedule"),
    ("posterior_variance", "noise schedule"),
    ("posterior_log_variance_clipped", "noise schedule"),
    ("posterior_mean_coef1", "noise schedule"),
    ("posterior_mean_coef2", "noise schedule"),
    ("denoiser.sigmas", "noise schedule"),
)

# Names inside of a module that differ: ours, LDM's.
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def dropped(name: str) -> str | None:
    """The meaning of a tensor (full name) that is not read; None if it is."""
    for entry, meaning in DROPPED:
        if name == entry or (entry.endswith(".") and name.startswith(entry)):
            return meaning
    return None


def ema_name(name: str) -> str:
    """The name of the moving average of "model....": LitEma removes the dots."""
    assert name.startswith("model."), name
    return EMA_PREFIX + name.removeprefix("model.").replace(".", "")


def unet_layout(config: UNetConfig) -> Layout:
    """The layout of the UNet; names without ``UNET_PREFIX``."""
    shapes = names.torch_shapes(nets.build(UNet, config).abstract)
    modules = dict(_unet_modules(config))
    return {name: StoredTensor(_rename(name, modules), shapes[name]) for name in shapes}


def _unet_modules(config: UNetConfig) -> Pairs:
    """(our module, LDM's); LDM numbers the blocks through, whatever their level."""
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "conv_in", "input_blocks.0.0"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"
    yield from _inner("mid_block.resnets.0", "middle_block.0", UNET_RESNET)
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _inner("mid_block.resnets.1", "middle_block.2", UNET_RESNET)
    levels, count = len(config.attention), config.layers_per_block
    number = itertools.count(1)
    for level in range(levels):
        ours = f"down_blocks.{level}"
        for i in range(count):
            theirs = f"input_blocks.{next(number)}"
            yield from _inner(f"{ours}.resnets.{i}", f"{theirs}.0", UNET_RESNET)
            yield f"{ours}.attentions.{i}", f"{theirs}.1"
        if level < levels - 1:
            yield f"{ours}.downsamplers.0.conv", f"input_blocks.{next(number)}.0.op"
    number = itertools.count()
    for level in reversed(range(levels)):
        ours = f"up_blocks.{levels - 1 - level}"
        for i in range(count + 1):
            theirs = f"output_blocks.{next(number)}"
            yield from _inner(f"{ours}.resnets.{i}", f"{theirs}.0", UNET_RESNET)
            yield f"{ours}.attentions.{i}", f"{theirs}.1"
        # The upsampler belongs to the level's last block, after its attention.
        index = 2 if config.attention[level] else 1
        yield f"{ours}.upsamplers.0.conv", f"{theirs}.{index}.conv"


def vae_layout(config: VAEConfig) -> Layout:
    """The layout of the autoencoder; names without ``VAE_PREFIX``.

    LDM's attention projections are 1x1 convolutions, ours are matrices.
    """
    shapes = names.torch_shapes(nets.build(VAE, config).abstract)
    modules = dict(_vae_modules(config))
    layout = {}
    for name, shape in shapes.items():
        is_projection = "attentions" in name.split(".") and len(shape) == 2
        foreign_shape = (*shape, 1, 1) if is_projection else shape
        layout[name] = StoredTensor(_rename(name, modules), foreign_shape)
    return layout


def _vae_modules(config: VAEConfig) -> Pairs:
    """(our module, LDM's); entries that a configuration lacks are not looked up."""
    levels, count = len(config.block_out_channels), config.layers_per_block
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_in", f"{side}.conv_in"
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        yield f"{side}.conv_out", f"{side}.conv_out"
        ours, theirs = f"{side}.mid_block", f"{side}.mid"
        yield from _inner(f"{ours}.resnets.0", f"{theirs}.block_1", VAE_RESNET)
        yield from _inner(f"{ours}.attentions.0", f"{theirs}.attn_1", VAE_ATTENTION)
        yield from _inner(f"{ours}.resnets.1", f"{theirs}.block_2", VAE_RESNET)
    for level in range(levels):
        # LDM counts the decoder's levels from the image, diffusers from the latent.
        up = f"decoder.up_blocks.{levels - 1 - level}"
        for ours, theirs, resize, blocks in (
            (f"encoder.down_blocks.{level}", f"encoder.down.{level}", "down", count),
            (up, f"decoder.up.{level}", "up", count + 1),
        ):
            for i in range(blocks):
                block = f"{theirs}.block.{i}"
                yield from _inner(f"{ours}.resnets.{i}", block, VAE_RESNET)
            yield f"{ours}.{resize}samplers.0.conv", f"{theirs}.{resize}sample.conv"


def _inner(ours: str, theirs: str, renamed: Mapping[str, str]) -> Pairs:
    yield ours, theirs
    for our_name, their_name in renamed.items():
        yield f"{ours}.{our_name}", f"{theirs}.{their_name}"


def _rename(name: str, modules: Mapping[str, str]) -> str:
    """The name with the longest prefix in ``modules`` replaced by LDM's."""
    components = name.split(".")
    for length in range(len(components), 0, -1):
        module = ".".join(components[:length])
        if module in modules:
            return ".".join([modules[module], *components[length:]])
    raise AssertionError(f"{name} is not in the table")


def unet_config(
    shapes: Mapping[str, Shape],
    *,
    head_dim: int | None = None,
    norm_groups: int = 32,
) -> UNetConfig:
    """The configuration that a file's shapes imply, names without ``UNET_PREFIX``.

    No shape tells the number of heads. ``head_dim``, channels a head, is known by the
    width of the text encoder: SD2's (1024, 64 channels a head), SD1's (768, 8 heads).
    Only the tensors that it needs are checked; ``unet_layout`` has all of them.
    """
    if any(name.startswith("label_emb.") for name in shapes):
        raise InputError(
            "The UNet has label_emb.*, a second condition (SDXL and others), expected "
            "none. Use a checkpoint of the SD1 or SD2 family."
        )
    levels = _unet_levels(shapes)
    widths = tuple(width for width, _, _ in levels)
    attention = tuple(attends for _, _, attends in levels)
    middle = "middle_block.1."
    context = shape_of(shapes, middle + "transformer_blocks.0.attn2.to_k.weight", (2,))
    return _checked(
        UNetConfig,
        norm_groups,
        in_channels=shape_of(shapes, "input_blocks.0.0.weight", (4,))[1],
        out_channels=shape_of(shapes, "out.2.weight", (4,))[0],
        block_out_channels=widths,
        layers_per_block=all_same("Resnets a level", [n for _, n, _ in levels]),
        heads=_heads(widths, (*attention[:-1], True), context[1], head_dim),
        attention=attention,
        cross_attention_dim=context[1],
        linear_projection=len(shape_of(shapes, middle + "proj_in.weight", (2, 4))) == 2,
    )


def _unet_levels(shapes: Mapping[str, Shape]) -> list[tuple[int, int, bool]]:
    """(width, resnets, attends) a level; a strided convolution ends a level."""
    levels: list[tuple[int, int, bool]] = []
    number, first, resnets = 0, 1, 0
    while True:
        number += 1
        block = f"input_blocks.{number}"
        if f"{block}.0.in_layers.2.weight" in shapes:
            resnets += 1
            continue
        width = shape_of(shapes, f"input_blocks.{first}.0.in_layers.2.weight", (4,))[0]
        attends = f"input_blocks.{first}.1.proj_in.weight" in shapes
        levels.append((width, resnets, attends))
        if f"{block}.0.op.weight" not in shapes:
            return levels
        first, resnets = number + 1, 0


def _heads(
    widths: tuple[int, ...],
    attention: tuple[bool, ...],
    context: int,
    head_dim: int | None,
) -> tuple[int, ...]:
    if head_dim is None and context == 768:
        return (8,) * len(widths)
    head_dim = 64 if head_dim is None and context == 1024 else head_dim
    if head_dim is None:
        raise InputError(
            f"The UNet's context is {context} wide, heads are known for 768 and 1024. "
            "Convert the folder of diffusers, whose config.json has them."
        )
    # Levels without attention have no heads; their widths need not divide.
    for width, attends in zip(widths, attention, strict=True):
        if attends and (head_dim < 1 or width % head_dim):
            raise InputError(
                f"The UNet's {width} channels do not divide into heads of {head_dim}. "
                "Convert the folder of diffusers, whose config.json has the heads."
            )
    return tuple(max(width // head_dim, 1) for width in widths)


def vae_config(
    shapes: Mapping[str, Shape],
    *,
    scaling_factor: float,
    shift_factor: float,
    norm_groups: int = 32,
) -> VAEConfig:
    """The configuration that a file's shapes imply, names without ``VAE_PREFIX``.

    Only the tensors that it needs are checked; ``vae_layout`` has all of them.
    """
    widths, counts = [], []
    # The first level is required, the others are counted.
    while not widths or f"encoder.down.{len(widths)}.block.0.conv1.weight" in shapes:
        level = f"encoder.down.{len(widths)}.block"
        widths.append(shape_of(shapes, f"{level}.0.conv1.weight", (4,))[0])
        blocks = (f"{level}.{i}.conv1.weight" in shapes for i in itertools.count())
        counts.append(sum(1 for _ in itertools.takewhile(bool, blocks)))
    return _checked(
        VAEConfig,
        norm_groups,
        in_channels=shape_of(shapes, "encoder.conv_in.weight", (4,))[1],
        latent_channels=shape_of(shapes, "decoder.conv_in.weight", (4,))[1],
        block_out_channels=tuple(widths),
        layers_per_block=all_same("Resnets a level", counts),
        quant_conv="quant_conv.weight" in shapes,
        post_quant_conv="post_quant_conv.weight" in shapes,
        mid_attention="encoder.mid.attn_1.q.weight" in shapes,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def _checked(config_class: Any, norm_groups: int, **options: Any) -> Any:
    """``config_class(...)``, with an InputError where its networks would refuse it."""
    for width in options["block_out_channels"]:
        if norm_groups < 1 or width % norm_groups:
            raise InputError(
                f"{width} channels do not divide into {norm_groups} groups. Convert "
                "the folder of diffusers, whose config.json has norm_num_groups."
            )
    try:
        return config_class(norm_groups=norm_groups, **options)
    except ValueError as error:
        raise InputError(str(error)) from error
