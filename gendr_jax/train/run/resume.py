"""Which settings may change between two starts of a run with the same workdir."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendr_jax.errors import UsageError
from gendr_jax.train.run_settings import MAY_CHANGE, WITH_CONSENT

_ABSENT = "absent"
_FROZEN = "frozen weights"


@dataclasses.dataclass(frozen=True)
class Rules:
    """Names of settings, or patterns such as "log.*".

    Attributes:
        free: these may change between two starts.
        with_consent: these too, with `--accept-changes`.
        accept: `--accept-changes` was passed.
        fork: a new experiment that starts from another one's checkpoint: all may
            change that leaves the state's arrays as they are.
    """

    free: Sequence[str] = MAY_CHANGE
    with_consent: Sequence[str] = WITH_CONSENT
    accept: bool = False
    fork: bool = False


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


def defaults(settings: Any) -> dict[str, Any]:
    """The defaults of a dataclass of settings, plain; {} of anything else."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return plain(type(settings)())
    return {}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested settings."""
    by_name = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            by_name.update(flat(value, f"{prefix}{name}."))
        else:
            by_name[prefix + name] = value
    return by_name


def changes(
    before: Mapping[str, Any], now: Any, default: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """{dotted name: "old -> new"} of all that differs between two configurations.

    A setting that `before` lacks, since it is newer than the checkpoint, had the value
    of `default`.
    """
    old, new = flat(default or {}) | flat(plain(before)), flat(plain(now))
    return {
        name: f"{old.get(name, _ABSENT)!r} -> {new.get(name, _ABSENT)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    }


def check_resumable(
    before: Mapping[str, Any], now: Mapping[str, Any], rules: Rules
) -> dict[str, str]:
    """The changes {name: "old -> new"} with which a run resumes.

    Args:
        before: `config`, `seed` and `frozen` (fingerprint of the frozen weights) of the
            checkpoint.
        now: the same of this start, and `defaults` of the settings.

    Raises:
        UsageError: one of them differs and may not, each with both values.
    """
    differ = changes(before["config"], now["config"], now.get("defaults"))
    if before["seed"] != now["seed"]:
        differ["seed"] = f"{before['seed']} -> {now['seed']}"
    if before["frozen"] != now["frozen"]:
        differ[_FROZEN] = f"fingerprint {before['frozen'][:8]} -> {now['frozen'][:8]}"
    if rules.fork:
        return differ
    restricted = {
        name: text for name, text in differ.items() if not _is(name, rules.free)
    }
    needs_consent = {
        n: t for n, t in restricted.items() if _is(n, (*rules.with_consent, _FROZEN))
    }
    fixed = {
        name: text for name, text in restricted.items() if name not in needs_consent
    }
    if fixed:
        raise UsageError(
            f"this workdir was trained with another configuration ({_listed(fixed)}). "
            "Give the old values to resume, or an empty --workdir to start again, with "
            "--fork OLD_WORKDIR to start from this run's newest checkpoint."
        )
    if needs_consent and not rules.accept:
        raise UsageError(
            f"this workdir was trained with other values ({_listed(needs_consent)}). "
            "Add --accept-changes to go on with the new ones, or give the old ones."
        )
    return differ


def _is(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(differ: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in differ.items())
