"""config.json of diffusers and transformers components, to our dataclasses and back."""

from collections.abc import Callable
from typing import Any, Literal

from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig

# Limits above any real network: with larger numbers JAX takes minutes, or overflows.
MOST, MOST_LAYERS, MOST_ENTRIES = 1 << 20, 128, 16

# Options without effect on our arithmetic. Softmax is always float32 here, hence
# upcast_attention; dropout and initialisation only matter when DINOv2 is trained.
IGNORED = {
    "_diffusers_version",
    "_name_or_path",
    "sample_size",
    "upcast_attention",
    "addition_embed_type_num_heads",
    "force_upcast",
    "architectures",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "dtype",
    "hidden_dropout_prob",
    "initializer_range",
    "out_features",
    "out_indices",
    "stage_names",
    "torch_dtype",
    "transformers_version",
    # How averages were made, in the config.json of diffusers' EMAModel.
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}


class Options:
    """A config.json that records which options were read, and refuses the others."""

    def __init__(self, raw: dict[str, Any], where: str):
        self.raw, self.where = raw, where
        self.problems: list[str] = []
        self.read: set[str] = set(IGNORED)

    def get(self, name: str, default: Any, valid: Callable[[Any], bool]) -> Any:
        """The value, or the library's default; an invalid one becomes a problem."""
        self.read.add(name)
        value = self.raw.get(name)
        if value is None:
            return default
        if not valid(value):
            self.problems.append(f"{name}={value!r:.80} is not supported")
            return default
        return tuple(value) if isinstance(value, list) else value

    def number(self, name: str, default: float) -> float:
        return float(self.get(name, default, is_number))

    def integer(self, name: str, default: int, most: int = MOST) -> int:
        return self.get(name, default, lambda v: is_count(v) and v <= most)

    def flag(self, name: str, default: bool) -> bool:
        return self.get(name, default, lambda v: isinstance(v, bool))

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return self.get(name, default, lambda v: list_of(v, is_count))

    def uniform(
        self, name: str, default: int, only: int | None = None, most: int = MOST
    ) -> int:
        """One integer, or a list that repeats it; ``only`` is the one allowed."""

        def valid(value: Any) -> bool:
            values = value if isinstance(value, list) else [value]
            same = list_of(values, lambda v: is_count(v) and v == values[0])
            return same and values[0] <= most and only in (None, values[0])

        value = self.get(name, default, valid)
        return value[0] if isinstance(value, tuple) else value

    def fixed(self, table: dict[str, Any]) -> None:
        """Refuse any value other than the table's."""
        for name, only in table.items():
            self.get(name, only, lambda value, only=only: value == only)

    def finish(self) -> None:
        """Raise one InputError with every option that is not supported.

        Options that were not read may be null or false: the libraries' values for off.
        """
        for name in sorted(self.raw.keys() - self.read):
            value = self.raw[name]
            values = value if isinstance(value, list) else [value]
            if any(v not in (None, False) for v in values):
                shown = name if name.isprintable() else repr(name)
                self.problems.append(f"{shown:.80}={value!r:.80} is not supported")
        if self.problems:
            raise InputError(
                f"{self.where}: {listed(self.problems)}. "
                "Use a model without these options."
            )


def is_count(value: Any) -> bool:
    """A positive integer up to ``MOST``; not JSON's true."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and 0 < value <= MOST


def list_of(value: Any, valid: Callable[[Any], bool]) -> bool:
    """A list of 1 to ``MOST_ENTRIES`` valid values."""
    valid_length = isinstance(value, list) and 0 < len(value) <= MOST_ENTRIES
    return valid_length and all(valid(v) for v in value)


def is_number(value: Any) -> bool:
    """A finite number in the range of float32; not JSON's true."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e30


ComponentConfig = UNetConfig | VAEConfig | DINOv2Config
# Fields that diffusers' networks lack.
ONLY_OURS = {
    "vae": (
        "patch",
        "linear_path",
        "convolutions",
        "encoder_convolutions",
        "norm_channels",
    ),
    "unet": ("mid_attention", "norm", "norm_channels", "input_shortcut"),
}

KINDS = ("unet", "vae", "dinov2")

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
VAE_DOWN, VAE_UP = "DownEncoderBlock2D", "UpDecoderBlock2D"

# Options of which the network has one value; absent means that value.
UNET_FIXED = {
    "_class_name": "UNet2DConditionModel",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
VAE_FIXED = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
}
DINOV2_FIXED = {
    "model_type": "dinov2",
    "hidden_act": "gelu",
    "num_channels": 3,
    "apply_layernorm": True,
    "reshape_hidden_states": True,
}


def parse(kind: str, content: dict[str, Any], where: str = "config.json") -> Any:
    """The dataclass of ``kind`` ("unet", "vae", "dinov2") from a parsed config.json.

    Raises InputError that names every option our networks do not have.
    """
    options = Options(content, where)
    parser = {"unet": _parse_unet, "vae": _parse_vae, "dinov2": _parse_dinov2}[kind]
    try:
        config = parser(options)
    except ValueError as error:
        options.finish()
        raise InputError(f"{where}: {error}") from error
    options.finish()
    return config


def kind_of(config: ComponentConfig) -> Literal["unet", "vae", "dinov2"]:
    """The ``kind`` of ``parse`` that gives this configuration."""
    if isinstance(config, UNetConfig):
        return "unet"
    return "vae" if isinstance(config, VAEConfig) else "dinov2"


def dump(config: ComponentConfig) -> dict[str, Any]:
    """The content of config.json for diffusers or transformers.

    Raises:
        UsageError: a network that they cannot build.
    """
    kind = kind_of(config)
    for name in ONLY_OURS.get(kind, ()):
        value = getattr(config, name)
        if value != getattr(type(config)(), name):
            raise UsageError(
                f"diffusers has no {kind} with {name}={value}. Keep these weights in "
                "our own format: --to orbax."
            )
    if isinstance(config, UNetConfig):
        return _dump_unet(config)
    return _dump_vae(config) if isinstance(config, VAEConfig) else _dump_dinov2(config)


def _parse_unet(options: Options) -> UNetConfig:
    options.fixed(UNET_FIXED)
    widths = options.integers("block_out_channels", (320, 640, 1280, 1280))
    levels = len(widths)
    down = options.get(
        "down_block_types",
        (CROSS_DOWN,) * (levels - 1) + (PLAIN_DOWN,),
        lambda v: list_of(v, lambda name: name in (CROSS_DOWN, PLAIN_DOWN)),
    )
    attention = tuple(name == CROSS_DOWN for name in down)
    mirrored = tuple(CROSS_UP if a else PLAIN_UP for a in reversed(attention))
    options.get("up_block_types", mirrored, lambda v: _same(v, mirrored))
    # diffusers' attention_head_dim of this class is, by an old mistake, the number of
    # heads; num_attention_heads has precedence.
    heads = options.get("attention_head_dim", 8, _is_heads)
    heads = options.get("num_attention_heads", heads, _is_heads)
    options.uniform("transformer_layers_per_block", 1, only=1)
    return UNetConfig(
        in_channels=options.integer("in_channels", 4),
        out_channels=options.integer("out_channels", 4),
        block_out_channels=widths,
        layers_per_block=options.uniform("layers_per_block", 2, most=MOST_LAYERS),
        heads=(heads,) * levels if isinstance(heads, int) else tuple(heads),
        attention=attention,
        cross_attention_dim=options.uniform("cross_attention_dim", 1280),
        norm_groups=options.integer("norm_num_groups", 32),
        linear_projection=options.flag("use_linear_projection", False),
        norm_eps=options.number("norm_eps", 1e-5),
    )


def _dump_unet(config: UNetConfig) -> dict[str, Any]:
    down = [CROSS_DOWN if a else PLAIN_DOWN for a in config.attention]
    up = [CROSS_UP if a else PLAIN_UP for a in reversed(config.attention)]
    return UNET_FIXED | {
        "sample_size": 64,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.block_out_channels),
        "layers_per_block": config.layers_per_block,
        "attention_head_dim": list(config.heads),
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": config.linear_projection,
        "norm_eps": config.norm_eps,
    }


def _parse_vae(options: Options) -> VAEConfig:
    options.fixed(VAE_FIXED)
    widths = options.integers("block_out_channels", (64,))
    for name, only in (("down_block_types", VAE_DOWN), ("up_block_types", VAE_UP)):
        expected = (only,) * len(widths)
        options.get(name, expected, lambda v, e=expected: _same(v, e))
    channels = options.integer("in_channels", 3)
    options.get("out_channels", 3, lambda v: v == channels)
    return VAEConfig(
        in_channels=channels,
        mid_attention=options.flag("mid_block_add_attention", True),
        latent_channels=options.integer("latent_channels", 4),
        block_out_channels=widths,
        layers_per_block=options.integer("layers_per_block", 1, MOST_LAYERS),
        norm_groups=options.integer("norm_num_groups", 32),
        quant_conv=options.flag("use_quant_conv", True),
        post_quant_conv=options.flag("use_post_quant_conv", True),
        scaling_factor=options.number("scaling_factor", 0.18215),
        shift_factor=options.number("shift_factor", 0.0),
    )


def _dump_vae(config: VAEConfig) -> dict[str, Any]:
    levels = len(config.block_out_channels)
    return VAE_FIXED | {
        "sample_size": 512,
        "in_channels": config.in_channels,
        "mid_block_add_attention": config.mid_attention,
        "out_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": [VAE_DOWN] * levels,
        "up_block_types": [VAE_UP] * levels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_groups,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor,
    }


def _parse_dinov2(options: Options) -> DINOv2Config:
    options.fixed(DINOV2_FIXED)
    return DINOv2Config(
        hidden_size=options.integer("hidden_size", 768),
        num_hidden_layers=options.integer("num_hidden_layers", 12, MOST_LAYERS),
        num_attention_heads=options.integer("num_attention_heads", 12),
        mlp_ratio=options.integer("mlp_ratio", 4),
        image_size=options.uniform("image_size", 224),
        patch_size=options.uniform("patch_size", 14),
        qkv_bias=options.flag("qkv_bias", True),
        layer_norm_eps=options.number("layer_norm_eps", 1e-6),
        layerscale_value=options.number("layerscale_value", 1.0),
        use_mask_token=options.flag("use_mask_token", True),
    )


def _dump_dinov2(config: DINOv2Config) -> dict[str, Any]:
    return DINOV2_FIXED | {
        "architectures": ["Dinov2Model"],
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "mlp_ratio": config.mlp_ratio,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "qkv_bias": config.qkv_bias,
        "layer_norm_eps": config.layer_norm_eps,
        "layerscale_value": config.layerscale_value,
        "use_mask_token": config.use_mask_token,
    }


def _is_heads(value: Any) -> bool:
    return is_count(value) or list_of(value, is_count)


def _same(value: Any, expected: tuple[str, ...]) -> bool:
    return isinstance(value, list | tuple) and tuple(value) == expected
