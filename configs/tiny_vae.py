"""Stage 0 of the same code, small enough for two CPU cores (about 1.2 M parameters).

gendr train --config configs/tiny_vae.py --workdir DIR --config.data.path=PHOTOS
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="vae",
            steps=2000,
            batch_size=8,
            seed=0,
            mesh="",
            accumulate=1,
            dtype="float32",
            remat="none",
            ema=0.995,
            max_bad_steps=20,
            data=dict(
                path="builtin:photographs",
                preset="realesrgan",
                crop=64,
                scale=4,
                workers=0,
            ),
            init=dict(vae="", random=True),
            checkpoint=dict(every=500, keep=2, keep_every=0, keep_seconds=0),
            log=dict(every=20, samples_every=500, samples=4),
            profile="",
            watchdog=dict(seconds=1800.0, start_seconds=7200.0, ends=True),
            processes=dict(meet=300, heartbeat=50, barrier=600),
            vae=dict(
                latent_channels=16,
                block_out_channels=(32, 64, 64),
                layers_per_block=1,
                norm_groups=8,
                mid_attention=False,
                scaling_factor=1.0,
                shift_factor=0.0,
            ),
            discriminator=dict(widths=(16, 32, 64)),
            kl_weight=1e-4,
            adversarial_weight=0.05,
            adversarial_start=-1,
            optim=dict(lr=1e-3, b1=0.9, b2=0.99, weight_decay=0.0, clip=1.0, warmup=50),
            optim_discriminator=dict(
                lr=5e-4, b1=0.5, b2=0.9, weight_decay=0.0, clip=1.0, warmup=50
            ),
        )
    )
