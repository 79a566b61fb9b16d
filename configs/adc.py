"""GenDR-Adc: pixel-unshuffle x8 replaces the encoder of GenDR (arXiv 2602.10630).

    gendr train --config configs/adc.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=GENDR --config.init.unet=GENDR

GENDR is the weights folder of stage distill. The paper gives AdamW 1e-5 in bfloat16 on
eight A100; steps and batch are our choice (docs/algorithm.md).
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config("adc", dict(steps=50_000, data=dict(workers=8)))
