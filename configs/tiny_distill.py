"""Stage 2 of the same code, small enough for two CPU cores.

    gendr train --config configs/tiny_distill.py --workdir DIR \
        --config.data.path=PHOTOS --config.init.vae=BASE/weights \
        --config.init.unet=BASE/weights

A base as small as this one knows little, so the paired terms (latent, pixel) are on;
set them to 0 for the paper's objective.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="distill",
            kind="cida",
            generator="full",
            steps=1500,
            batch_size=8,
            seed=0,
            mesh="",
            accumulate=1,
            dtype="float32",
            remat="none",
            ema=0.99,
            max_bad_steps=20,
            data=dict(
                path="builtin:photographs",
                preset="realesrgan",
                crop=64,
                scale=4,
                workers=0,
            ),
            init=dict(vae="", unet="", dino="", prompt="", random=True),
            checkpoint=dict(every=250, keep=2, keep_every=0, keep_seconds=0),
            log=dict(every=20, samples_every=250, samples=4),
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
            lora=dict(rank=8, alpha=16.0),
            adapters="side",
            score=dict(
                alpha=1.0,
                xi=0.5,
                rho=1.0,
                literal=False,
                kappa=1.0,
                t_min=20,
                t_max=979,
                sequential=False,
            ),
            weights=dict(score=0.2, adversarial=0.005, repa=0.1, latent=1.0, pixel=1.0),
            optim=dict(
                generator=dict(lr=3e-4, b1=0.9, clip=1.0, warmup=50),
                fake=dict(lr=1e-3, b1=0.9, clip=1.0, warmup=0),
                real=dict(lr=1e-4, clip=1.0, warmup=0),
                discriminator=dict(lr=3e-4, b1=0.5, clip=1.0, warmup=0),
            ),
            prompt_dropout=0.1,
            discriminator_width=32,
            warmup_steps=20,
            adversarial_start=200,
        )
    )
