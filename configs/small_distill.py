"""Stage 2 of gendr-tiny: the restorer that is shipped.

    gendr train --config configs/small_distill.py --workdir DIR \
        --config.data.path=PHOTOS --config.init.vae=VAE/weights --config.kind=paired

Nothing of the UNet sees further than its convolutions, so pictures of all sizes are
restored alike. The regression (kind=paired) comes first.

Without norms its activations explode at rates of 5e-4 and above.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="distill",
            kind="paired",
            generator="full",
            steps=100_000,
            batch_size=16,
            seed=0,
            mesh="",
            accumulate=1,
            dtype="float32",
            remat="none",
            ema=0.999,
            data=dict(
                path="builtin:photographs",
                preset="osediff",
                crop=128,
                scale=4,
                workers=0,
            ),
            init=dict(vae="", unet="", dino="", prompt="", random=True),
            checkpoint=dict(every=200, keep=2, keep_every=0),
            log=dict(every=20, samples_every=500, samples=4),
            vae=dict(
                latent_channels=16,
                block_out_channels=(48,),
                layers_per_block=1,
                norm_groups=8,
                mid_attention=False,
                quant_conv=False,
                post_quant_conv=False,
                patch=4,
                linear_path=True,
                convolutions=False,
                scaling_factor=1.0,
                shift_factor=0.0,
            ),
            unet=dict(
                in_channels=16,
                out_channels=16,
                block_out_channels=(48, 96, 128),
                layers_per_block=1,
                heads=(1, 1, 1),
                attention=(False, False, False),
                cross_attention_dim=8,
                norm_groups=16,
                mid_attention=False,
                norm_channels=True,
                input_shortcut=True,
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
            weights=dict(
                score=0.2,
                adversarial=0.005,
                repa=0.0,
                latent=0.0,
                pixel=1.0,
            ),
            optim=dict(
                generator=dict(
                    lr=1e-3, b1=0.9, clip=1.0, warmup=100, schedule="wsd", decay=600
                ),
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
