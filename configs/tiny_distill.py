"""Stage distill, small enough for two CPU cores.

    gendr train --config configs/tiny_distill.py --workdir DIR \
        --config.data.path=PHOTOS --config.init.vae=BASE/weights \
        --config.init.unet=BASE/weights

Since such a small base model is weak, the paired terms (latent, pixel) are on; set
their weights to 0 for the paper's objective.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "distill",
        dict(
            steps=1500,
            batch_size=8,
            dtype="float32",
            ema=0.99,
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
            adapters="side",
            score=dict(kappa=1.0, sequential=False),
            weights=dict(score=0.2, adversarial=0.005, repa=0.1, latent=1.0, pixel=1.0),
            optim=dict(
                generator=dict(lr=3e-4, b1=0.9, warmup=50),
                fake=dict(lr=1e-3, b1=0.9),
                real=dict(lr=1e-4),
                discriminator=dict(lr=3e-4, b1=0.5),
            ),
            discriminator_width=32,
            warmup_steps=20,
            adversarial_start=200,
        ),
    )
