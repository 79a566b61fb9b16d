"""Stage vae: train your own 16-channel, factor-8 autoencoder (57,266,643 parameters).

    gendr train --config configs/vae16.py --workdir DIR --config.data.path=PHOTOS

Most users start from ostris/vae-kl-f8-d16 instead (docs/algorithm.md). Fields that are
not given here have the defaults of gendr_jax/train/settings.py.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "vae",
        dict(
            steps=300_000,
            batch_size=96,
            data=dict(crop=256, workers=8),
            init=dict(random=True),
            checkpoint=dict(every=5000),
            log=dict(samples_every=2000),
            adversarial_start=50_000,
            optim=dict(warmup=1000),
            optim_discriminator=dict(warmup=1000),
        ),
    )
