"""GenDR-Adc with gendr-tiny as its teacher, for two CPU cores.

    gendr train --config configs/small_adc.py --workdir ADC \
        --config.data.path=PHOTOS --config.init.vae=gendr-tiny \
        --config.init.unet=gendr-tiny

gendr-tiny's autoencoder is linear, so the student starts as its teacher
(weights/linear_ends.py).
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "adc",
        dict(
            steps=600,
            batch_size=8,
            dtype="float32",
            ema=0.99,
            factor=4,
            data=dict(path="builtin:photographs", crop=128),
            init=dict(random=True),
            checkpoint=dict(every=100, keep=2),
            log=dict(every=10, samples_every=200),
            val=dict(every=100, count=40),
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
            unet=dict(
                attention=(False, False, False),
                block_out_channels=(48, 96, 128),
                cross_attention_dim=8,
                heads=(1, 1, 1),
                input_shortcut=True,
                layers_per_block=1,
                mid_attention=False,
                norm_channels=True,
                norm_groups=16,
            ),
            lora=dict(rank=8, alpha=16.0),
            optim=dict(
                generator=dict(lr=1e-4, warmup=50, clip=0.15),
                discriminator=dict(lr=3e-4, b1=0.5),
            ),
            discriminator_width=32,
            adversarial_start=100,
        ),
    )
