"""Stage base on gendr-tiny's autoencoder: its UNet as a diffusion model.

    gendr train --config configs/small_base.py --workdir DIR \
        --config.data.path=PHOTOS --config.init.vae=gendr-tiny

The start of the score networks that VSD, SiD, CiD and CiDA need. DINOv2's weights are
not shipped, so alignment is off (repa_weight=0).
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "base",
        dict(
            steps=2000,
            batch_size=16,
            dtype="float32",
            ema=0.99,
            data=dict(
                crop=64,
                path="builtin:photographs",
            ),
            init=dict(
                random=True,
            ),
            checkpoint=dict(
                every=200,
                keep=2,
            ),
            log=dict(
                every=20,
                samples_every=500,
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
            alignment=dict(
                dino=dict(
                    hidden_size=64,
                    image_size=112,
                    num_attention_heads=2,
                    num_hidden_layers=2,
                ),
                hidden=128,
            ),
            repa_weight=0.0,
            surgery=False,
            surgery_steps=0,
            optim_new=dict(
                lr=0.001,
                warmup=100,
            ),
            optim=dict(
                lr=0.001,
                schedule="cosine",
                warmup=100,
            ),
        ),
    )
