"""Build a stage and its data from a configuration: initial weights, networks, step."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from gendr_jax import nets, sharding
from gendr_jax.data import pipeline
from gendr_jax.data.fingerprint import fingerprint
from gendr_jax.data.open_source import BUILTIN, open_source
from gendr_jax.data.sources import Source
from gendr_jax.errors import UsageError
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.heads import (
    DiscriminatorHead,
    DiscriminatorHeadConfig,
    PatchDiscriminator,
    RepaProjector,
    RepaProjectorConfig,
)
from gendr_jax.models.lpips import LPIPS, LPIPSConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.nets import Params
from gendr_jax.sharding import Placement
from gendr_jax.train.run_settings import RunSettings
from gendr_jax.train.settings import (
    STAGES,
    AdcSettings,
    BaseSettings,
    Common,
    DistillSettings,
    Init,
    PixelSettings,
    PixSettings,
    Settings,
    VAESettings,
)
from gendr_jax.train.stage import Frozen, Stage
from gendr_jax.train.stages import base as base_stage
from gendr_jax.train.stages import distill as distill_stage
from gendr_jax.train.stages import (
    initial_weights,
    patch_components,
    pixel,
    samples,
    size_checks,
)
from gendr_jax.train.stages import vae as vae_stage
from gendr_jax.train.stages.roles import DistillNets
from gendr_jax.train.typed import typed
from gendr_jax.weights import folder, linear_ends, surgery
from gendr_jax.weights.linear_ends import LinearMaps

Gather = Callable[[Params, str], Params]
Split = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass
class Setup:
    """A stage, its data from any step on, and how long to run."""

    stage: Stage
    batches: Callable[[int], Iterator[Any]]
    settings: RunSettings
    held_out: Callable[[int], Iterator[Any]] | None = None

    def hand_over(self) -> Stage:
        """The stage with its weights, which are not held here any longer."""
        stage, self.stage = self.stage, self.stage.without_weights()
        return stage


def setup(config: Mapping[str, Any], mesh: Mesh) -> Setup:
    """Check the configuration, read initial weights and data, build the stage.

    Raises:
        UsageError: a misspelt or impossible setting.
        InputError: weights or photographs that cannot be read.
    """
    settings = read_settings(config, mesh)
    stage = wire(settings, mesh)
    source = data_source(settings)
    batches = data_batches(settings, mesh, source)
    if isinstance(settings, VAESettings) and settings.vae.linear_path:
        stage = _from_components(settings, stage, batches)
    running = dataclasses.replace(run_settings(settings), data=fingerprint(source))
    held_out = None
    if settings.val.path and settings.val.every:
        held_out = data_batches(settings, mesh, open_source(settings.val.path))
    return Setup(stage, batches, running, held_out)


def _from_components(
    settings: VAESettings, stage: Stage, batches: Callable[[int], Iterator[Any]]
) -> Stage:
    """A fresh linear path starts at the principal components of the run's data."""
    if stage.start:
        return stage
    net = builder(settings)(VAE, settings.vae)
    fresh = initial_weights.random_like(net, settings.seed, initial_weights.VAE_STREAM)
    first = batches(0)
    try:
        path = patch_components.from_batches(settings.vae, first)
    finally:
        close = getattr(first, "close", None)  # of generators and grain's iterators
        if close is not None:
            close()
    start = {"vae": fresh | {"linear_path": jax.tree.map(jnp.asarray, path)}}
    return dataclasses.replace(stage, start=start)


def declare(config: Mapping[str, Any], mesh: Mesh) -> Stage:
    """The stage from shapes alone: nothing is read, nothing is allocated.

    `frozen` and `start` are ShapeDtypeStructs, `export` is not to be called. The step
    is that of `setup`, whatever weights `config.init` names; the devices of the mesh
    need not be present.

    Raises:
        UsageError: a misspelt or impossible setting.
    """
    settings = read_settings(config, mesh)
    settings = dataclasses.replace(settings, init=Init(random=True))
    built: list[Stage] = []

    def abstract_trees() -> tuple[Any, Any]:
        built.append(wire(settings, mesh))
        return built[0].frozen, built[0].start

    # eval_shape keeps only arrays; the stage itself comes out by the list.
    frozen, start = jax.eval_shape(abstract_trees)
    return dataclasses.replace(built[0], frozen=frozen, start=start)


def read_settings(config: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> Settings:
    """The typed settings of config.stage, checked against each other and the mesh.

    Raises:
        UsageError: a misspelt or impossible setting.
    """
    stage = config.get("stage")
    if stage not in STAGES:
        raise UsageError(
            f"config.stage is {stage!r}, known are {', '.join(STAGES)}. "
            "Set one of them."
        )
    settings = typed(STAGES[stage], config)
    size_checks.check(settings, mesh)
    return settings


def wire(settings: Settings, mesh: Mesh) -> Stage:
    """The stage of these settings; reads the weights that they name."""
    gather = functools.partial(
        gather_weights, placement=placement(settings, mesh), dtype=settings.dtype
    )
    split = functools.partial(sharding.split_rows, mesh=mesh)
    match settings:
        case VAESettings():
            return _vae_stage(settings, gather, split)
        case BaseSettings():
            return _base_stage(settings, gather, split)
        case DistillSettings():
            return _distill_stage(settings, gather, split)
        case AdcSettings() | PixSettings():
            return _pixel_stage(settings, gather, split)


def run_settings(settings: Settings) -> RunSettings:
    """What the loop needs to know."""
    return RunSettings(
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        log_every=settings.log.every,
        samples_every=settings.log.samples_every,
        samples=settings.log.samples,
        validate_every=settings.val.every,
        validate_count=settings.val.count,
        best=settings.val.best,
        checkpoint_every=settings.checkpoint.every,
        keep=settings.checkpoint.keep,
        keep_every=settings.checkpoint.keep_every,
        keep_seconds=settings.checkpoint.keep_seconds,
        max_bad_steps=settings.max_bad_steps,
        profile=settings.profile,
        watchdog=settings.watchdog,
        barrier_seconds=settings.processes.barrier,
        config=settings,
        rules=settings.sharding.rules,
        min_sharded_size=settings.sharding.min_size,
        on_host=tuple(on_host(settings)),
        xla_flags=settings.xla_flags,
    )


def data_source(settings: Common) -> Source:
    """What ``data.path`` names.

    Raises:
        UsageError: nothing usable is there.
    """
    data = settings.data
    if not data.path:
        raise UsageError(
            "config.data.path is empty. Name a folder of photographs, or "
            f"{BUILTIN} for those that come with scikit-image."
        )
    return open_source(data.path)


def data_batches(
    settings: Common, mesh: Mesh, source: Source
) -> Callable[[int], Iterator[Any]]:
    """start -> endless batches of this process, of pictures of ``source``."""
    data = settings.data
    share, shares = sharding.data_share(mesh)
    return lambda first: pipeline.batches(
        source,
        batch_size=settings.batch_size,
        crop=data.crop,
        seed=settings.seed,
        start=first,
        process_index=share,
        process_count=shares,
        workers=data.workers,
        small=data.small,
    )


def _vae_stage(
    settings: VAESettings, gather: Gather, split: Split
) -> Stage[vae_stage.VAEState]:
    config, params = initial_weights.autoencoder(
        settings.init, settings.vae, settings.seed
    )
    settings = dataclasses.replace(settings, vae=config)
    build = builder(settings)
    vae = build(VAE, config, remat=settings.remat)
    disc = build(PatchDiscriminator, settings.discriminator)

    def export(state: vae_stage.VAEState, _: Frozen, path: Path) -> None:
        factor = vae_stage.scaling_factor(state)
        measured = dataclasses.replace(config, scaling_factor=factor)
        folder.save(path, kind="vae", vae=(measured, state.ema))

    return Stage(
        init=vae_stage.make_init(settings, vae, disc),
        step=vae_stage.make_step(settings, vae, disc, gather, split),
        frozen={},
        sample=vae_stage.make_sample(vae, gather),
        export=export,
        compared=("reconstruction", "photograph"),
        start={} if params is None else {"vae": nets.cast(params, "float32")},
    )


def builder(settings: Common) -> Callable[..., nets.Net]:
    """``nets.build`` with what all networks of the stage share."""
    wide = settings.sharding.grad_reduce == "float32"
    return functools.partial(
        nets.build, dtype=settings.dtype, wide_grads=wide, product_grads=True
    )


def _frozen_networks(settings: BaseSettings | DistillSettings):
    """The frozen autoencoder, DINOv2 and prompt; settings with the VAE's own config."""
    vae_config, vae = initial_weights.autoencoder(
        settings.init, settings.vae, settings.seed
    )
    settings = dataclasses.replace(settings, vae=vae_config)
    build = builder(settings)
    vae_net = build(VAE, vae_config, remat=settings.remat)
    dino_config, dino = initial_weights.component(
        settings.init, "dino", settings.alignment.dino
    )
    dino_net = build(DINOv2, dino_config)
    if vae is None:
        vae = initial_weights.random_like(
            vae_net, settings.seed, initial_weights.VAE_STREAM
        )
    if dino is None:
        dino = initial_weights.random_like(
            dino_net, settings.seed, initial_weights.DINO_STREAM
        )
    width = settings.unet.cross_attention_dim
    frozen = {
        "vae": nets.cast(vae, settings.dtype),
        "dino": nets.cast(dino, settings.dtype),
        "prompt": initial_weights.prompt(settings.init, width, settings.seed),
    }
    projector = build(
        RepaProjector,
        RepaProjectorConfig(
            in_dim=settings.unet.block_out_channels[0],
            hidden_dim=settings.alignment.hidden,
            out_dim=dino_config.hidden_size,
        ),
    )
    return settings, frozen, vae_net, dino_net, projector


def _base_stage(
    settings: BaseSettings, gather: Gather, split: Split
) -> Stage[base_stage.BaseState]:
    settings, frozen, vae, dino, projector = _frozen_networks(settings)
    config = settings.unet
    initial_weights.check_prediction(settings.init, settings.prediction)
    config_read, params = initial_weights.component(settings.init, "unet", config)
    if params is not None and config_read.in_channels != config.in_channels:
        params = surgery.widen(
            params, channels_in=config.in_channels, channels_out=config.out_channels
        )
    unet = builder(settings)(UNet, config, remat=settings.remat)
    if params is not None:
        params = nets.cast(params, "float32")
        nets.check_like(params, unet.abstract, what=f"init.unet={settings.init.unet}")
    stage_nets = base_stage.BaseNets(vae, unet, projector, dino, gather, split)

    def export(state: base_stage.BaseState, frozen: Frozen, path: Path) -> None:
        folder.save(
            path,
            kind="base",
            vae=(settings.vae, frozen["vae"]),
            unet=(config, state.ema["unet"]),
            projector=(projector.config, state.ema["projector"]),
            prompt=frozen["prompt"],
            prediction=settings.prediction,
        )

    return Stage(
        init=base_stage.make_init(settings, stage_nets),
        step=base_stage.make_step(settings, stage_nets),
        frozen=frozen,
        sample=base_stage.make_sample(settings, stage_nets),
        export=export,
        compared=("denoised", "photograph"),
        start={} if params is None else {"unet": params},
    )


def _distill_stage(
    settings: DistillSettings, gather: Gather, split: Split
) -> Stage[distill_stage.DistillState]:
    settings, frozen, vae, dino, projector = _frozen_networks(settings)
    initial_weights.check_prediction(settings.init, settings.prediction)
    config, params = initial_weights.component(settings.init, "unet", settings.unet)
    size_checks.check_channels(config, settings.vae)
    build = builder(settings)
    unet = build(UNet, config, remat=settings.remat)
    adapted = build(
        UNet,
        config,
        remat=settings.remat,
        lora=settings.lora,
        lora_in_kernel=settings.adapters == "side-gradient",
    )
    if params is None:
        params = initial_weights.random_like(
            unet, settings.seed, initial_weights.UNET_STREAM
        )
    head = DiscriminatorHeadConfig(
        in_channels=config.block_out_channels[-1],
        hidden_channels=settings.discriminator_width,
        norm_groups=config.norm_groups,
    )
    lpips_net, lpips = _perceptual(settings)
    stage_nets = DistillNets(
        vae=vae,
        unet=unet,
        adapted=adapted,
        projector=projector,
        dino=dino,
        head=build(DiscriminatorHead, head),
        gather=gather,
        split=split,
        lpips=lpips_net,
    )
    if lpips is not None:
        frozen["lpips"] = nets.cast(lpips, settings.dtype)
    # What adapters add can be less than half a step of bfloat16 at the base's value.
    base_dtype = settings.dtype if settings.adapters == "side" else "float32"
    frozen["unet"] = nets.cast(params, base_dtype)
    begin = {"unet": params} | initial_weights.projector(settings.init, projector)
    if settings.decoder == "trained":
        begin["decoder"] = initial_weights.decoder_params(frozen["vae"])
    step = distill_stage.Distill(settings, stage_nets)

    def export(state: distill_stage.DistillState, frozen: Frozen, path: Path) -> None:
        weights = distill_stage.restorer_weights(settings, state, frozen["unet"])
        folder.save(
            path,
            kind="restorer",
            vae=(
                settings.vae,
                distill_stage.autoencoder_weights(state, frozen["vae"]),
            ),
            unet=(config, jax.tree.map(jnp.asarray, weights)),
            prompt=frozen["prompt"],
            prediction=settings.prediction,
        )

    return Stage(
        init=distill_stage.make_init(settings, stage_nets),
        step=step.step,
        phases=step.phases,
        frozen=frozen,
        sample=step.sample,
        export=export,
        compared=("GenDR", "photograph"),
        start=begin,
    )


def _pixel_stage(
    settings: AdcSettings | PixSettings, gather: Gather, split: Split
) -> Stage:
    vae_config, vae = initial_weights.component(settings.init, "vae", settings.vae)
    initial_weights.check_prediction(settings.init, settings.prediction)
    config, teacher = initial_weights.component(settings.init, "unet", settings.unet)
    size_checks.check_channels(config, vae_config)
    size_checks.check_pixel_ends(config, vae_config)
    settings = dataclasses.replace(settings, vae=vae_config, unet=config)
    build, seed = builder(settings), settings.seed
    vae_net = build(VAE, vae_config, remat=settings.remat)
    teacher_net = build(UNet, config, remat=settings.remat)
    if vae is None:
        stream = initial_weights.VAE_STREAM
        vae = initial_weights.random_like(vae_net, seed, stream)
    if teacher is None:
        stream = initial_weights.UNET_STREAM
        teacher = initial_weights.random_like(teacher_net, seed, stream)
    maps = _linear_maps(settings, vae_config, vae)
    student, before, params = _pixel_ends(settings, config, teacher, maps)
    lpips_net, lpips = _perceptual(settings)
    head = DiscriminatorHeadConfig(
        in_channels=config.block_out_channels[-1],
        hidden_channels=settings.discriminator_width,
        norm_groups=config.norm_groups,
    )
    stage_nets = pixel.PixelNets(
        vae=vae_net,
        teacher=teacher_net,
        student=build(UNet, student, remat=settings.remat),
        adapted=build(UNet, before, remat=settings.remat, lora=settings.lora),
        head=build(DiscriminatorHead, head),
        lpips=lpips_net,
        gather=gather,
        split=split,
    )
    frozen = {
        "vae": nets.cast(vae, settings.dtype),
        "unet": nets.cast(teacher, settings.dtype),
        "features": nets.cast(params["features"], settings.dtype),
        "prompt": initial_weights.prompt(
            settings.init, config.cross_attention_dim, seed
        ),
    }
    if lpips is not None:
        frozen["lpips"] = nets.cast(lpips, settings.dtype)
    step = pixel.Pixel(settings, stage_nets)

    def export(state: pixel.PixelState, frozen: Frozen, path: Path) -> None:
        folder.save(
            path,
            kind=settings.stage,
            vae=None if step.to_pixels else (settings.vae, frozen["vae"]),
            unet=(student, state.ema),
            prompt=frozen["prompt"],
            prediction=settings.prediction,
        )

    return Stage(
        init=pixel.make_init(settings, stage_nets),
        step=step.step,
        phases=step.phases,
        frozen=frozen,
        sample=step.sample,
        export=export,
        compared=(pixel.title(settings), "photograph"),
        start={"student": params["student"]},
    )


def _linear_maps(
    settings: PixelSettings, config: VAEConfig, vae: Params
) -> LinearMaps | None:
    """The matrices of an autoencoder that has nothing else; None for all others."""
    if not config.encodes_linearly:
        return None
    # A decoder's convolutions are not among the matrices: the student learns them.
    config = dataclasses.replace(config, convolutions=False)
    vae = {"linear_path": vae["linear_path"]}
    vae = nets.cast(vae, "float32")
    exact = nets.build(VAE, config, dtype="float32")
    return linear_ends.linear_maps(
        functools.partial(samples.encoder(exact, config), vae),
        functools.partial(samples.decoder(exact, config), vae),
        factor=settings.factor,
        channels=config.latent_channels,
    )


def _pixel_ends(
    settings: AdcSettings | PixSettings,
    config: UNetConfig,
    teacher: Params,
    maps: LinearMaps | None,
) -> tuple[UNetConfig, UNetConfig, dict[str, Params]]:
    """UNet configurations of student and discriminator, and initial weights of both.

    Adc starts as GenDR with another conv_in, its discriminator has GenDR's features;
    Pix starts as Adc with another conv_out, its discriminator has Adc's. With a linear
    autoencoder (``maps``) both start as what they learn from.
    """
    exact = config.input_shortcut and maps is not None
    channels = settings.pixel_channels
    adc = dataclasses.replace(config, in_channels=channels)
    if exact:
        pixels_in = linear_ends.with_encoder(teacher, maps, settings.prediction)
    else:
        pixels_in = surgery.pixels_in(teacher, channels=channels)
    if isinstance(settings, AdcSettings):
        return adc, config, {"student": pixels_in, "features": teacher}
    adc_weights = initial_weights.component(settings.init, "adc", adc)[1]
    before = pixels_in if adc_weights is None else adc_weights
    pix = dataclasses.replace(adc, out_channels=channels)
    if exact:
        student = linear_ends.with_decoder(before, maps)
    else:
        seed = jax.random.key(settings.seed)
        key = jax.random.fold_in(seed, initial_weights.PIX_STREAM)
        student = surgery.pixels_out(before, key, factor=settings.factor)
    return pix, adc, {"student": student, "features": before}


def _perceptual(
    settings: DistillSettings | AdcSettings | PixSettings,
) -> tuple[nets.Net | None, Params | None]:
    """LPIPS where its loss has a weight; without init.lpips a warning and None.

    ``DistillSettings`` refuses the latter: there the term is not a default.
    """
    if settings.weights.perceptual <= 0:
        return None, None
    if not settings.init.lpips:
        logging.getLogger(__name__).warning(
            "The perceptual term is off: config.init.lpips is empty. Name weights of "
            "LPIPS (gendr convert), or set config.weights.perceptual=0."
        )
        return None, None
    config, params = initial_weights.component(settings.init, "lpips", LPIPSConfig())
    return builder(settings)(LPIPS, config, remat=settings.remat), params


def placement(settings: Settings, mesh: Mesh) -> Placement:
    """The sharding rules of the stage on a mesh."""
    rules = settings.sharding
    return Placement(mesh, rules.rules, rules.min_size, tuple(on_host(settings)))


def on_host(settings: Settings) -> Iterator[str]:
    """Patterns of the paths of optimiser moments that are kept in host memory."""
    if isinstance(settings, DistillSettings):
        roles = {
            "generator": settings.optim.generator,
            "fake": settings.optim.fake,
            "real": settings.optim.real,
            "disc": settings.optim.discriminator,
        }
    elif isinstance(settings, PixelSettings):
        adam = settings.optim
        roles = {"generator": adam.generator, "disc": adam.discriminator}
    elif isinstance(settings, VAESettings):
        roles = {"vae": settings.optim, "disc": settings.optim_discriminator}
    else:
        roles = {"base": settings.optim}
    for name, adam in roles.items():
        if adam.memory != "device":
            yield f"^{name}/opt/"


def gather_weights(
    params: Params, path: str, *, placement: Placement, dtype: str
) -> Params:
    """All-gather weights in the compute dtype; call inside jit.

    ``path``: of the weights in the state or in the frozen weights.
    """
    return sharding.gather(params, placement.tree(params, path), dtype)
