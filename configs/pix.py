"""GenDR-Pix: the decoder goes too, x8 pixel-shuffle instead (arXiv 2602.10630).

    gendr train --config configs/pix.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=GENDR --config.init.unet=GENDR --config.init.adc=ADC \
        [--config.init.lpips=LPIPS]

GENDR is the weights folder of stage 2, ADC that of configs/adc.py. Without weights of
LPIPS-VGG the perceptual term is off, and the start says so.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config("pix", dict(steps=50_000, data=dict(workers=8)))
