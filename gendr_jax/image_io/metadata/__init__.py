"""Metadata of image files: EXIF, XMP, IPTC, comments, PNG text, resolution.

statements.py   `Metadata`: the same fields for all formats
formats.py      read from a file, convert to another format, insert into a file
jpeg_segments.py  png_chunks.py  webp_chunks.py  tiff_fields.py: one format each
exif.py  xmp.py  photoshop.py: blocks inside them
directories.py  trees.py: directories of TIFF files and EXIF blocks
"""

from gendr_jax.image_io.metadata.formats import READERS, fitted, insert, read
from gendr_jax.image_io.metadata.statements import Metadata

__all__ = ["READERS", "Metadata", "fitted", "insert", "read"]
