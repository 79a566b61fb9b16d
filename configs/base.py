"""Stage 1: SD2.1-VAE16, the UNet retrained on 16-channel latents (865,979,856 params).

    gendr train --config configs/base.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=VAE16 --config.init.unet=SD21 --config.init.dino=DINOV2 \
        --config.init.prompt=prompt.npz

Denoising + 0.5 REPA, full parameters, 1,000 steps of the new convolutions alone.
The paper gives neither data, learning rate nor steps; docs/algorithm.md says why
these were chosen.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="base",
            steps=200_000,
            batch_size=256,
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
            checkpoint=dict(every=2000, keep=3, keep_every=0, keep_seconds=0),
            log=dict(every=50, samples_every=2000, samples=4),
            profile="",
            watchdog=dict(seconds=1800.0, start_seconds=7200.0, ends=True),
            processes=dict(meet=300, heartbeat=50, barrier=600),
            prediction="eps",
            repa_weight=0.5,
            prompt_dropout=0.1,
            surgery=True,
            surgery_steps=1000,
            sample_steps=25,
            optim_new=dict(
                lr=1e-4, weight_decay=1e-2, clip=1.0, warmup=1000, memory="device"
            ),
            optim=dict(
                lr=2e-5, weight_decay=1e-2, clip=1.0, warmup=1000, memory="device"
            ),
        )
    )
