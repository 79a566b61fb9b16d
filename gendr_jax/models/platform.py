"""The platform a program is traced for, and whether it communicates with others.

By the current mesh, so that a program can be compiled ahead of time for absent devices.
"""

import jax


def platform() -> str:
    """ "cpu", "gpu" or "tpu" of the current mesh, else of the default backend."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    name = getattr(device, "platform", None) or jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def alone() -> bool:
    """Whether the traced program runs on one device without communication.

    One device, or inside a shard_map over all axes, as for tiles of a picture.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)
