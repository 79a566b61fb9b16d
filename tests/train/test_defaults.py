"""`defaults.config`: all settings of a stage, changed by name."""

import dataclasses

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNetConfig
from gendr_jax.train import defaults
from gendr_jax.train.settings import STAGES
from gendr_jax.train.typed import typed


@pytest.mark.parametrize("stage", STAGES)
def test_without_changes_it_is_the_dataclass(stage):
    assert typed(STAGES[stage], defaults.config(stage, {})) == STAGES[stage]()


def test_changes_go_deep_and_leave_their_neighbours():
    made = defaults.config("distill", {"optim": {"fake": {"lr": 1}}, "unet": UNET})
    settings = typed(STAGES["distill"], made)
    default = STAGES["distill"]()
    fake = dataclasses.replace(default.optim.fake, lr=1.0)
    assert settings.optim == dataclasses.replace(default.optim, fake=fake)
    assert settings.optim.fake.b1 == 0.0 != settings.optim.real.b1
    assert settings.unet == UNET
    assert type(made.optim.fake.lr) is float  # so that 0.5 can replace it


UNET = UNetConfig(block_out_channels=(8, 16), heads=(1, 2), attention=(False, True))


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("distil", {}, "'distil', known are vae, base, distill"),
        ("base", {"step": 3}, "config.step is unknown, did you mean steps"),
        ("base", {"data": {"crops": 3}}, "config.data.crops is unknown, did you mean"),
    ],
)
def test_unknown_names_are_refused(stage, changes, words):
    with pytest.raises(UsageError, match=words):
        defaults.config(stage, changes)


def test_a_wrong_type_is_refused_with_the_others():
    made = defaults.config("base", {"steps": "many", "data": 3})
    with pytest.raises(
        UsageError, match=r"2 problems.*config\.data: .*config\.steps: "
    ):
        typed(STAGES["base"], made)


def test_a_field_that_may_be_none_takes_a_value_of_its_type():
    @dataclasses.dataclass(frozen=True)
    class Cut:
        size: int | None = None
        sizes: tuple[int, ...] | None = None

    made = defaults.as_config(Cut())
    assert typed(Cut, made) == Cut()
    made.size, made.sizes = 3, (1, 2)
    assert typed(Cut, made) == Cut(3, (1, 2))
    with pytest.raises(TypeError):
        made.size = "three"
