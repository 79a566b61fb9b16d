"""Stage 0 of gendr-tiny: patches of 4 x 4 pixels to 16 numbers and back, linearly.

    gendr train --config configs/small_vae.py --workdir DIR --config.data.path=PHOTOS

The map is that of the principal components of the photographs' patches, which is the
best one; no step is trained. With vae.convolutions=True and some steps convolutions
learn what it leaves.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            stage="vae",
            steps=0,
            batch_size=8,
            seed=0,
            dtype="float32",
            remat="none",
            ema=0.995,
            data=dict(path="builtin:photographs", crop=128, workers=0),
            init=dict(vae="", random=True),
            checkpoint=dict(every=500, keep=2),
            log=dict(every=20, samples_every=0, samples=4),
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
            discriminator=dict(widths=(16, 32, 64), norm_groups=16),
            kl_weight=0.0,
            adversarial_weight=0.0,
            adversarial_start=-1,
            optim=dict(lr=1e-3, b1=0.9, b2=0.99, clip=1.0, warmup=50),
        )
    )
