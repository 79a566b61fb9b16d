"""Stage vae of gendr-tiny: a linear autoencoder, 4 x 4 pixels to 16 channels.

    gendr train --config configs/small_vae.py --workdir DIR --config.data.path=PHOTOS

It is given by the principal components of the photographs' patches, the best linear
map; no step is trained. With vae.convolutions=True and some steps, convolutions learn
the remaining error.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "vae",
        dict(
            steps=0,
            batch_size=8,
            dtype="float32",
            remat="none",
            ema=0.995,
            data=dict(
                crop=128,
                path="builtin:photographs",
            ),
            init=dict(
                random=True,
            ),
            checkpoint=dict(
                every=500,
                keep=2,
            ),
            log=dict(
                every=20,
                samples_every=0,
            ),
            vae=dict(
                block_out_channels=(48,),
                convolutions=False,
                layers_per_block=1,
                linear_path=True,
                mid_attention=False,
                norm_groups=8,
                patch=4,
                post_quant_conv=False,
                quant_conv=False,
                scaling_factor=1.0,
            ),
            adversarial_weight=0.0,
            discriminator=dict(
                norm_groups=16,
                widths=(16, 32, 64),
            ),
            kl_weight=0.0,
            optim=dict(
                b1=0.9,
                b2=0.99,
                lr=0.001,
                warmup=50,
            ),
        ),
    )
