"""Write a folder of photographs as ArrayRecord shards, or as a TFDS dataset.

    python -m tools.make_arrayrecord PHOTOS OUT [--processes 8] [--shards 64]
    python -m tools.make_arrayrecord PHOTOS DATA_DIR --tfds

Then train with --config.data.path='OUT/*.array_record', or with tfds:DIR of the folder
that is printed. Files that cannot be trusted are left out, with their reasons in
OUT/manifest.json (--tfds: metadata.json). OUT/DATA_DIR/gendr_photos appears when it is
complete. More than one machine: docstring of gendr_jax/data/gendr_photos.py.
"""

import argparse
import json
import os
import sys

from gendr_jax.data import shard_writer
from gendr_jax.errors import GendrError


def main(argv: list[str] | None = None) -> int:
    """Status 0: written; 2: nothing was, with one line why."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="photographs, at any depth")
    parser.add_argument("out", help="a new folder; with --tfds TFDS' data_dir")
    parser.add_argument("--shards", type=int, default=0, help="default: by size")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--min-side", type=int, default=1, help="smaller ones are left")
    parser.add_argument("--tfds", action="store_true", help="as gendr_photos of TFDS")
    options = parser.parse_args(argv)
    try:
        if options.tfds:
            left_out, dataset = make_tfds(options)
        else:
            manifest = shard_writer.write(
                options.folder,
                options.out,
                count=options.shards,
                processes=options.processes,
                min_side=options.min_side,
            )
            left_out = manifest["quarantine"]
            dataset = f"{options.out}/*.array_record: {manifest['pictures']} pictures"
    except GendrError as error:
        print(f"make_arrayrecord: {error}", file=sys.stderr)
        return 2
    for reason in left_out.values():
        print(f"left out {reason}")
    print(f"{dataset}, {len(left_out)} left out")
    return 0


def make_tfds(options: argparse.Namespace) -> tuple[dict[str, str], str]:
    """({name: reason} of files that were left out, the data.path of the dataset)."""
    from gendr_jax.data import gendr_photos

    folder = gendr_photos.build(
        options.folder, options.out, count=options.shards, min_side=options.min_side
    )
    metadata = json.loads((folder / "metadata.json").read_text())
    dataset = f"tfds:{folder}: {len(metadata['sides']['train'])} pictures"
    return metadata["quarantine"], dataset


if __name__ == "__main__":
    raise SystemExit(main())
