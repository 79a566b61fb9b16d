"""Range checks for the fields of settings dataclasses."""

import math
from typing import Any

from gendr_jax.errors import UsageError


def at_least(settings: Any, **least: float) -> None:
    """Refuse fields below a limit: ``at_least(self, lr=0)``.

    Raises:
        UsageError: names the field, its value and the limit.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if not low <= value < math.inf:  # a NaN is refused, too
            raise UsageError(f"{name} is {value}. Give {low} or more.")


def above_zero(settings: Any, *names: str) -> None:
    """Refuse fields that are zero or less.

    Raises:
        UsageError: names the field and its value.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}. Give a number above 0.")


def fraction(settings: Any, *names: str, one: bool = False) -> None:
    """Refuse fields that are not in [0, 1), or [0, 1] with ``one``.

    Raises:
        UsageError: names the field and its value.
    """
    for name in names:
        value = getattr(settings, name)
        if not (0 <= value < 1 or (one and value == 1)):
            end = "to 1" if one else "and below 1"
            raise UsageError(f"{name} is {value}. Give a number from 0 {end}.")
