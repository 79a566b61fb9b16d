"""Stage 2 for comparing kinds and settings: tiny_distill.py, smaller and plainer.

    gendr train --config configs/tiny_ladder.py --workdir DIR --config.kind=sid \
        --config.data.path=PHOTOS --config.init.vae=BASE --config.init.unet=BASE

The full-size defaults where they can be had (weights, xi, rho, t), and one paired term
of the least weight that the literal target is allowed with. Guidance is off: the base
knows one prompt. Differs from tiny_distill.py in what is set here. docs/ladder.md.
"""

from ml_collections import ConfigDict

from configs import tiny_distill


def get_config() -> ConfigDict:
    config = tiny_distill.get_config()
    config.steps = 250
    config.ema = 0.98
    config.data.crop = 32
    config.checkpoint.every = 0
    config.checkpoint.keep = 1
    config.log.every = 10
    config.log.samples_every = 0
    config.unet.block_out_channels = (32, 64)
    config.unet.heads = (2, 4)
    config.unet.attention = (False, True)
    config.weights = ConfigDict(
        dict(score=1.0, adversarial=0.05, repa=0.5, latent=0.3, pixel=0.0)
    )
    config.warmup_steps = 20
    config.adversarial_start = 50
    return config
