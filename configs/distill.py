"""Stage 2: CiDA, one-step distillation of SD2.1-VAE16 into GenDR.

    gendr train --config configs/distill.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=BASE --config.init.unet=BASE --config.init.dino=DINOV2 \
        --config.init.prompt=prompt.npz [--config.kind=vsd|sid|cid|cida]

BASE is the weights folder of stage 1. Defaults are those of docs/algorithm.md.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "distill",
        dict(
            steps=50_000,
            data=dict(workers=8),
        ),
    )
