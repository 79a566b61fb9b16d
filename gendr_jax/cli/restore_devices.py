"""--dtype, --mesh and --weights of the commands that restore."""

import contextlib
from collections.abc import Iterator
from typing import Any

from gendr_jax.errors import InputError, UsageError


@contextlib.contextmanager
def weights_are_configuration() -> Iterator[None]:
    """Bad weights are no failed picture: exit status 2."""
    try:
        yield
    except InputError as error:
        raise UsageError(str(error)) from error


def dtype_of(flags: Any) -> str:
    """What --dtype says, or what suits the device."""
    import jax

    # Processors have no bfloat16 arithmetic worth the name.
    return flags.dtype or ("fp32" if jax.default_backend() == "cpu" else "bf16")


def mesh_of(flags: Any) -> Any:
    """The devices of --mesh; None is the first one."""
    from gendr_jax import sharding

    if flags.mesh is None:
        return None
    named = {part.partition("=")[0].strip() for part in flags.mesh.split(",")}
    if named & {sharding.DCN, sharding.FSDP, sharding.MODEL}:
        raise UsageError(
            f"--mesh {flags.mesh}: restoring has the axes data and space. "
            "Write it as data=2,space=4."
        )
    return sharding.make_mesh(flags.mesh)
