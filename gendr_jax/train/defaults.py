"""A stage's configuration as a ConfigDict: defaults of `settings.py` and changes."""

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

    A field that is None becomes a placeholder of its other type: with a plain None
    ml_collections would not know how to parse an override.
    """
    hints = typing.get_type_hints(type(settings))
    result = ConfigDict()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = as_config(value)
        elif value is None:
            value = config_dict.placeholder(_other_type(hints[field.name]))
        result[field.name] = value
    return result


def _other_type(hint: Any) -> type:
    members = [h for h in typing.get_args(hint) if h is not types.NoneType]
    member = members[0] if members else object
    return typing.get_origin(member) or member


def _changed(result: ConfigDict, changes: Mapping[str, Any], where: str) -> ConfigDict:
    for name, value in changes.items():
        if name not in result:
            near = difflib.get_close_matches(name, list(result), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}" if near else f"known: {', '.join(result)}"
            raise UsageError(f"{where}.{name} is unknown, {hint}. Correct the name.")
        default = result[name]
        if isinstance(default, ConfigDict) and isinstance(value, Mapping):
            _changed(default, value, f"{where}.{name}")
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = as_config(value)
        if type(default) is float and type(value) is int:
            value = float(value)  # ml_collections refuses 0.5 in place of an int
        with result.ignore_type():  # `typed` reports all wrong types at once
            result[name] = value
    return result
