"""Random access to pictures: a folder of image files, or a list of arrays.

Shards and TFDS datasets have the same interface, `Source` (shards.py, tfds_source.py;
open_source.py opens any). No jax: worker processes import this file.
"""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gendr_jax import picture_walk
from gendr_jax.data import decode
from gendr_jax.errors import InputError, UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff")
CACHE_BYTES = 256_000_000
_log = logging.getLogger(__name__)


class Source(Protocol):
    """The interface that the pipeline uses.

    names: one a picture. sides_n: the shorter side of each in pixels, int array.
    source[i]: HWC uint8; InputError when this one cannot be read.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def sides_n(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> np.ndarray: ...


class Folder:
    """The pictures below a folder, ordered by their path relative to it.

    Opening reads every header; `rejected` is {name: reason} of files whose header
    shows that they cannot be used. Decoded pictures are cached up to `cache_bytes`.
    """

    def __init__(self, root: Path, names: list[str], cache_bytes: int):
        self.root = root
        self.rejected: dict[str, str] = {}
        self.names: list[str] = []
        sides = []
        with ThreadPoolExecutor(16) as pool:
            for name, side, reason in pool.map(self._name_side_reason, names):
                if reason:
                    self.rejected[name] = reason
                else:
                    self.names.append(name)
                    sides.append(side)
        self.sides_n = np.asarray(sides, np.int64)
        self._cache_room = cache_bytes
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> np.ndarray:
        cached = self._cache.get(i)
        if cached is not None:
            return cached
        pixels_hwc = decode.read(self.root / self.names[i])
        pixels_hwc.flags.writeable = False
        with self._lock:
            if i not in self._cache and pixels_hwc.nbytes <= self._cache_room:
                self._cache_room -= pixels_hwc.nbytes
                self._cache[i] = pixels_hwc
        return pixels_hwc

    def __repr__(self) -> str:
        return f"Folder({str(self.root)!r}, {len(self)} pictures)"

    def __getstate__(self) -> dict[str, Any]:
        """A worker process starts with an empty cache and its own lock."""
        state = self.__dict__.copy()
        state["_cache_room"] += sum(a.nbytes for a in self._cache.values())
        state["_cache"] = {}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _name_side_reason(self, name: str) -> tuple[str, int, str]:
        try:
            return name, min(decode.read_size(self.root / name)), ""
        except InputError as error:
            return name, 0, str(error)


class Arrays:
    """Pictures that are in memory already."""

    def __init__(self, pictures: list[np.ndarray]):
        self._pictures = pictures
        self.names = [f"array {i}" for i in range(len(pictures))]
        self.sides_n = np.asarray([min(p.shape[:2]) for p in pictures], np.int64)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._pictures[i]

    def __repr__(self) -> str:
        return f"Arrays({len(self)} pictures)"


def folder(path: str | Path, *, cache_bytes: int = CACHE_BYTES) -> Folder:
    """Every picture below `path`, at any depth.

    Files that decode.py refuses by their header are left out with a warning and listed
    in `.rejected`.

    Raises:
      UsageError: no such folder, no file with a known extension, no usable picture, or
        too many bad ones (`check_rejected`).
    """
    root = Path(path)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(
            f"the picture folder {root} {problem}. Give a folder of images."
        )
    names = find(root)
    if not names:
        raise UsageError(
            f"{root} has no pictures. Give a folder with "
            f"{', '.join(e[1:] for e in EXTENSIONS)} files."
        )
    source = Folder(root, names, cache_bytes)
    for reason in source.rejected.values():
        _log.warning("left out %s", reason)
    check_rejected(source.rejected, len(names))
    return source


def arrays(pictures: Sequence[np.ndarray]) -> Arrays:
    """Pictures in memory, each HWC uint8 with 3 channels.

    Raises:
      UsageError: the list is empty or one of them has another shape or type.
    """
    if not pictures:
        raise UsageError("the list of pictures is empty. Give at least one array.")
    for i, p in enumerate(pictures):
        if p.ndim != 3 or p.shape[2] != 3 or p.dtype != np.uint8 or not p.size:
            raise UsageError(
                f"picture {i} is {p.dtype} of shape {p.shape}, not uint8 of shape "
                "(height, width, 3). Convert it first."
            )
    return Arrays(list(pictures))


def find(root: Path) -> list[str]:
    """Names of image files below `root`, relative and sorted, by picture_walk.py.

    Files that are left out are logged with the reason.
    """
    walked = picture_walk.walk(root, EXTENSIONS)
    for line in walked.left_out.values():
        _log.warning("left out %s", line)
    for line in walked.repeated.values():
        _log.info("%s", line)
    return walked.names


def check_rejected(rejected: dict[str, str], total: int) -> None:
    """Stop when too many files cannot be used.

    Allowed are 1 % of all files, or ten of a set of up to 1000, but at most half: more
    suggests that it is the wrong folder.

    Raises:
      UsageError: with the list of files and reasons.
    """
    allowed = max(total // 100, min(10, total // 2))
    if len(rejected) > allowed or len(rejected) == total:
        shown = "; ".join(list(rejected.values())[:20])
        more = f"; and {len(rejected) - 20} more" if len(rejected) > 20 else ""
        raise UsageError(
            f"{len(rejected)} of {total} pictures cannot be used ({allowed} allowed): "
            f"{shown}{more}. Repair or remove them."
        )
