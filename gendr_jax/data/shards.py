"""Photographs in ArrayRecord shards: the record format, and the source that reads it.

    record = b"GDR1" | uint32 little-endian: length of the header
           | header: JSON {"name", "height", "width", "sha256"}, sizes as stored in the
             file (before any rotation), sha256 of the file's bytes
           | the bytes of the picture's file, unchanged (JPEG, PNG, ...)

Every record is a group of its own (`group_size:1`) without compression: one seek and
one read a picture. ArrayRecord stores a checksum of each record, so a flipped bit is an
error of that record and never a wrong picture. manifest.json, in the folder of the
shards, has the shorter side of every record, so opening reads no picture.
shard_writer.py writes shards. No jax: worker processes import this file.
"""

import glob
import hashlib
import json
import logging
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gendr_jax import picture_walk
from gendr_jax.data import decode, records, retry, sources
from gendr_jax.errors import InputError, UsageError

MAGIC = b"GDR1"
MANIFEST = "manifest.json"
OPTIONS = "group_size:1,uncompressed"
_PREFIX = struct.Struct("<4sI")
_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One photograph: the bytes of its file, and the fields of the header."""

    name: str
    height: int
    width: int
    sha256: str
    data: bytes


def pack(name: str, height: int, width: int, data: bytes) -> bytes:
    """The bytes of a record."""
    header = {
        "name": name,
        "height": height,
        "width": width,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    encoded = json.dumps(header, sort_keys=True).encode()
    return _PREFIX.pack(MAGIC, len(encoded)) + encoded + data


def unpack(record: bytes) -> Record:
    """The inverse of `pack`.

    Raises:
      InputError: the bytes are not in the format of `pack`.
    """
    try:
        magic, length = _PREFIX.unpack_from(record)
        if magic != MAGIC:
            raise InputError(f"it begins with {magic!r}, not {MAGIC!r}")
        start = _PREFIX.size + length
        header = json.loads(record[_PREFIX.size : start])
        return Record(
            str(header["name"]),
            int(header["height"]),
            int(header["width"]),
            str(header["sha256"]),
            record[start:],
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise InputError(f"not a record of photographs ({error})") from error


class Shards:
    """The records of ArrayRecord files, in the order of the files.

    `rejected` is {record: reason} of records that cannot be used; it is empty for
    shards with a manifest, which were checked when they were written.
    """

    def __init__(self, paths: list[Path]):
        self._paths = paths
        with ThreadPoolExecutor(records.THREADS) as pool:
            counts = list(pool.map(records.count_records, paths))
        self._ends = np.cumsum(counts)
        sides = _sides(paths, counts)
        if sides is None:
            scanned = records.scan(
                int(self._ends[-1]), self._name_and_side, str(paths[0])
            )
            self._good, self.sides_n, self.rejected = scanned
        else:
            self._good, self.sides_n, self.rejected = None, sides, {}
        self.names = records.Names(len(self), self._name)

    def __len__(self) -> int:
        return len(self.sides_n)

    def __getitem__(self, i: int) -> np.ndarray:
        record, location = self._record(self._index(i))
        return decode.read_bytes(record.data, f"{location} ({record.name})")

    def __repr__(self) -> str:
        return f"Shards({str(self._paths[0])!r} and on, {len(self)} pictures)"

    def _index(self, i: int) -> int:
        return i if self._good is None else int(self._good[i])

    def _record(self, index: int) -> tuple[Record, str]:
        """(record, "FILE: record i" for messages)."""
        k = int(np.searchsorted(self._ends, index, side="right"))
        i = index - (int(self._ends[k - 1]) if k else 0)
        path, location = self._paths[k], f"{self._paths[k]}: record {i}"
        data = records.read_record(path, i)
        try:
            return unpack(data), location
        except InputError as error:
            raise InputError(f"{location}: {error}") from error

    def _name_and_side(self, index: int) -> tuple[str, int]:
        record, location = self._record(index)
        name = f"{location} ({record.name})"
        return record.name, min(decode.read_size_bytes(record.data, name))

    def _name(self, i: int) -> str:
        try:
            return self._record(self._index(i))[0].name
        except InputError:
            return f"record {i}"


def shards(pattern: str | Path) -> Shards:
    """The photographs in the ArrayRecord files that `pattern` matches, sorted by name.

    Raises:
      UsageError: no such file; one that is truncated or does not fit the manifest; no
        usable picture, or too many bad ones (`sources.check_rejected`).
    """
    paths = _distinct(sorted(glob.glob(str(Path(pattern).expanduser()))))
    if not paths:
        raise UsageError(
            f"no file matches {pattern}. Give ArrayRecord files, DIR/*.array_record."
        )
    source = Shards(paths)
    for reason in source.rejected.values():
        _log.warning("left out %s", reason)
    if not len(source) and not source.rejected:
        raise UsageError(f"the shards {pattern} have no records. Write them again.")
    sources.check_rejected(source.rejected, len(source) + len(source.rejected))
    return source


def _distinct(names: list[str]) -> list[Path]:
    """Each file once, however many links lead to it.

    Raises:
      UsageError: a name that is not UTF-8, which ArrayRecord cannot open.
    """
    by_real_path: dict[str, Path] = {}
    for name in names:
        if not picture_walk.is_utf8(name):
            shown = picture_walk.shown(name)
            raise UsageError(f"{shown}: the name is not UTF-8. Rename the file.")
        first = by_real_path.setdefault(os.path.realpath(name), Path(name))
        if str(first) != name:
            _log.warning("left out %s: a link to %s, which is read", name, first)
    return list(by_real_path.values())


def _sides(paths: list[Path], counts: list[int]) -> np.ndarray | None:
    """The shorter side of every record by the manifests; None where one is missing."""
    manifests = {folder: _manifest(folder) for folder in {p.parent for p in paths}}
    sides = []
    for path, count in zip(paths, counts, strict=True):
        recorded = manifests[path.parent].get(path.name)
        if recorded is None:
            return None
        if len(recorded) != count:
            raise UsageError(
                f"{path} has {count} records, {MANIFEST} in its folder says "
                f"{len(recorded)}. Copy or write them again."
            )
        sides.append(np.asarray(recorded, np.int64))
    return np.concatenate(sides)


def _manifest(folder: Path) -> dict[str, list[int]]:
    """{file name: sides}, empty where there is none."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        content = json.loads(retry.with_retries(path.read_text, str(path)))
        if content["quarantine"]:
            count = len(content["quarantine"])
            _log.warning("%d files were left out when written, see %s", count, path)
        return {shard["file"]: shard["sides"] for shard in content["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a manifest of shards ({type(error).__name__}: {error}). "
            "Copy it again, or remove it, so that every record is scanned."
        ) from error
