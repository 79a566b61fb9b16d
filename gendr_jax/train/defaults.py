"""The configuration of a stage: every default of `settings.py`, and what differs."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from gendr_jax.errors import UsageError
from gendr_jax.train.settings import STAGES


def config(stage: str, changes: Mapping[str, Any]) -> ConfigDict:
    """All settings of `stage` with `changes`, ready for overrides by name.

    Args:
        stage: "vae", "base" or "distill".
        changes: what differs from the defaults, nested like the settings.

    Raises:
        UsageError: an unknown stage or name.
    """
    if stage not in STAGES:
        raise UsageError(
            f"the stage is {stage!r}, known are {', '.join(STAGES)}. Name one of them."
        )
    return _changed(as_config(STAGES[stage]()), changes, "config")


def as_config(settings: Any) -> ConfigDict:
    """A settings dataclass as a ConfigDict, every field under its name.

    A field that may be None and is becomes a placeholder of its other type: a plain
    None would leave ml_collections no type to read an override as.
    """
    hints = typing.get_type_hints(type(settings))
    made = ConfigDict()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = as_config(value)
        elif value is None:
            value = config_dict.placeholder(_other_type(hints[field.name]))
        made[field.name] = value
    return made


def _other_type(hint: Any) -> type:
    members = [h for h in typing.get_args(hint) if h is not types.NoneType]
    kind = members[0] if members else object
    return typing.get_origin(kind) or kind


def _changed(made: ConfigDict, changes: Mapping[str, Any], where: str) -> ConfigDict:
    for name, value in changes.items():
        if name not in made:
            near = difflib.get_close_matches(name, list(made), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}" if near else f"known: {', '.join(made)}"
            raise UsageError(f"{where}.{name} is unknown, {hint}. Correct the name.")
        default = made[name]
        if isinstance(default, ConfigDict) and isinstance(value, Mapping):
            _changed(default, value, f"{where}.{name}")
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = as_config(value)
        if type(default) is float and type(value) is int:
            value = float(value)  # an override such as 0.5 needs a float to replace
        with made.ignore_type():  # wrong types are refused, all at once, by `typed`
            made[name] = value
    return made
