"""Stage base, small enough for two CPU cores.

    gendr train --config configs/tiny_base.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=VAEDIR/weights

Without init.vae the autoencoder is random, which is only good for tests. Without
init.dino DINOv2 is random too, so the alignment target is random features.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "base",
        dict(
            steps=3000,
            batch_size=8,
            dtype="float32",
            ema=0.995,
            data=dict(path="builtin:photographs", crop=64),
            init=dict(random=True),
            checkpoint=dict(every=500, keep=2),
            log=dict(every=20, samples_every=500),
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
            alignment=dict(
                dino=dict(
                    hidden_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=112,
                ),
                hidden=128,
            ),
            repa_weight=0.1,
            surgery=False,
            surgery_steps=0,
            optim_new=dict(lr=1e-3, warmup=50),
            optim=dict(lr=1e-3, warmup=50),
        ),
    )
