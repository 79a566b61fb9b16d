"""Write a folder of photographs as ArrayRecord shards, by several processes.

shards.py has the record format. Which picture goes into which shard depends on the
sorted names alone, so the files have the same bytes for any number of processes, and
the order of records is that of `sources.folder`.

    manifest.json  {"format": "GDR1", "pictures": n,
                    "shards": [{"file", "records", "bytes", "sides": [...]}],
                    "quarantine": {name: why it was left out}}
"""

import functools
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from array_record.python import array_record_module  # ty: ignore[missing-module-member]  compiled, no stub

from gendr_jax import files, overwriting
from gendr_jax.data import decode, retry, shards, sources
from gendr_jax.errors import InputError, UsageError

SHARD_BYTES = 256_000_000


def write(
    folder: str | Path,
    out: str | Path,
    *,
    count: int = 0,
    processes: int = 1,
    min_side: int = 1,
) -> dict[str, Any]:
    """Write the photographs below `folder` to `out`, and return the manifest.

    Every picture is decoded first; one that `decode.read` refuses, or smaller than
    `min_side` pixels, is left out and listed with the reason. `out` appears when it is
    complete.

    Args:
      count: number of shards; 0 makes them of about SHARD_BYTES.
      processes: number of writing processes, each with one shard at a time.

    Raises:
      UsageError: no pictures, none that is usable, or `out` is not empty.
    """
    root, out = Path(folder), Path(out)
    overwriting.refuse_nested(out, root, "Give another folder.")
    names = sources.find(root)
    if not names:
        raise UsageError(f"{root} has no pictures. Give a folder of images.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty. Give another folder.")
    if not count:
        total = sum((root / name).stat().st_size for name in names)
        count = math.ceil(max(total, 1) / SHARD_BYTES)
    if not 1 <= count <= len(names):
        raise UsageError(
            f"{count} shards are not possible with {len(names)} pictures. Give 1 to "
            f"{len(names)}."
        )
    with files.replacing_folder(out) as temporary:
        return _write_all(root, names, temporary, count, processes, min_side)


def check(root: Path, name: str, min_side: int = 1) -> tuple[bytes, int, int]:
    """(file's bytes, height, width) of a picture that decodes and is large enough.

    Raises:
      InputError: it is refused; the message begins with `name`.
    """
    data = retry.with_retries((root / name).read_bytes, str(root / name))
    decode.read_bytes(data, name)
    height, width = decode.read_size_bytes(data, name)
    if min(height, width) < min_side:
        raise InputError(f"{name}: {width}x{height}, smaller than {min_side} pixels")
    return data, height, width


def _write_all(
    root: Path, names: list[str], out: Path, count: int, processes: int, min_side: int
) -> dict[str, Any]:
    bounds = [len(names) * k // count for k in range(count + 1)]
    shard_jobs = [
        (names[a:b], out / f"photos-{k:05d}-of-{count:05d}.array_record")
        for k, (a, b) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]
    work = functools.partial(_write_one, root, min_side)
    if processes > 1:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            results = list(pool.map(work, shard_jobs))
    else:
        results = [work(shard_job) for shard_job in shard_jobs]
    quarantine = {
        name: why for _, left_out in results for name, why in left_out.items()
    }
    written = [shard for shard, _ in results]
    manifest = {
        "format": shards.MAGIC.decode(),
        "pictures": sum(shard["records"] for shard in written),
        "shards": written,
        "quarantine": quarantine,
    }
    if not manifest["pictures"]:
        sources.check_rejected(quarantine, len(names))
    (out / shards.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_one(
    root: Path, min_side: int, shard_job: tuple[list[str], Path]
) -> tuple[dict[str, Any], dict[str, str]]:
    """One shard: (its entry in the manifest, {name: reason} of what was left out)."""
    names, path = shard_job
    sides, left_out = [], {}
    writer = array_record_module.ArrayRecordWriter(str(path), shards.OPTIONS)
    for name in names:
        try:
            data, height, width = check(root, name, min_side)
        except InputError as error:
            left_out[name] = str(error)
            continue
        writer.write(shards.pack(name, height, width, data))
        sides.append(min(height, width))
    writer.close()
    size = path.stat().st_size
    entry = {"file": path.name, "records": len(sides), "bytes": size, "sides": sides}
    return entry, left_out
