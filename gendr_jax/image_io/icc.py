"""Build ICC profiles (ICC.1:2022) from primaries and a tone curve."""

import struct
from dataclasses import dataclass

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
HLG_OR_PQ = {16: "PQ", 18: "HLG"}  # ITU-T H.273, table 3


@dataclass(frozen=True)
class Primaries:
    """Chromaticities (x, y)."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Y = (a X + b)^gamma from `d` on, c X below: an ICC curve of type 3."""

    gamma: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


D65 = 0.3127, 0.3290
SRGB_PRIMARIES = Primaries(D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(name: str, primaries: Primaries, curve: Curve) -> bytes:
    """An RGB display profile.

    Raises:
        ValueError: primaries on one line.
    """
    matrix, adaptation = _matrix(primaries)
    tags = {
        b"desc": _text(name),
        b"cprt": _text("No copyright"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(adaptation.flatten()),
        b"rXYZ": b"XYZ \0\0\0\0" + _fixed(matrix[:, 0]),
        b"gXYZ": b"XYZ \0\0\0\0" + _fixed(matrix[:, 1]),
        b"bXYZ": b"XYZ \0\0\0\0" + _fixed(matrix[:, 2]),
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))
    return _assembled(tags, b"RGB ")


def grey_profile(name: str, curve: Curve) -> bytes:
    """A grey display profile."""
    tags = {b"desc": _text(name), b"cprt": _text("No copyright")}
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50), b"kTRC": _curve(curve)}
    return _assembled(tags, b"GRAY")


def high_range(icc: bytes) -> str:
    """ "PQ" or "HLG" of an HDR profile, by its tag `cicp`; else ""."""
    count = int.from_bytes(icc[128:132]) if len(icc) > 132 else 0
    for i in range(min(count, 100)):
        name, offset, _ = struct.unpack(
            ">4sII", icc[132 + 12 * i :][:12].ljust(12, b"\0")
        )
        if name == b"cicp":
            return HLG_OR_PQ.get(icc[offset + 9] if len(icc) > offset + 9 else 0, "")
    return ""


def _matrix(primaries: Primaries) -> tuple[np.ndarray, np.ndarray]:
    """(RGB to XYZ under D50, Bradford adaptation from its own white to D50)."""

    def xyz(x: float, y: float) -> np.ndarray:
        if y <= 0:
            raise ValueError(f"a primary has y = {y}")
        return np.array([x / y, 1.0, (1 - x - y) / y])

    colours = (primaries.red, primaries.green, primaries.blue)
    columns = np.stack([xyz(*xy) for xy in colours], axis=1)
    white = xyz(*primaries.white)
    if abs(np.linalg.det(columns)) < 1e-6:
        raise ValueError("primaries on one line")
    columns = columns * np.linalg.solve(columns, white)
    gains = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    adaptation = np.linalg.solve(BRADFORD, gains @ BRADFORD)
    return adaptation @ columns, adaptation


def _fixed(values: object) -> bytes:
    """s15Fixed16Number."""
    fixed = np.rint(np.asarray(values, np.float64) * 65536).astype(">i4")
    return fixed.tobytes()


def _curve(curve: Curve) -> bytes:
    """parametricCurveType."""
    values = curve.gamma, curve.a, curve.b, curve.c, curve.d
    return b"para" + struct.pack(">IHH", 0, 3, 0) + _fixed(values)


def _text(text: str) -> bytes:
    """multiLocalizedUnicodeType of one record."""
    words = text.encode("utf-16-be")
    head = struct.pack(">4sIII2s2sII", b"mluc", 0, 1, 12, b"en", b"US", len(words), 28)
    return head + words


def _assembled(tags: dict[bytes, bytes], space: bytes) -> bytes:
    """The profile: header, tag table and tag data; equal data is stored once."""
    data_start, offsets, body = 128 + 4 + 12 * len(tags), {}, b""
    for data in dict.fromkeys(tags.values()):
        offsets[data] = data_start + len(body)
        body += data + b"\0" * (-len(data) % 4)
    table = struct.pack(">I", len(tags))
    for name, data in tags.items():
        table += struct.pack(">4sII", name, offsets[data], len(data))
    size = 128 + len(table) + len(body)
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sIIIQI3i4s16s28s",
        size,
        b"\0\0\0\0",
        0x04300000,
        b"mntr",
        space,
        b"XYZ ",
        *(2024, 1, 1, 0, 0, 0),
        b"acsp",
        b"\0\0\0\0",
        0,
        0,
        0,
        0,
        1,  # relative colorimetric
        *(int(x) for x in np.rint(D50 * 65536)),
        b"\0\0\0\0",
        bytes(16),
        bytes(28),
    )
    return header + table + body
