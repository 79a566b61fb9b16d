"""Stage 1 of the same code, small enough for two CPU cores.

    gendr train --config configs/tiny_base.py --workdir DIR --config.data.path=PHOTOS \
        --config.init.vae=VAEDIR/weights

Without init.vae the autoencoder is random, which tests the code and nothing else. The
DINOv2 here is random, too, unless init.dino names one: a target of random features.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="base",
            steps=3000,
            batch_size=8,
            seed=0,
            mesh="",
            accumulate=1,
            dtype="float32",
            remat="none",
            ema=0.995,
            max_bad_steps=20,
            data=dict(
                path="builtin:photographs",
                preset="realesrgan",
                crop=64,
                scale=4,
                workers=0,
            ),
            init=dict(vae="", unet="", dino="", prompt="", random=True),
            checkpoint=dict(every=500, keep=2, keep_every=0, keep_seconds=0),
            log=dict(every=20, samples_every=500, samples=4),
            profile="",
            watchdog=dict(seconds=1800.0, start_seconds=7200.0, ends=True),
            processes=dict(meet=300, heartbeat=50, barrier=600),
            vae=dict(
                latent_channels=16,
                block_out_channels=(32, 64, 64),
                layers_per_block=1,
                norm_groups=8,
                mid_attention=False,
                scaling_factor=1.0,
                shift_factor=0.0,
            ),
            unet=dict(
                in_channels=16,
                out_channels=16,
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
            prediction="eps",
            repa_weight=0.1,
            prompt_dropout=0.1,
            surgery=False,
            surgery_steps=0,
            sample_steps=25,
            optim_new=dict(lr=1e-3, weight_decay=1e-2, clip=1.0, warmup=50),
            optim=dict(lr=1e-3, weight_decay=1e-2, clip=1.0, warmup=50),
        )
    )
