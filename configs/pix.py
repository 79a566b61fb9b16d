"""GenDR-Pix: pixel-shuffle x8 also replaces the decoder (arXiv 2602.10630).

    gendr train --config configs/pix.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=GENDR --config.init.unet=GENDR --config.init.adc=ADC \
        [--config.init.lpips=LPIPS]

GENDR is the weights folder of stage distill, ADC that of configs/adc.py. Without
LPIPS-VGG weights the perceptual term is off, and a message at the start says so.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config("pix", dict(steps=50_000, data=dict(workers=8)))
