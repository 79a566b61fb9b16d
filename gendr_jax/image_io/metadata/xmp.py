"""Edit XMP packets as text: orientation, sizes, references to dropped content."""

import re
from collections.abc import Callable

EXIF, TIFF = "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/tiff/1.0/"
PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
CAMERA = "http://ns.google.com/photos/1.0/camera/"
CONTAINER = "http://ns.google.com/photos/1.0/container/"
NOTE = "http://ns.adobe.com/xmp/note/"
DEFAULT_PREFIXES = {
    EXIF: b"exif",
    TIFF: b"tiff",
    PANORAMA: b"GPano",
}  # where none is declared
GAIN_MAPS = (
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.apple.com/HDRGainMap/1.0/",
    CONTAINER + "item/",
)
WIDTHS = {(EXIF, "PixelXDimension"), (TIFF, "ImageWidth")}
HEIGHTS = {(EXIF, "PixelYDimension"), (TIFF, "ImageLength")}
SCALED_ACROSS = (
    "FullPanoWidthPixels CroppedAreaImageWidthPixels CroppedAreaLeftPixels "
    "LargestValidInteriorRectLeft LargestValidInteriorRectWidth"
).split()
SCALED_DOWN = (
    "FullPanoHeightPixels CroppedAreaImageHeightPixels CroppedAreaTopPixels "
    "LargestValidInteriorRectTop LargestValidInteriorRectHeight"
).split()
MOTION = "MicroVideo MicroVideoVersion MicroVideoOffset MotionPhoto".split()
MOTION += ["MicroVideoPresentationTimestampUs", "MotionPhotoVersion"]
MOTION += ["MotionPhotoPresentationTimestampUs"]


def edited(
    packet: bytes, size_hw: tuple[int, int], from_hw: tuple[int, int] | None
) -> bytes:
    """The packet for a result of `size_hw` made from a picture of `from_hw`.

    Orientation becomes 1 and sizes in pixels those of the result. Properties of gain
    maps and videos that followed the picture in its file are removed.
    """
    (height, width), (rows, columns) = size_hw, from_hw or size_hw
    packet = _set(packet, TIFF, "Orientation", lambda _: 1)
    for space, name in WIDTHS:
        packet = _set(packet, space, name, lambda _: width)
    for space, name in HEIGHTS:
        packet = _set(packet, space, name, lambda _: height)
    for name in SCALED_ACROSS:
        packet = _set(packet, PANORAMA, name, lambda x: round(x * width / columns))
    for name in SCALED_DOWN:
        packet = _set(packet, PANORAMA, name, lambda x: round(x * height / rows))
    return _without_dropped_content(packet)


def merged(packet: bytes, extension: bytes) -> bytes:
    """The main packet of a JPEG file with the descriptions of its extension."""
    descriptions = re.search(rb"<rdf:RDF[^>]*>(.*)</rdf:RDF\s*>", extension, re.DOTALL)
    end = packet.rfind(b"</rdf:RDF")
    if descriptions is None or end < 0:
        return packet
    packet = packet[:end] + descriptions[1] + packet[end:]
    for prefix in _prefixes(packet, NOTE):
        packet = _without(packet, prefix, b"HasExtendedXMP")
    return packet


def extended_by(guid: bytes) -> bytes:
    """A main packet that only refers to the extension with this GUID."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
        b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'rdf:about="" xmlns:xmpNote="' + NOTE.encode() + b'" '
        b'xmpNote:HasExtendedXMP="' + guid + b'"/></rdf:RDF></x:xmpmeta>'
    )


def without_padding(packet: bytes) -> bytes:
    """The packet without the white space that writers leave for edits in place."""
    return re.sub(rb"\s+(<\?xpacket end=)", rb"\1", packet)


def _set(packet: bytes, space: str, name: str, value: Callable[[float], int]) -> bytes:
    """Set the number of a property, which may be an attribute or an element."""
    for prefix in _prefixes(packet, space):
        label = re.escape(prefix) + rb":" + name.encode()
        number = rb"([0-9]+(?:\.[0-9]*)?)"
        for before in (label + rb"\s*=\s*[\"']\s*", rb"<" + label + rb"[^>]*>\s*"):
            packet = re.sub(
                rb"(" + before + rb")" + number,
                lambda m: m[1] + str(value(float(m[2]))).encode(),
                packet,
            )
    return packet


def _without_dropped_content(packet: bytes) -> bytes:
    for space in GAIN_MAPS:
        for prefix in _prefixes(packet, space):
            packet = _without(packet, prefix, rb"[\w.-]+")
    for prefix in _prefixes(packet, CONTAINER):
        packet = _without(packet, prefix, rb"Directory")
    for prefix in _prefixes(packet, CAMERA):
        for name in MOTION:
            packet = _without(packet, prefix, name.encode())
    return packet


def _without(packet: bytes, prefix: bytes, name: bytes) -> bytes:
    """The packet without properties whose names match the pattern."""
    label = re.escape(prefix) + rb":(?:" + name + rb")"
    element = rb"<(" + label + rb")(?:\s[^>]*)?(?:/>|>.*?</\1\s*>)"
    packet = re.sub(element, b"", packet, flags=re.DOTALL)
    attribute = rb"\s" + label + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    return re.sub(attribute, b"", packet)


def _prefixes(packet: bytes, space: str) -> set[bytes]:
    """The prefixes of a namespace in this packet."""
    uri = re.escape(space.encode())
    declared = set(
        re.findall(rb"xmlns:([\w.-]+)\s*=\s*[\"']" + uri + rb"[\"']", packet)
    )
    return (
        declared or {DEFAULT_PREFIXES[space]} if space in DEFAULT_PREFIXES else declared
    )
