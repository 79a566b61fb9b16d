"""Cut large photographs into tiles, so that training decodes only what it crops from.

    python -m tools.cut_photographs PHOTOS OUT [--side 384] [--halvings 1]

Each photograph is cut at its size and at half of it (which is sharper), --halvings
times. Tiles do not overlap; remaining pixels are distributed evenly between them.
OUT/NAME_SCALE_ROW_COLUMN.png, lossless; subfolders of PHOTOS are kept.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from gendr_jax import overwriting
from gendr_jax.data import sources
from gendr_jax.data.degrade_folder import assign


def main() -> None:
    """Read flags, cut."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--halvings", type=int, default=1)
    options = parser.parse_args()
    overwriting.refuse_nested(options.out, options.photos, "Name another folder.")
    source = sources.folder(options.photos)
    names = assign(source.names)
    for i, name in enumerate(source.names):
        picture = Image.fromarray(source[i])
        target = options.out / Path(names[name]).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        for tile, position in tiles(picture, options.side, options.halvings):
            tile.save(
                target.with_name(f"{target.name}_{position}.png"), compress_level=1
            )


def tiles(
    picture: Image.Image, side: int, halvings: int
) -> Iterator[tuple[Image.Image, str]]:
    """(tile, "SCALE_ROW_COLUMN") of a picture at its size and at smaller ones."""
    for scale in (2**k for k in range(halvings + 1)):
        width, height = picture.width // scale, picture.height // scale
        if min(width, height) < side:
            return
        small = picture.resize((width, height), Image.Resampling.LANCZOS)
        rows, columns = _starts(height, side), _starts(width, side)
        for row, top in enumerate(rows):
            for column, left in enumerate(columns):
                box = (left, top, left + side, top + side)
                yield small.crop(box), f"{scale}_{row}_{column}"


def _starts(length: int, side: int) -> list[int]:
    """First pixels of as many tiles as fit, evenly spread."""
    count, remainder = length // side, length % side
    return [k * side + (2 * k + 1) * remainder // (2 * count) for k in range(count)]


if __name__ == "__main__":
    main()
