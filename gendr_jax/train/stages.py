"""From a configuration to a stage and its data: the one place where all is wired.

Reads starting weights, declares networks, picks the step. The mathematics is in the
``*_step.py`` files, the running in ``loop.py``.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gendr_jax import nets, sharding
from gendr_jax.data import pipeline
from gendr_jax.data.locate import BUILTIN, open_source
from gendr_jax.errors import UsageError
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.heads import (
    DiscriminatorHead,
    DiscriminatorHeadConfig,
    PatchDiscriminator,
    RepaProjector,
    RepaProjectorConfig,
)
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.nets import Params
from gendr_jax.train import base_step, distill_step, start, vae_step
from gendr_jax.train.roles import DistillNets
from gendr_jax.train.run_settings import RunSettings
from gendr_jax.train.settings import (
    BaseSettings,
    Common,
    DistillSettings,
    VAESettings,
)
from gendr_jax.train.stage import Stage
from gendr_jax.train.typed import typed
from gendr_jax.weights import folder, surgery


@dataclasses.dataclass(frozen=True)
class Setup:
    """A stage, its data from any step on, and how long to run."""

    stage: Stage
    batches: Callable[[int], Iterator[Any]]
    settings: RunSettings


def setup(config: Mapping[str, Any], mesh: Mesh) -> Setup:
    """Check the configuration, read starting weights and data, wire the stage.

    Raises:
        UsageError: a misspelt or impossible setting.
        InputError: weights or photographs that cannot be read.
    """
    kinds = {"vae": VAESettings, "base": BaseSettings, "distill": DistillSettings}
    kind = config.get("stage")
    if kind not in kinds:
        raise UsageError(
            f"config.stage is {kind!r}, known are {', '.join(kinds)}. Set one of them."
        )
    settings = typed(kinds[kind], config)
    check(settings, mesh)
    gather = functools.partial(whole, mesh=mesh, dtype=settings.dtype)
    makers = {"vae": _vae_stage, "base": _base_stage, "distill": _distill_stage}
    stage = makers[kind](settings, gather)
    return Setup(stage, data_batches(settings), run_settings(settings))


def whole(params: Params, *, mesh: Mesh, dtype: str) -> Params:
    """Weights in the compute dtype, whole on every device; call inside jit."""
    return sharding.gather(params, sharding.tree_shardings(params, mesh), dtype)


def check(settings: Common, mesh: Mesh) -> None:
    """Refuse sizes that do not fit each other, before anything is read."""
    unit = settings.vae.factor * 2
    if settings.data.crop % unit:
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of {unit} (the VAE's "
            f"factor {settings.vae.factor}, twice). Choose one."
        )
    if not isinstance(settings, VAESettings):
        check_channels(settings.unet, settings.vae)
    if (
        isinstance(settings, DistillSettings)
        and settings.data.crop % settings.data.scale
    ):
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of data.scale="
            f"{settings.data.scale}. Choose one."
        )
    if settings.batch_size % mesh.size:
        raise UsageError(
            f"batch_size={settings.batch_size} does not divide over {mesh.size} "
            "devices. Choose a multiple."
        )


def check_channels(unet: UNetConfig, vae: VAEConfig) -> None:
    """Refuse a UNet that does not work on this autoencoder's latents."""
    channels = (unet.in_channels, unet.out_channels)
    if channels != (vae.latent_channels,) * 2:
        raise UsageError(
            f"the UNet takes {channels[0]} channels and gives {channels[1]}, the VAE's "
            f"latents have {vae.latent_channels}. Combine networks of one training, or "
            "let stage base widen the UNet (config.unet.in_channels, out_channels)."
        )


def run_settings(settings: Common) -> RunSettings:
    """What the loop needs to know."""
    return RunSettings(
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        log_every=settings.log.every,
        samples_every=settings.log.samples_every,
        samples=settings.log.samples,
        checkpoint_every=settings.checkpoint.every,
        keep=settings.checkpoint.keep,
        keep_every=settings.checkpoint.keep_every,
        keep_seconds=settings.checkpoint.keep_seconds,
        max_bad_steps=settings.max_bad_steps,
        profile=settings.profile,
        watchdog=settings.watchdog,
        barrier_seconds=settings.processes.barrier,
        config=settings,
    )


def data_batches(settings: Common) -> Callable[[int], Iterator[Any]]:
    """start -> endless batches of this process, of what ``data.path`` names.

    Raises:
        UsageError: nothing usable is there.
    """
    data = settings.data
    if not data.path:
        raise UsageError(
            "config.data.path is empty. Name a folder of photographs, or "
            f"{BUILTIN} for those that come with scikit-image."
        )
    source = open_source(data.path)
    return lambda first: pipeline.batches(
        source,
        batch_size=settings.batch_size,
        crop=data.crop,
        seed=settings.seed,
        start=first,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=data.workers,
    )


def _vae_stage(settings: VAESettings, gather: Callable[[Params], Params]) -> Stage:
    config, params = start.component(settings.init, "vae", settings.vae)
    settings = dataclasses.replace(settings, vae=config)
    vae = nets.build(VAE, config, dtype=settings.dtype, remat=settings.remat)
    disc = nets.build(PatchDiscriminator, settings.discriminator, dtype=settings.dtype)

    def export(state: vae_step.VAEState, path: Path) -> None:
        factor = vae_step.scaling_factor(state)
        measured = dataclasses.replace(config, scaling_factor=factor)
        folder.save(path, kind="vae", vae=(measured, state.ema))

    return Stage(
        init=vae_step.make_init(settings, vae, disc),
        step=vae_step.make_step(settings, vae, disc, gather),
        frozen={},
        sample=vae_step.make_sample(vae, gather),
        export=export,
        start={} if params is None else {"vae": nets.cast(params, "float32")},
    )


def _frozen_parts(settings: BaseSettings | DistillSettings):
    """The frozen autoencoder, DINOv2 and prompt; settings with the VAE's own config."""
    vae_config, vae = start.component(settings.init, "vae", settings.vae)
    settings = dataclasses.replace(settings, vae=vae_config)
    vae_net = nets.build(VAE, vae_config, dtype=settings.dtype, remat=settings.remat)
    dino_config, dino = start.component(settings.init, "dino", settings.alignment.dino)
    dino_net = nets.build(DINOv2, dino_config, dtype=settings.dtype)
    if vae is None:
        vae = start.random_like(vae_net, settings.seed, start.VAE_STREAM)
    if dino is None:
        dino = start.random_like(dino_net, settings.seed, start.DINO_STREAM)
    width = settings.unet.cross_attention_dim
    frozen = {
        "vae": nets.cast(vae, settings.dtype),
        "dino": nets.cast(dino, settings.dtype),
        "prompt": start.prompt(settings.init, width, settings.seed),
    }
    projector = nets.build(
        RepaProjector,
        RepaProjectorConfig(
            in_dim=settings.unet.block_out_channels[0],
            hidden_dim=settings.alignment.hidden,
            out_dim=dino_config.hidden_size,
        ),
        dtype=settings.dtype,
    )
    return settings, frozen, vae_net, dino_net, projector


def _base_stage(settings: BaseSettings, gather: Callable[[Params], Params]) -> Stage:
    settings, frozen, vae, dino, projector = _frozen_parts(settings)
    config = settings.unet
    start.check_prediction(settings.init, settings.prediction)
    found, params = start.component(settings.init, "unet", config)
    if params is not None and found.in_channels != config.in_channels:
        params = surgery.widen(
            params, channels_in=config.in_channels, channels_out=config.out_channels
        )
    unet = nets.build(UNet, config, dtype=settings.dtype, remat=settings.remat)
    if params is not None:
        params = nets.cast(params, "float32")
        nets.check_like(params, unet.abstract, what=f"init.unet={settings.init.unet}")
    parts = base_step.BaseNets(vae, unet, projector, dino, gather)

    def export(state: base_step.BaseState, path: Path) -> None:
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
        init=base_step.make_init(settings, parts),
        step=base_step.make_step(settings, parts),
        frozen=frozen,
        sample=base_step.make_sample(settings, parts),
        export=export,
        start={} if params is None else {"unet": params},
    )


def _distill_stage(
    settings: DistillSettings, gather: Callable[[Params], Params]
) -> Stage:
    settings, frozen, vae, dino, projector = _frozen_parts(settings)
    start.check_prediction(settings.init, settings.prediction)
    config, params = start.component(settings.init, "unet", settings.unet)
    check_channels(config, settings.vae)
    build = functools.partial(
        nets.build, UNet, config, dtype=settings.dtype, remat=settings.remat
    )
    unet, adapted = build(), build(lora=settings.lora)
    if params is None:
        params = start.random_like(unet, settings.seed, start.UNET_STREAM)
    head = DiscriminatorHeadConfig(
        in_channels=config.block_out_channels[-1],
        hidden_channels=settings.discriminator_width,
        norm_groups=config.norm_groups,
    )
    parts = DistillNets(
        vae=vae,
        unet=unet,
        adapted=adapted,
        projector=projector,
        dino=dino,
        head=nets.build(DiscriminatorHead, head, dtype=settings.dtype),
        gather=gather,
    )
    frozen["unet"] = nets.cast(params, settings.dtype)
    begin = {"unet": params} | start.projector(settings.init, projector)
    step = distill_step.Distill(settings, parts)

    def export(state: distill_step.DistillState, path: Path) -> None:
        weights = distill_step.restorer_weights(settings, state, frozen["unet"])
        folder.save(
            path,
            kind="restorer",
            vae=(settings.vae, frozen["vae"]),
            unet=(config, jax.tree.map(jnp.asarray, weights)),
            prompt=frozen["prompt"],
            prediction=settings.prediction,
        )

    return Stage(
        init=distill_step.make_init(settings, parts),
        step=step.step,
        frozen=frozen,
        sample=step.sample,
        export=export,
        start=begin,
    )
