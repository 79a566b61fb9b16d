"""--dtype, --mesh and --weights of the commands that restore."""

import contextlib
from collections.abc import Iterator
from typing import Any

from gendr_jax.errors import InputError, UsageError


@contextlib.contextmanager
def weights_are_configuration() -> Iterator[None]:
    """Turn InputError into UsageError: wrong weights give exit status 2."""
    try:
        yield
    except InputError as error:
        raise UsageError(str(error)) from error


def dtype_of(flags: Any) -> str:
    """The value of --dtype, or the default of the device."""
    import jax

    # bfloat16 is slow on CPUs.
    return flags.dtype or ("fp32" if jax.default_backend() == "cpu" else "bf16")


def mesh_of(flags: Any) -> Any:
    """The mesh of --mesh; None: the first device."""
    from gendr_jax import sharding

    if flags.mesh is None:
        return None
    axes = {axis.partition("=")[0].strip() for axis in flags.mesh.split(",")}
    if axes & {sharding.DCN, sharding.FSDP, sharding.MODEL}:
        raise UsageError(
            f"--mesh {flags.mesh}: restoring has the axes data and space. "
            "Write it as data=2,space=4."
        )
    return sharding.make_mesh(flags.mesh)
