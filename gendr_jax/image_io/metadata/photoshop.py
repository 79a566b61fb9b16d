"""Photoshop's list of resources, in which JPEG and TIFF files have IPTC records."""

import struct

IPTC = 0x0404
# Resolution, thumbnails, and the checksum of IPTC: nothing is lost with these.
SILENT = {0x03ED, 0x0409, 0x040C, 0x0425}


def split(resources: bytes) -> tuple[bytes | None, bool]:
    """(IPTC records or None, whether there is something else of its own)."""
    iptc, others, at = None, False, 0
    while resources[at : at + 4] in (b"8BIM", b"MeSa", b"PHUT", b"AgHg", b"DCSR"):
        number = int.from_bytes(resources[at + 4 : at + 6])
        name = resources[at + 6] + 1 if at + 6 < len(resources) else 0
        at += 6 + name + name % 2
        size = int.from_bytes(resources[at : at + 4])
        data = resources[at + 4 : at + 4 + size]
        if number == IPTC and data:
            iptc = (iptc or b"") + data
        else:
            others |= number not in SILENT
        at += 4 + size + size % 2
    return iptc, others


def of_iptc(records: bytes) -> bytes:
    """A list of this one resource."""
    head = b"8BIM" + struct.pack(">HHI", IPTC, 0, len(records))
    return head + records + b"\0" * (len(records) % 2)
