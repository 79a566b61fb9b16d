"""Description of the machine, versions and command, for every benchmark result."""

import datetime
import importlib.metadata
import os
import platform
import resource
import shlex
import sys
from pathlib import Path
from typing import Any

import jax

from gendr_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "diffusers")
GIB = 2**30


def describe() -> dict[str, Any]:
    """{"date", "machine", "devices", "versions", "command", "load"} of this process."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "memory_gib": _memory(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "devices": {
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "count": len(devices),
        },
        "versions": _versions(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "load": round(os.getloadavg()[0], 1),
    }


def peak_memory(device: jax.Device) -> dict[str, int]:
    """{"host_peak_bytes", "device_peak_bytes"} since the process began.

    The second only if the device reports it; CPUs do not.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    stats = device.memory_stats() or {}
    peaks = {"host_peak_bytes": host}
    if "peak_bytes_in_use" in stats:
        peaks["device_peak_bytes"] = stats["peak_bytes_in_use"]
    return peaks


def _versions() -> dict[str, str]:
    versions = {"gendr_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    """The name of the processor, if the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)
    except (ValueError, OSError, AttributeError):
        return None
