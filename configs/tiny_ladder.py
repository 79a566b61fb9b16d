"""Stage 2 for comparing kinds and settings: tiny_distill.py, smaller and plainer.

    gendr train --config configs/tiny_ladder.py --workdir DIR --config.kind=sid \
        --config.data.path=PHOTOS --config.init.vae=BASE --config.init.unet=BASE

Weights, xi, rho and t are those of distill.py, with one paired term of the least weight
that the literal target is allowed with. Guidance is off: the base knows one prompt.
tools/ladder.py trains the four kinds with it, docs/ladder.md has what came out.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="distill",
            kind="cida",
            generator="full",
            steps=200,
            batch_size=8,
            seed=0,
            mesh="",
            accumulate=1,
            dtype="float32",
            remat="none",
            ema=0.98,
            max_bad_steps=20,
            data=dict(
                path="builtin:photographs",
                preset="realesrgan",
                crop=32,
                scale=4,
                workers=0,
            ),
            init=dict(vae="", unet="", dino="", prompt="", random=True),
            checkpoint=dict(every=0, keep=1, keep_every=0, keep_seconds=0),
            log=dict(every=10, samples_every=0, samples=4),
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
                block_out_channels=(32, 64),
                layers_per_block=1,
                heads=(2, 4),
                attention=(False, True),
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
            weights=dict(score=1.0, adversarial=0.05, repa=0.5, latent=0.3, pixel=0.0),
            optim=dict(
                generator=dict(lr=3e-4, b1=0.9, clip=1.0, warmup=50),
                fake=dict(lr=1e-3, b1=0.9, clip=1.0, warmup=0),
                real=dict(lr=1e-4, clip=1.0, warmup=0),
                discriminator=dict(lr=3e-4, b1=0.5, clip=1.0, warmup=0),
            ),
            prompt_dropout=0.1,
            discriminator_width=32,
            warmup_steps=20,
            adversarial_start=50,
        )
    )
