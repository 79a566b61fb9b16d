"""Stage distill for comparing kinds and settings: smaller than tiny_distill.py.

    gendr train --config configs/tiny_ladder.py --workdir DIR --config.kind=sid \
        --config.data.path=PHOTOS --config.init.vae=BASE --config.init.unet=BASE

Weights, xi, rho and t are those of distill.py, with one paired term of the smallest
weight that the literal target allows. Guidance is off: the base has one prompt.
tools/ladder.py trains the four kinds with it, docs/ladder.md has the results.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "distill",
        dict(
            steps=200,
            batch_size=8,
            dtype="float32",
            ema=0.98,
            data=dict(path="builtin:photographs", crop=32),
            init=dict(random=True),
            checkpoint=dict(every=0, keep=1),
            log=dict(every=10, samples_every=0),
            vae=dict(
                block_out_channels=(32, 64, 64),
                layers_per_block=1,
                norm_groups=8,
                mid_attention=False,
                scaling_factor=1.0,
            ),
            unet=dict(
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
            lora=dict(rank=8, alpha=16.0),
            score=dict(kappa=1.0, sequential=False),
            weights=dict(latent=0.3),
            optim=dict(
                generator=dict(lr=3e-4, b1=0.9, warmup=50),
                fake=dict(lr=1e-3, b1=0.9),
                real=dict(lr=1e-4),
                discriminator=dict(lr=3e-4, b1=0.5),
            ),
            discriminator_width=32,
            warmup_steps=20,
            adversarial_start=50,
        ),
    )
