"""What a run is told and what it hands back: two records, no behaviour."""

import dataclasses
from typing import Any, Literal

from gendr_jax import sharding
from gendr_jax.errors import UsageError
from gendr_jax.train import profile
from gendr_jax.train.resume import MAY_CHANGE
from gendr_jax.train.settings import Watchdog
from gendr_jax.train.stage import State

Reason = Literal["done", "sigterm", "user", "nan"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long a run is and what it leaves behind. Counts are steps; 0 means never.

    Attributes:
        steps: the run is done after this many.
        batch_size: samples a step, of all processes together.
        seed: of the start and of every step.
        log_every, samples_every, checkpoint_every: besides these, the last step is
            always saved.
        samples: rows of a contact sheet.
        keep, keep_every, keep_seconds: checkpoints kept, as in `checkpoint.Manager`.
        max_bad_steps: stop after so many steps in a row with a skipped update or a
            metric that is not finite.
        rules, min_sharded_size, on_host: where arrays live (`sharding.Placement`).
        xla_flags: a preset of compiler options (`xla_flags.py`), or "".
        profile: steps to trace, "FIRST:LAST" or "".
        watchdog: when a run counts as hung.
        barrier_seconds: how long processes wait for one another.
        config: all settings, a dataclass or a dict: recorded, and compared on resume.
        may_change: names in `config` that may differ on resume, or patterns.
    """

    steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 50
    samples_every: int = 0
    samples: int = 4
    checkpoint_every: int = 1000
    keep: int = 3
    keep_every: int = 0
    keep_seconds: int = 0
    max_bad_steps: int = 20
    rules: sharding.Rules = ()
    min_sharded_size: int = sharding.MIN_SHARDED_SIZE
    on_host: tuple[str, ...] = ()
    xla_flags: str = ""
    profile: str = ""
    watchdog: Watchdog = Watchdog()
    barrier_seconds: int = 600
    config: Any = dataclasses.field(default_factory=dict)
    may_change: tuple[str, ...] = MAY_CHANGE

    def __post_init__(self) -> None:
        profile.window(self.profile)  # raises
        least = {"batch_size": 1, "samples": 1, "keep": 1, "max_bad_steps": 1}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low = least.get(field.name, 0)
            if field.type is int and field.name != "seed" and value < low:
                raise UsageError(f"{field.name} is {value}. Give {low} or more.")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What is left when the loop ends: the last state, and why it ended."""

    step: int
    reason: Reason
    state: State
    message: str = ""
