"""Stage vae, small enough for two CPU cores (about 1.2 M parameters).

gendr train --config configs/tiny_vae.py --workdir DIR --config.data.path=PHOTOS
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "vae",
        dict(
            steps=2000,
            batch_size=8,
            dtype="float32",
            remat="none",
            ema=0.995,
            data=dict(path="builtin:photographs", crop=64),
            init=dict(random=True),
            checkpoint=dict(every=500, keep=2),
            log=dict(every=20, samples_every=500),
            vae=dict(
                block_out_channels=(32, 64, 64),
                layers_per_block=1,
                norm_groups=8,
                mid_attention=False,
                scaling_factor=1.0,
            ),
            discriminator=dict(widths=(16, 32, 64)),
            kl_weight=1e-4,
            optim=dict(lr=1e-3, b1=0.9, b2=0.99, warmup=50),
            optim_discriminator=dict(lr=5e-4, warmup=50),
        ),
    )
