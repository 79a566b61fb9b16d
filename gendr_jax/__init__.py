"""GenDR in JAX: one-step diffusion super-resolution of real photographs.

Public names are imported at their first use, so that `import gendr_jax` costs nothing.

Shape suffixes, on every array that crosses the border of a function:

    B batch   H W height and width   C channels   L tokens   D width   N heads

`z_bhwc` is a batch of latents, `t_b` one timestep a sample, `context_bld` a batch of
token sequences, `loss_b` one loss a sample, `pixels_hwc` a single picture. Arrays are
NHWC everywhere; only the reader and writer of PyTorch files know NCHW.

Names: `eps` noise, `x0` clean latent, `z` latent, `alpha_bar` cumulative signal power,
`p` clean latent by the real score, `q` by the fake score, `z_g` by the generator,
`z_h` of the true picture, `lq` / `hq` low- and high-quality pixels.

Reading order:

    diffusion.py           the noise schedule and the one-step prediction
    losses/score.py        VSD, SiD and CiD, the heart of the method
    models/unet.py, vae.py the networks
    nets.py                how weights become arguments
    train/stages/distill.py  one CiDA iteration
    restore/pipeline.py    a photograph in, a larger one out
"""

from typing import TYPE_CHECKING, Any

from gendr_jax.version import __version__ as __version__

__all__ = [
    "Restorer",
    "diffusion",
    "load_dinov2",
    "load_unet",
    "load_vae",
    "losses",
    "metrics",
]

if TYPE_CHECKING:
    from gendr_jax import diffusion, losses, metrics
    from gendr_jax.api import load_dinov2, load_unet, load_vae
    from gendr_jax.restore.pipeline import Restorer


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "Restorer":
        from gendr_jax.restore.pipeline import Restorer as value
    elif name == "load_vae":
        from gendr_jax.api import load_vae as value
    elif name == "load_unet":
        from gendr_jax.api import load_unet as value
    elif name == "load_dinov2":
        from gendr_jax.api import load_dinov2 as value
    # `from gendr_jax import diffusion` would ask this function again, without end.
    elif name == "diffusion":
        import gendr_jax.diffusion as value
    elif name == "losses":
        import gendr_jax.losses as value
    elif name == "metrics":
        import gendr_jax.metrics as value
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
