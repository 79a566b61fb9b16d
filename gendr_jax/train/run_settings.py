"""Settings of one run of the loop, which may differ on resume, and its result."""

import dataclasses
import re
from typing import Any, Literal

from gendr_jax import sharding
from gendr_jax.errors import UsageError
from gendr_jax.train.settings import BestBy, Watchdog
from gendr_jax.train.stage import State

# Settings of how long, how fast and where a run goes, not of what it computes. Another
# path of the same data or weights is allowed: weights are compared by their values.
MAY_CHANGE = (
    "steps",
    "mesh",
    "sharding.*",
    "accumulate",
    "remat",
    "xla_flags",
    "optim*.memory",
    "optim*.lr",
    "optim*.schedule",
    "optim*.warmup",
    "optim*.decay",
    "log.*",
    "val.*",
    "checkpoint.*",
    "data.workers",
    "data.path",
    "init.*",
    "max_bad_steps",
    "profile",
    "watchdog.*",
    "processes.*",
)

# Settings that change what is computed but not the shapes of the state: a run resumes
# with other values if the user passes --accept-changes, and run.json records them.
WITH_CONSENT = (
    "optim*",
    "*weight*",
    "score.*",
    "adversarial_start",
    "warmup_steps",
    "surgery",
    "surgery_steps",
    "prompt_dropout",
    "ema",
    "batch_size",
    "data.*",
    "dtype",
    "adapters",
    "sample_steps",
)

NAN_STARTS = 3  # so many starts in a row may end without a usable update

Reason = Literal["done", "sigterm", "user", "nan"]


def window(text: str) -> tuple[int, int] | None:
    """The first and last step of "100:110", both recorded; None for "".

    Raises:
        UsageError: anything else.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = (int(n) for n in match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise UsageError(
            f"profile={text!r} names no steps. Write FIRST:LAST, as in 100:110."
        )
    return first, last


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Length, logging, validation and checkpoints of a run, in steps; 0 means never.

    Attributes:
        steps: the run is done after this many.
        batch_size: samples a step, of all processes together.
        seed: of the start and of every step.
        log_every, samples_every, checkpoint_every: besides these, the last step is
            always saved.
        samples: rows of a contact sheet.
        validate_every, validate_count, best: as in `Validation`.
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
        with_consent: the same, of those that need `Start.accept_changes`.
        data: fingerprint of the data source (`data/fingerprint.py`), recorded; a change
            is logged.
    """

    steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 50
    samples_every: int = 0
    samples: int = 4
    validate_every: int = 0
    validate_count: int = 32
    best: BestBy = "psnr"
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
    with_consent: tuple[str, ...] = WITH_CONSENT
    data: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        window(self.profile)  # raises
        minima = {
            "batch_size": 1,
            "samples": 1,
            "validate_count": 1,
            "keep": 1,
            "max_bad_steps": 1,
        }
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            minimum = minima.get(field.name, 0)
            if field.type is int and field.name != "seed" and value < minimum:
                raise UsageError(f"{field.name} is {value}. Give {minimum} or more.")


@dataclasses.dataclass(frozen=True)
class Start:
    """Flags of one start of a run, besides its settings.

    Attributes:
        accept_changes: resume with other values of the settings in `WITH_CONSENT`.
        from_step: resume from this checkpoint; newer ones are renamed. None: the
            newest.
        fork: another run's workdir, or one of its checkpoints, to start from if the
            workdir has no checkpoint yet.
        take_over: end a run that is training in the workdir.
    """

    accept_changes: bool = False
    from_step: int | None = None
    fork: str = ""
    take_over: bool = False


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of the loop: the last state, and why it ended."""

    step: int
    reason: Reason
    state: State
    message: str = ""
