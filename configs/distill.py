"""Stage distill: CiDA, one-step distillation of the base model into GenDR.

    gendr train --config configs/distill.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=BASE --config.init.unet=BASE --config.init.dino=DINOV2 \
        --config.init.prompt=prompt.npz [--config.kind=vsd|sid|cid|cida]

BASE is the weights folder of stage base. docs/algorithm.md explains the defaults.
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
