"""ICC profiles for the colour spaces that files state in other ways.

PNG: cICP, sRGB, gAMA with cHRM, in this order (PNG 3, 4.3; a profile comes after cICP).
AVIF: nclx. EXIF: ColorSpace and interoperability (DCF). TIFF: WhitePoint and
PrimaryChromaticities.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from gendr_jax.errors import InputError
from gendr_jax.image_io import icc
from gendr_jax.image_io.encoded import Source, opened
from gendr_jax.image_io.icc import SRGB_CURVE, SRGB_PRIMARIES, Curve, Primaries
from gendr_jax.image_io.metadata import png_chunks
from gendr_jax.image_io.metadata.directories import Directories, pages
from gendr_jax.image_io.profiles import builtin

# ITU-T H.273, table 2. 1 has the primaries of sRGB.
PRIMARIES = {
    1: SRGB_PRIMARIES,
    4: Primaries((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: Primaries(icc.D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: Primaries(icc.D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: Primaries(icc.D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: Primaries((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: Primaries(icc.D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: Primaries(icc.D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: Primaries(icc.D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
BT709 = Curve(1 / 0.45, 1 / 1.0993, 0.0993 / 1.0993, 1 / 4.5, 0.08125)
# ITU-T H.273, table 3. 14 and 15 are BT.709's function; 17 (ST 428) is not supported.
CURVES = {1: BT709, 4: Curve(2.2), 5: Curve(2.8), 6: BT709, 8: Curve(1.0)}
CURVES |= {13: SRGB_CURVE, 14: BT709, 15: BT709}
UNSPECIFIED = 2
ADOBE = Primaries(icc.D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
GAMMA_OF_SRGB = 45455
COLOR_SPACE, INTEROPERABILITY, INDEX, EXIF = 0xA001, 0xA005, 1, 0x8769
ADOBE_RGB, UNCALIBRATED = 2, 0xFFFF
WHITE_POINT, CHROMATICITIES = 318, 319
AVIF_SEARCH_BYTES = 2**20  # bytes of an AVIF file that are searched for the colour box


@dataclass(frozen=True)
class StatedColours:
    """The colour space that a file states.

    by: name of the chunk, box or field that states it.
    """

    by: str
    primaries: Primaries
    curve: Curve


def profile(
    path: Source,
    file_format: str,
    embedded: bytes | None,
    exif: bytes | None,
    *,
    grey: bool,
) -> bytes | None:
    """The ICC profile of a file: the embedded one, or one of the stated colours.

    Raises:
        InputError: HDR (PQ, HLG), which exceeds the range of sRGB.
    """
    stated, takes_precedence = None, False
    if file_format == "PNG":
        stated, takes_precedence = _png(path)
    elif file_format == "AVIF" and embedded is None:
        stated = _avif(path)
    elif file_format == "TIFF" and embedded is None:
        stated = _tiff(path)
    if stated is None and exif is not None and _is_adobe(exif):
        stated = StatedColours("Adobe RGB (1998)", ADOBE, Curve(563 / 256))
    if embedded is not None and (name := icc.high_range(embedded)):
        raise _hdr_error(path, name)
    if stated is None or (embedded is not None and not takes_precedence):
        return embedded
    return _as_profile(stated, grey)


def _as_profile(stated: StatedColours, grey: bool) -> bytes | None:
    """The ICC profile, a built-in one if possible; None for grey with sRGB's curve."""
    if grey:
        usual = stated.curve == SRGB_CURVE
        return None if usual else icc.grey_profile(stated.by, stated.curve)
    if stated.curve == SRGB_CURVE and stated.primaries in (PRIMARIES[1], PRIMARIES[12]):
        return builtin("srgb" if stated.primaries == PRIMARIES[1] else "p3")
    try:
        return icc.profile(stated.by, stated.primaries, stated.curve)
    except ValueError:  # primaries on one line
        return None


def from_code_points(
    path: Source, primaries: int, transfer: int, by: str
) -> StatedColours | None:
    """Colours by coding-independent code points (H.273); None if unspecified.

    Raises:
        InputError: HDR, or unknown codes.
    """
    if transfer in icc.HLG_OR_PQ:
        raise _hdr_error(path, icc.HLG_OR_PQ[transfer])
    if primaries == transfer == UNSPECIFIED:
        return None
    primaries = 1 if primaries == UNSPECIFIED else primaries
    transfer = 13 if transfer == UNSPECIFIED else transfer
    if primaries not in PRIMARIES or transfer not in CURVES:
        raise InputError(
            f"{path} states colours by {by} with primaries {primaries} and transfer "
            f"{transfer}, which are not supported. Convert it to sRGB or Display P3."
        )
    return StatedColours(by, PRIMARIES[primaries], CURVES[transfer])


def _hdr_error(path: Source, name: str) -> InputError:
    return InputError(
        f"{path} is an HDR picture ({name}), which is not supported. Export it as SDR "
        "(sRGB or Display P3) first, for example with darktable."
    )


SRGB = StatedColours("sRGB", SRGB_PRIMARIES, SRGB_CURVE)


def _png(path: Source) -> tuple[StatedColours | None, bool]:
    """(stated colours, whether they take precedence over an embedded profile)."""
    chunks = {}
    with opened(path) as file:
        for name, offset, length in png_chunks.chunks(file):
            if name == b"IDAT":
                break
            if name in (b"cICP", b"sRGB", b"gAMA", b"cHRM") and length <= 32:
                file.seek(offset)
                chunks.setdefault(name, file.read(length))
    if len(codes := chunks.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, full = codes
        if matrix or not full:
            raise InputError(
                f"{path} has YCbCr or narrow-range values by its cICP chunk, which is "
                "not supported. Convert it to full-range RGB."
            )
        stated = from_code_points(path, primaries, transfer, "cICP")
        if stated is not None:
            return stated, True
    if b"sRGB" in chunks:
        return SRGB, False
    return _from_gamma(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")), False


def _from_gamma(gamma: bytes, chromaticities: bytes) -> StatedColours | None:
    """Colours by gAMA and cHRM; None if they are missing or out of range."""
    power = int.from_bytes(gamma) if len(gamma) == 4 else 0
    if not power and len(chromaticities) != 32:
        return None
    primaries, curve = SRGB_PRIMARIES, SRGB_CURVE
    if len(chromaticities) == 32:
        x = [value / 100_000 for value in struct.unpack(">8I", chromaticities)]
        primaries = Primaries(*((x[i], x[i + 1]) for i in (0, 2, 4, 6)))
    # sRGB files state a gamma of 1/2.2, though their curve is not a power law.
    if power and abs(power - GAMMA_OF_SRGB) > 5:
        curve = Curve(100_000 / power)
    if not 0.1 <= curve.gamma <= 10:
        return None
    return StatedColours("gAMA and cHRM", primaries, curve)


def _avif(path: Source) -> StatedColours | None:
    """The colour box of the first picture (ISO 23008-12: colr of type nclx)."""
    with opened(path) as file:
        head = file.read(AVIF_SEARCH_BYTES)
    offset = head.find(b"colrnclx")
    if offset < 0 or offset + 13 > len(head):
        return None
    primaries, transfer = struct.unpack_from(">HH", head, offset + 8)
    return from_code_points(path, primaries, transfer, "nclx")


def _tiff(path: Source) -> StatedColours | None:
    """WhitePoint and PrimaryChromaticities, with TIFF's default curve, gamma 2.2."""
    try:
        with opened(path) as file:
            points = _tiff_points(file)
    except (ValueError, struct.error, StopIteration):
        return None
    return None if points is None else StatedColours("TIFF", points, Curve(2.2))


def _tiff_points(file: BinaryIO) -> Primaries | None:
    directories = Directories(file)
    page = next(iter(pages(file).full), (0, -1))[0]
    directory = next(d for i, d in enumerate(directories.chain()) if i == page)
    coordinates = []
    for tag, count in ((WHITE_POINT, 2), (CHROMATICITIES, 6)):
        field = directory.fields.get(tag)
        if field is None or field.type != 5 or field.count != count:
            return None
        numbers = struct.unpack(
            f"{directories.order}{2 * count}I", directories.data(field)
        )
        coordinates += [
            a / max(b, 1) for a, b in zip(numbers[::2], numbers[1::2], strict=True)
        ]
    return Primaries(*((coordinates[i], coordinates[i + 1]) for i in (0, 2, 4, 6)))


def _is_adobe(block: bytes) -> bool:
    """Whether EXIF states Adobe RGB, as cameras do (DCF 2.0, 3.3)."""
    try:
        directories = Directories(io.BytesIO(block))
        main = directories.read(directories.first)
        exif_directory = (
            directories.read(directories.value(main, EXIF))
            if EXIF in main.fields
            else main
        )
        space = directories.value(exif_directory, COLOR_SPACE)
        if space != UNCALIBRATED:
            return space == ADOBE_RGB
        offset = directories.value(exif_directory, INTEROPERABILITY)
        index = directories.read(offset).fields.get(INDEX) if offset else None
        return index is not None and directories.data(index).startswith(b"R03")
    except (ValueError, struct.error):
        return False
