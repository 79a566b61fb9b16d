"""What may change between two starts of a run with the same workdir, and what not.

What lives here: the comparison of configurations. What does not: reading the
checkpoint (`checkpoints/manager.py`), the loop.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendr_jax.errors import UsageError
from gendr_jax.train.settings import MAY_CHANGE

_ABSENT = "absent"


def plain(value: Any) -> Any:
    """Settings as JSON gives them back: dataclasses to dicts, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if hasattr(value, "items"):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """{dotted name: "old -> new"} of all that differs between two configurations."""
    old, new = _flat(plain(before)), _flat(plain(now))
    return {
        name: f"{old.get(name, _ABSENT)!r} -> {new.get(name, _ABSENT)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    }


def check_config(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    may_change: Sequence[str] = MAY_CHANGE,
) -> dict[str, str]:
    """The changes a resumed run goes on with.

    Args:
        before: the configuration of the checkpoint.
        now: the configuration of this start.
        may_change: names, or patterns such as "log.*".

    Raises:
        UsageError: something else changed; every such name with both values.
    """
    differ = changes(before, now)
    refused = {
        name: text
        for name, text in differ.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in may_change)
    }
    if refused:
        listed = "; ".join(f"{name}: {text}" for name, text in refused.items())
        raise UsageError(
            f"this workdir was trained with another configuration ({listed}). "
            "Give the old values to resume, or an empty --workdir to start again."
        )
    return differ


def check_resumable(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str]
) -> None:
    """Refuse to go on from a checkpoint that another run has made.

    Args:
        before: `config`, `seed` and `frozen` (fingerprint of the frozen weights) that
            stand in the checkpoint.
        now: the same of this start.
        may_change: as in `check_config`.

    Raises:
        UsageError: one of them differs.
    """
    check_config(before["config"], now["config"], may_change)
    if before["seed"] != now["seed"]:
        raise UsageError(
            f"this workdir was trained with seed {before['seed']}, not {now['seed']}. "
            "Give the old seed, or an empty --workdir."
        )
    if before["frozen"] != now["frozen"]:
        raise UsageError(
            "the frozen weights are not those this workdir was trained with "
            f"(fingerprint {before['frozen'][:8]}, now {now['frozen'][:8]}). "
            "Give the same init.*, or an empty --workdir."
        )
