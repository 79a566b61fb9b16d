"""Losses: pure functions of arrays, one value per sample, float32 or better.

`score` (VSD, SiD, CiD), `sequential` (their gradient with one network in memory),
`adversarial`, `alignment` (REPA), `fidelity` (regression, KL), `masked_fourier` and
`random_pad` (GenDR-Pix), `block_grid`, `reduction` (averaging samples).
"""

from gendr_jax.losses.adversarial import discriminator_loss, generator_loss
from gendr_jax.losses.alignment import dino_input, match_grid, repa
from gendr_jax.losses.block_grid import block_grid
from gendr_jax.losses.fidelity import denoising, kl, l1, l2
from gendr_jax.losses.masked_fourier import MASK_RADIUS, least_side, masked_fourier
from gendr_jax.losses.random_pad import random_offsets, random_pad
from gendr_jax.losses.reduction import (
    finite_gradient,
    finite_mean,
    finite_share,
    finite_weights,
    mark_nonfinite,
    replace_nonfinite,
    sample_mean,
)
from gendr_jax.losses.score import (
    MIN_LAMBDA_REC,
    cid,
    require_paired_term,
    sid,
    vsd,
)
from gendr_jax.losses.sequential import (
    ScoreSettings,
    attach_gradient,
    score_gradient,
    score_loss,
)

__all__ = [
    "MASK_RADIUS",
    "MIN_LAMBDA_REC",
    "ScoreSettings",
    "attach_gradient",
    "block_grid",
    "cid",
    "denoising",
    "dino_input",
    "discriminator_loss",
    "finite_gradient",
    "finite_mean",
    "finite_share",
    "finite_weights",
    "mark_nonfinite",
    "sample_mean",
    "replace_nonfinite",
    "generator_loss",
    "kl",
    "l1",
    "l2",
    "least_side",
    "masked_fourier",
    "match_grid",
    "random_offsets",
    "random_pad",
    "repa",
    "require_paired_term",
    "score_gradient",
    "score_loss",
    "sid",
    "vsd",
]
