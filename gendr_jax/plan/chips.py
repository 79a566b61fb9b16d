"""Peak FLOP/s, memory and bandwidths of TPUs and GPUs per JAX device, with sources.

A device is a whole chip on v4 (megacore), v5e, v5p and v6e, and half of one on tpu7x.
To add a chip: one `Chip` below, and its topologies in `topologies.py`.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Peak figures of one JAX device.

    Attributes:
        flops: bfloat16 operations a second, multiply and add counted as two.
        hbm_bytes: what the compiler lets a program use; 0 where unknown.
        hbm_bandwidth: bytes a second.
        ici_bandwidth: bytes a second that a device sends along one torus axis, both
            directions of a ring together (each of the two links carries half).
        dcn_bandwidth: bytes a second a device sends to other slices.
        devices_per_chip: JAX devices of one chip.
        source: where the figures are published.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    devices_per_chip: int
    source: str


# Bandwidths between chips, all of them: "How to Scale Your Model" (jax-ml scaling
# book), chapter TPUs. Usable HBM: what libtpu 0.0.42 says when it runs out of it.
TPUS = {
    "v4": Chip(
        name="v4",
        flops=275e12,
        hbm_bytes=int(30.75 * GIB),
        hbm_bandwidth=1200e9,
        ici_bandwidth=90e9,
        dcn_bandwidth=6.25e9,
        devices_per_chip=1,
        source="https://cloud.google.com/tpu/docs/v4 (megacore: one device a chip)",
    ),
    "v5e": Chip(
        name="v5e",
        flops=197e12,
        hbm_bytes=int(15.75 * GIB),
        hbm_bandwidth=819e9,
        ici_bandwidth=90e9,
        dcn_bandwidth=3.125e9,
        devices_per_chip=1,
        source="https://cloud.google.com/tpu/docs/v5e",
    ),
    "v5p": Chip(
        name="v5p",
        flops=459e12,
        hbm_bytes=int(95.74 * GIB),
        hbm_bandwidth=2765e9,
        ici_bandwidth=180e9,
        dcn_bandwidth=6.25e9,
        devices_per_chip=1,
        source="https://cloud.google.com/tpu/docs/v5p (DCN 50 Gbit/s a chip)",
    ),
    "v6e": Chip(
        name="v6e",
        flops=918e12,
        hbm_bytes=int(31.25 * GIB),
        hbm_bandwidth=1638e9,
        ici_bandwidth=180e9,
        dcn_bandwidth=12.5e9,
        devices_per_chip=1,
        source="https://cloud.google.com/tpu/docs/v6e",
    ),
    "tpu7x": Chip(
        name="tpu7x",
        flops=2307e12 / 2,
        hbm_bytes=int(94.75 * GIB),
        hbm_bandwidth=7400e9 / 2,
        ici_bandwidth=180e9 / 2,
        dcn_bandwidth=12.5e9 / 2,
        devices_per_chip=2,
        source="https://cloud.google.com/tpu/docs/tpu7x, halved: a device is a core",
    ),
}

# By a substring of `device.device_kind` in lower case; the first match counts.
GPUS = {
    "h200": Chip(
        name="H200",
        flops=989e12,
        hbm_bytes=141 * 10**9,
        hbm_bandwidth=4800e9,
        ici_bandwidth=450e9,
        dcn_bandwidth=50e9,
        devices_per_chip=1,
        source="NVIDIA H200 data sheet, SXM, dense; NVLink 4 one way; NDR a GPU",
    ),
    "h100": Chip(
        name="H100",
        flops=989e12,
        hbm_bytes=80 * 10**9,
        hbm_bandwidth=3350e9,
        ici_bandwidth=450e9,
        dcn_bandwidth=50e9,
        devices_per_chip=1,
        source="NVIDIA H100 data sheet, SXM, dense; NVLink 4 one way; NDR a GPU",
    ),
    "a100": Chip(
        name="A100",
        flops=312e12,
        hbm_bytes=80 * 10**9,
        hbm_bandwidth=2039e9,
        ici_bandwidth=300e9,
        dcn_bandwidth=25e9,
        devices_per_chip=1,
        source="NVIDIA A100 80GB data sheet, SXM, dense; NVLink 3 one way; HDR a GPU",
    ),
}


def of_device_kind(device_kind: str) -> Chip | None:
    """The chip of a device that is present, None where it is not listed here.

    A CPU is not: its table shows counts and bytes, and no times.
    """
    lowered = device_kind.lower()
    for substring, chip in GPUS.items():
        if substring in lowered:
            return chip
    names = {
        "tpu v4": "v4",
        "tpu v5 lite": "v5e",
        "tpu v5": "v5p",
        "tpu v6 lite": "v6e",
        "tpu7x": "tpu7x",
    }
    return TPUS[names[lowered]] if lowered in names else None
