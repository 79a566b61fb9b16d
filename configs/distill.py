"""Stage 2: CiDA, one-step distillation of SD2.1-VAE16 into GenDR.

    gendr train --config configs/distill.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=BASE --config.init.unet=BASE --config.init.dino=DINOV2 \
        --config.init.prompt=prompt.npz [--config.kind=vsd|sid|cid|cida]

BASE is the weights folder of stage 1. Defaults are those of docs/algorithm.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="distill",
            kind="cida",
            generator="full",
            steps=50_000,
            batch_size=64,
            seed=0,
            mesh="",
            sharding=dict(rules=(), min_size=4096, grad_reduce="compute"),
            accumulate=1,
            xla_flags="",
            dtype="bfloat16",
            remat="none",
            ema=0.9999,
            max_bad_steps=20,
            data=dict(path="", preset="realesrgan", crop=512, scale=4, workers=8),
            init=dict(vae="", unet="", dino="", prompt="", random=False),
            checkpoint=dict(every=1000, keep=3, keep_every=0, keep_seconds=0),
            log=dict(every=50, samples_every=1000, samples=4),
            profile="",
            watchdog=dict(seconds=1800.0, start_seconds=7200.0, ends=True),
            processes=dict(meet=300, heartbeat=50, barrier=600),
            prediction="eps",
            lora=dict(rank=64, alpha=128.0),
            adapters="merged",
            score=dict(
                alpha=1.0,
                xi=0.5,
                rho=1.0,
                literal=False,
                kappa=2.0,
                t_min=20,
                t_max=979,
                sequential=True,
            ),
            weights=dict(score=1.0, adversarial=0.05, repa=0.5, latent=0.0, pixel=0.0),
            optim=dict(
                generator=dict(lr=1e-5, b1=0.0, clip=1.0, warmup=0, memory="device"),
                fake=dict(lr=5e-5, b1=0.0, clip=1.0, warmup=0, memory="device"),
                real=dict(lr=1e-5, clip=1.0, warmup=0, memory="device"),
                discriminator=dict(
                    lr=1e-5, b1=0.0, clip=1.0, warmup=0, memory="device"
                ),
            ),
            prompt_dropout=0.1,
            discriminator_width=256,
            warmup_steps=1000,
            adversarial_start=2000,
        )
    )
