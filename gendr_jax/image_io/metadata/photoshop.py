"""Photoshop image resources, which contain the IPTC records of JPEG and TIFF files."""

import struct

IPTC = 0x0404
# Resolution, thumbnails and the digest of IPTC: dropped without being named as lost.
IGNORED = {0x03ED, 0x0409, 0x040C, 0x0425}


def split(resources: bytes) -> tuple[bytes | None, bool]:
    """(IPTC records or None, whether there are other resources)."""
    iptc, has_others, offset = None, False, 0
    while resources[offset : offset + 4] in (
        b"8BIM",
        b"MeSa",
        b"PHUT",
        b"AgHg",
        b"DCSR",
    ):
        number = int.from_bytes(resources[offset + 4 : offset + 6])
        name = resources[offset + 6] + 1 if offset + 6 < len(resources) else 0
        offset += 6 + name + name % 2
        size = int.from_bytes(resources[offset : offset + 4])
        data = resources[offset + 4 : offset + 4 + size]
        if number == IPTC and data:
            iptc = (iptc or b"") + data
        else:
            has_others |= number not in IGNORED
        offset += 4 + size + size % 2
    return iptc, has_others


def of_iptc(records: bytes) -> bytes:
    """A list with the IPTC resource alone."""
    head = b"8BIM" + struct.pack(">HHI", IPTC, 0, len(records))
    return head + records + b"\0" * (len(records) % 2)
