"""Stage distill of gendr-tiny, the shipped restorer.

    gendr train --config configs/small_distill.py --workdir DIR \
        --config.data.path=PHOTOS --config.init.vae=VAE/weights --config.kind=paired

The UNet has no attention and no norms over the image, so its receptive field is that
of its convolutions and images of all sizes are restored alike. Regression
(kind=paired) comes first.

Without norms its activations diverge at learning rates of 5e-4 and above; with them,
a constant rate of 1e-3 with gradients clipped at 1 degenerates to bicubic enlargement
after 2,500 steps.
"""

from ml_collections import ConfigDict

from gendr_jax.train import defaults


def get_config() -> ConfigDict:
    return defaults.config(
        "distill",
        dict(
            steps=20000,
            kind="paired",
            batch_size=8,
            dtype="float32",
            ema=0.99,
            data=dict(
                crop=128,
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
            val=dict(
                every=500,
                count=40,
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
            adapters="side",
            adversarial_start=200,
            discriminator_width=32,
            lora=dict(
                alpha=16.0,
                rank=8,
            ),
            optim=dict(
                discriminator=dict(
                    b1=0.5,
                    lr=0.0003,
                ),
                fake=dict(
                    b1=0.9,
                    lr=0.001,
                ),
                generator=dict(
                    b1=0.9,
                    clip=0.15,
                    lr=0.0006,
                    schedule="cosine",
                    warmup=100,
                ),
                real=dict(
                    lr=0.0001,
                ),
            ),
            score=dict(
                kappa=1.0,
                sequential=False,
            ),
            warmup_steps=20,
            weights=dict(
                adversarial=0.005,
                pixel=1.0,
                repa=0.0,
                score=0.2,
            ),
        ),
    )
