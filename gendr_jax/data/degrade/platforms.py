"""Which implementation of a stage runs on which kind of device."""

from collections.abc import Callable
from typing import Any, Literal

import jax

Platform = Literal["cpu", "tpu", "gpu"]


def select(
    platform: Platform | None,
    *args: Any,
    default: Callable[..., jax.Array],
    cpu: Callable[..., jax.Array] | None = None,
    tpu: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """The result of one of the functions on `args`.

    `default` stands in for a function that is not passed. With platform None all are
    traced and the choice is made when the program is lowered. Stages within a program
    that has been chosen already name the platform, since tracing each of them for every
    platform takes several times as long.
    """
    functions = {"cpu": cpu or default, "tpu": tpu or default}
    if platform is not None:
        return functions.get(platform, default)(*args)
    return jax.lax.platform_dependent(*args, **functions, default=default)
