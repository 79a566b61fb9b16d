"""Stage 0: a 16-channel, factor-8 autoencoder of your own (57,266,643 parameters).

    gendr train --config configs/vae16.py --workdir DIR --config.data.path=PHOTOS

Most users start from ostris/vae-kl-f8-d16 instead (docs/algorithm.md). Every field
not named here has the default written in gendr_jax/train/settings.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="vae",
            steps=300_000,
            batch_size=96,
            seed=0,
            mesh="",
            sharding=dict(rules=(), min_size=4096, grad_reduce="compute"),
            accumulate=1,
            xla_flags="",
            dtype="bfloat16",
            remat="block",
            ema=0.9999,
            max_bad_steps=20,
            data=dict(path="", preset="realesrgan", crop=256, scale=4, workers=8),
            init=dict(vae="", random=True),
            checkpoint=dict(every=5000, keep=3, keep_every=0, keep_seconds=0),
            log=dict(every=50, samples_every=2000, samples=4),
            profile="",
            watchdog=dict(seconds=1800.0, start_seconds=7200.0, ends=True),
            processes=dict(meet=300, heartbeat=50, barrier=600),
            vae=dict(
                latent_channels=16,
                block_out_channels=(128, 128, 256, 512),
                layers_per_block=2,
                norm_groups=32,
                scaling_factor=0.2614,
                shift_factor=0.0,
            ),
            discriminator=dict(widths=(64, 128, 256, 512)),
            kl_weight=1e-6,
            adversarial_weight=0.05,
            adversarial_start=50_000,
            optim=dict(
                lr=1e-4, b1=0.5, b2=0.9, weight_decay=0.0, clip=1.0, warmup=1000
            ),
            optim_discriminator=dict(
                lr=1e-4, b1=0.5, b2=0.9, weight_decay=0.0, clip=1.0, warmup=1000
            ),
        )
    )
