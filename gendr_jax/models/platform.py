"""Where a program will run: the platform, and whether it waits for other devices.

The current mesh decides, so that a program can be compiled for devices that are not
here. What is done with the answer stands in attention.py and winograd.py.
"""

import jax


def platform() -> str:
    """ "cpu", "gpu" or "tpu": the current mesh's, else the default backend's."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    name = getattr(device, "platform", None) or jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def alone() -> bool:
    """Whether this program waits for no other device's.

    One device, or the caller's own shard_map over all axes: tiles of a picture.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)
