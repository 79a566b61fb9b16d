"""Configurations become dataclasses, or one message that names every mistake."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict

from gendr_jax.errors import UsageError
from gendr_jax.train.typed import typed


@dataclass(frozen=True)
class Optim:
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0


@dataclass(frozen=True)
class Run:
    steps: int
    optim: Optim
    name: str = "run"
    ema: bool = True
    kind: Literal["vsd", "cid"] = "cid"
    widths: tuple[int, ...] = (64,)
    folder: Path = Path(".")
    weights: dict[str, float] = field(default_factory=dict)
    extra: Any = None
    second: Optim | None = None
    either: int | str = 0

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}. Give 0 or more.")


def whole(**changes):
    return ConfigDict({"steps": 3, "optim": {"learning_rate": 0.1}, **changes})


def test_builds_nested_and_converts_only_what_is_lossless():
    config = whole(
        optim={"learning_rate": 1, "betas": [0, 0.5], "clip": None},
        widths=[8, 16],
        folder="a/b",
        weights={"l1": 2},
        second={"learning_rate": 3.0},
        either="x",
    )
    built = typed(Run, config)
    assert built.optim == Optim(1.0, (0.0, 0.5), None)
    assert isinstance(built.optim.learning_rate, float)
    assert isinstance(built.optim.betas[0], float)
    assert built.widths == (8, 16)
    assert built.folder == Path("a/b")
    assert built.weights == {"l1": 2.0}
    assert built.second == Optim(3.0)
    assert built.either == "x"
    assert built.ema is True and built.kind == "cid" and built.name == "run"


def test_accepts_plain_dicts_and_instances():
    optim = Optim(0.5)
    assert typed(Run, {"steps": 1, "optim": optim}).optim is optim


def test_all_problems_in_one_line():
    config = {
        "stepz": 3,
        "optim": {"learning_rat": 0.1, "betas": [0.9]},
        "ema": 1,
        "kind": "sds",
        "name": 7,
        "widths": [8, 1.5],
        "either": 1.5,
    }
    with pytest.raises(UsageError) as caught:
        typed(Run, config)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "config has 10 problems",
        "config.stepz: unknown, did you mean steps?",
        "config.steps: missing",
        "config.optim.learning_rat: unknown, did you mean learning_rate?",
        "config.optim.learning_rate: missing",
        "config.optim.betas: expected 2 values, got 1",
        "config.ema: expected bool, got int 1",
        "config.kind: expected one of ['vsd', 'cid'], got 'sds'",
        "config.name: expected str, got int 7",
        "config.widths[1]: expected int, got float 1.5",
        "config.either: expected int or str, got float 1.5",
    ):
        assert part in message, part


@pytest.mark.parametrize("steps", [True, 3.0, "3", None])
def test_an_int_is_an_int(steps):
    with pytest.raises(UsageError, match="config.steps: expected int"):
        typed(Run, whole(steps=steps))


def test_problems_inside_an_optional_section_are_named():
    with pytest.raises(UsageError, match="config.second.clip: expected float or None"):
        typed(Run, whole(second={"learning_rate": 1.0, "clip": "x"}))
    with pytest.raises(UsageError, match="config.second: expected Optim or None"):
        typed(Run, whole(second=3))


def test_what_the_dataclass_refuses_is_a_problem_of_that_key():
    with pytest.raises(UsageError, match="^run has 1 problem: run: steps is -1"):
        typed(Run, whole(steps=-1), where="run")
