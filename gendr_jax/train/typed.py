"""Build frozen dataclasses from a configuration; misspelt keys and types are errors."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from gendr_jax.errors import GendrError, UsageError

T = TypeVar("T")


class _Invalid:
    """Type of the value returned where none could be built; the problem is recorded."""


INVALID = _Invalid()


def typed(cls: type[T], mapping: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass `cls`, nested ones included, from `mapping`.

    An int serves where a float is asked for, a list where a tuple is; nothing else is
    converted. Absent keys take the default of the dataclass. What `__post_init__`
    raises as ValueError or UsageError counts as a problem of that key.

    Args:
        cls: a dataclass; fields may be dataclasses, unions with None, Literal, tuples,
            dicts with string keys, Path, str, int, float, bool or Any.
        mapping: a dict or an ml_collections ConfigDict.
        where: the name of `mapping` in messages.

    Raises:
        UsageError: one line with every unknown key (and the nearest name), missing key
            and wrong type.
    """
    problems: list[str] = []
    built = _dataclass(cls, mapping, where, problems)
    if problems:
        number = f"{len(problems)} problem" + "s" * (len(problems) > 1)
        raise UsageError(
            f"{where} has {number}: {'; '.join(problems)}. "
            f"Correct it in the file or with --{where}.NAME=value."
        )
    return built


def _dataclass(cls: Any, value: Any, where: str, problems: list[str]) -> Any:
    if isinstance(value, cls):
        return value
    if not _is_mapping(value):
        problems.append(f"{where}: expected keys of {cls.__name__}, got {_show(value)}")
        return INVALID
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values = dict(value.items())
    before = len(problems)
    arguments = {}
    for name, item in values.items():
        if name in fields:
            path = f"{where}.{name}"
            arguments[name] = _value(hints[name], item, path, problems)
        else:
            problems.append(_unknown(f"{where}.{name}", name, list(fields)))
    for name, field in fields.items():
        if name not in values and _required(field):
            problems.append(f"{where}.{name}: missing")
    if len(problems) > before:
        return INVALID
    try:
        return cls(**arguments)
    except (ValueError, GendrError) as error:
        problems.append(f"{where}: {error}".rstrip("."))
        return INVALID


def _value(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """`value` as the type `hint`, or INVALID after adding to ``problems``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where, problems)
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
        problems.append(f"{where}: expected one of {list(arguments)}, got {value!r}")
        return INVALID
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where, problems)
    if hint is tuple or origin is tuple:
        return _tuple(arguments, value, where, problems)
    if hint is dict or origin in (dict, Mapping):
        return _dict(arguments, value, where, problems)
    return _scalar(hint, value, where, problems)


def _union(hints: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    """The value as the first member that accepts it; else the most specific problem."""
    if value is None and type(None) in hints:
        return None
    inner_problems: list[str] = []
    # An exact type first: in `int | float`, 1 stays an int.
    for hint in sorted(hints, key=lambda h: type(value) is not h):
        member_problems: list[str] = []
        built = _value(hint, value, where, member_problems)
        if not member_problems:
            return built
        # A problem of a nested field is more specific than "expected one of these".
        inner_problems = inner_problems or [
            problem
            for problem in member_problems
            if not problem.startswith(f"{where}:")
        ]
    names = " or ".join(_name(h) for h in hints)
    problems += inner_problems or [f"{where}: expected {names}, got {_show(value)}"]
    return INVALID


def _tuple(hints: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, list | tuple):
        problems.append(f"{where}: expected a tuple, got {_show(value)}")
        return INVALID
    if not hints:
        return tuple(value)
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        problems.append(
            f"{where}: expected {len(hints)} values, got {len(value)} ({value!r})"
        )
        return INVALID
    return tuple(
        _value(hint, item, f"{where}[{i}]", problems)
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _dict(hints: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    if not _is_mapping(value):
        problems.append(f"{where}: expected a dict, got {_show(value)}")
        return INVALID
    hint = hints[1] if hints else Any
    return {
        name: _value(hint, item, f"{where}.{name}", problems)
        for name, item in value.items()
    }


def _scalar(hint: type, value: Any, where: str, problems: list[str]) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    # bool is a subclass of int, and True is not a number of steps.
    if isinstance(value, hint) and (hint is not int or number):
        return value
    problems.append(f"{where}: expected {_name(hint)}, got {_show(value)}")
    return INVALID


def _is_mapping(value: Any) -> bool:
    # ConfigDict is not a Mapping; both have items().
    return hasattr(value, "items") and not isinstance(value, type)


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _unknown(where: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{where}: unknown, {hint}"


def _name(hint: Any) -> str:
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _show(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"
