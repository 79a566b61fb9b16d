"""Stage base: the SD2.1 UNet retrained on 16-channel latents (865,979,856 parameters).

    gendr train --config configs/base.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=VAE16 --config.init.unet=SD21 --config.init.dino=DINOV2 \
        --config.init.prompt=prompt.npz

Denoising + 0.5 REPA. The first 1,000 steps train only the new layers, then all
parameters are trained. The paper gives neither data, learning rate nor steps;
docs/algorithm.md has the reasons for these values.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "base",
        dict(
            steps=200_000,
            batch_size=256,
            data=dict(workers=8),
            checkpoint=dict(every=2000),
            log=dict(samples_every=2000),
        ),
    )
