"""Checks that networks' configurations share."""

from typing import Any


def require_counts(config: Any, *names: str) -> None:
    """Refuse fields, or entries of tuples, below 1.

    Raises:
        ValueError: names the field and its value.
    """
    for name in names:
        value = getattr(config, name)
        entries = value if isinstance(value, tuple) else (value,)
        if not entries or min(entries) < 1:
            raise ValueError(
                f"{type(config).__name__}.{name} is {value}. Give 1 or more."
            )
