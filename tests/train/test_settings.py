"""Settings that mean nothing are refused before anything is read."""

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.train.defaults import config
from gendr_jax.train.settings import STAGES
from gendr_jax.train.typed import typed

NONSENSE = [
    ("vae", "ema", 1.5),
    ("vae", "ema", 1.0),
    ("vae", "optim.lr", -1.0),
    ("vae", "optim.lr", float("nan")),
    ("vae", "optim.b1", 2.0),
    ("vae", "optim.b2", 1.0),
    ("vae", "optim.clip", -1.0),
    ("vae", "optim.clip", 0.0),
    ("vae", "optim.weight_decay", -0.1),
    ("vae", "max_bad_steps", 0),
    ("vae", "checkpoint.keep", 0),
    ("vae", "steps", -1),
    ("vae", "kl_weight", -1.0),
    ("vae", "adversarial_start", -2),
    ("vae", "vae.scaling_factor", 0.0),
    ("vae", "log.every", -1),
    ("vae", "batch_size", 0),
    ("vae", "data.workers", -1),
    ("vae", "data.crop", 0),
    ("vae", "val.count", 0),
    ("base", "repa_weight", -0.5),
    ("base", "prompt_dropout", 1.01),
    ("base", "sample_steps", 0),
    ("distill", "prompt_dropout", 3.0),
    ("distill", "score.t_min", 990),
    ("distill", "score.t_min", -5),
    ("distill", "score.t_max", 1500),
    ("distill", "score.kappa", -1.0),
    ("distill", "lora.rank", 0),
    ("distill", "weights.score", -1.0),
    ("distill", "adversarial_start", -1),
    ("distill", "optim.fake.lr", -1e-5),
    ("adc", "factor", 0),
    ("adc", "weights.adversarial", -1.0),
    ("pix", "mask_radius", 0.0),
    ("pix", "ema", -0.1),
    ("vae", "watchdog.seconds", -1.0),
    ("vae", "processes.meet", 0),
    ("vae", "vae.latent_channels", 0),
    ("base", "unet.layers_per_block", 0),
    ("base", "alignment.hidden", 0),
    ("distill", "lora.alpha", float("nan")),
]


@pytest.mark.parametrize(("stage", "key", "value"), NONSENSE)
def test_nonsense_is_refused_by_its_name(stage, key, value):
    made = config(stage, {})
    made.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=rf"{key.rpartition('.')[2]}.*{value}"):
        typed(STAGES[stage], made)


@pytest.mark.parametrize("stage", STAGES)
def test_the_defaults_are_taken(stage):
    assert typed(STAGES[stage], config(stage, {})) == STAGES[stage]()


def test_limits_themselves_are_taken():
    changes = {
        "prompt_dropout": 1.0,
        "ema": 0.0,
        "score": {"t_min": 0, "t_max": 999},
        "optim": {"generator": {"lr": 0.0, "b1": 0.0}},
        "log": {"every": 0},
    }
    typed(STAGES["distill"], config("distill", changes))
