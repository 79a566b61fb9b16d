"""Memory of compiled programs and free memory of devices; refuses what does not fit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from gendr_jax.errors import InputError

GIB = 2**30
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
REMEDY = "Use smaller tiles (--tile), a smaller scale, or more memory."


class TooLarge(InputError):
    """A program that exceeds the memory of its devices; a smaller one may fit."""


def needed(compiled: Any) -> int:
    """Bytes of a compiled program without its arguments; 0 if XLA does not report."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def available(device: jax.Device) -> int | None:
    """Free bytes of the device (main memory for a CPU), None if unknown."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    known = [free for free in (_meminfo(), _cgroup()) if free is not None]
    return min(known, default=None)


def share(devices: list[jax.Device]) -> int | None:
    """Free bytes for each of these devices; CPU devices share the main memory."""
    free = available(devices[0])
    if free is not None and devices[0].platform == "cpu":
        free //= len(devices)
    return free


def require(compiled: Any, sharding: jax.sharding.Sharding, what: str) -> None:
    """Refuse a program that exceeds the memory of its devices.

    Raises:
        TooLarge: with both figures.
    """
    device = min(sharding.device_set, key=lambda d: d.id)
    need, free = needed(compiled), available(device)
    if device.platform == "cpu":  # CPU devices share the main memory
        need *= len(sharding.device_set)
    if free is not None and need > free:
        raise TooLarge(
            f"{what} needs {need / GIB:.1f} GiB, {device.platform} has "
            f"{free / GIB:.1f} GiB free. {REMEDY}"
        )


@contextlib.contextmanager
def errors(what: str) -> Iterator[None]:
    """Turn out-of-memory errors of the device or the host into TooLarge."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(f"{what} exceeds the device's memory. {REMEDY}") from error
    except MemoryError as error:
        raise TooLarge(f"{what} exceeds the memory. {REMEDY}") from error


def _meminfo() -> int | None:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _cgroup() -> int | None:
    """Bytes left of the cgroup's limit; page cache counts as used, which is safe."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        return None if limit == "max" else int(limit) - used
    except (OSError, ValueError):
        return None
