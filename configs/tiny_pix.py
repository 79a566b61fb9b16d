"""GenDR-Pix, small enough for two CPU cores.

    gendr train --config configs/tiny_pix.py --workdir DIR \
        --config.data.path=PHOTOS --config.init.vae=STUDENT/weights \
        --config.init.unet=STUDENT/weights \
        --config.init.adc=ADC/weights

STUDENT is the workdir of tiny_distill.py; its latents have a quarter of the image size.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "pix",
        dict(
            steps=1500,
            batch_size=8,
            dtype="float32",
            ema=0.99,
            factor=4,
            data=dict(path="builtin:photographs", crop=64),
            init=dict(random=True),
            checkpoint=dict(every=250, keep=2),
            log=dict(every=20, samples_every=250),
            vae=dict(
                block_out_channels=(32, 64, 64),
                layers_per_block=1,
                norm_groups=8,
                mid_attention=False,
                scaling_factor=1.0,
            ),
            unet=dict(
                block_out_channels=(64, 128, 128),
                layers_per_block=1,
                heads=(2, 4, 4),
                attention=(False, False, True),
                cross_attention_dim=64,
                norm_groups=16,
            ),
            lora=dict(rank=8, alpha=16.0),
            optim=dict(
                generator=dict(lr=3e-4, warmup=50),
                discriminator=dict(lr=3e-4, b1=0.5),
            ),
            discriminator_width=32,
            adversarial_start=200,
        ),
    )
