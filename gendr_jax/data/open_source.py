"""`data.path`: one line of text to a source of photographs.

    FOLDER                        pictures in it at any depth        sources.py
    DIR/*.array_record            ArrayRecord files, a glob pattern  shards.py
    tfds:NAME[/CONFIG][:VERSION]  a prepared TFDS dataset by name    tfds_source.py
    tfds:DIR                      ... by its folder
    tfds:...[SPLIT]               ... one split of it, [train[:90%]]
    builtin:photographs           those inside scikit-image          photos.py
    A@0.7,B@0.3                   a mixture: A gives 7 samples of 10

A comma separates only right after a weight, so names may have commas; a single folder
whose own name ends in @NUMBER is written with a slash at its end. Weights are relative
and exact; blanks around a comma and one comma at the end do not count. No jax: worker
processes import this file.
"""

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from gendr_jax.data import photos, records, shards, sources
from gendr_jax.errors import UsageError

BUILTIN = "builtin:photographs"
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?"
_SHARD = re.compile(r"array_?record", re.IGNORECASE)


class Mixture:
    """Several sources behind one index, to be drawn from by weight.

    shares: whole numbers; of every sum(shares) samples, part k gives shares[k].
    bounds: part k has the indices bounds[k] .. bounds[k + 1].
    """

    def __init__(self, parts: list[sources.Source], weights: list[Fraction]):
        self.parts = parts
        scale = math.lcm(*(w.denominator for w in weights))
        whole = [int(w * scale) for w in weights]
        self.shares = tuple(w // math.gcd(*whole) for w in whole)
        self.bounds = np.cumsum([0, *(len(part) for part in parts)])
        self.sides_n = np.concatenate([part.sides_n for part in parts])
        self.names = records.Names(len(self), self._name)

    @property
    def rejected(self) -> dict[str, str]:
        """What every part has left out."""
        found = [getattr(part, "rejected", {}) for part in self.parts]
        return {name: why for part in found for name, why in part.items()}

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, i: int) -> np.ndarray:
        part, k = self._part_of(i)
        return part[k]

    def __repr__(self) -> str:
        pairs = zip(self.shares, self.parts, strict=True)
        return f"Mixture({', '.join(f'{share}: {part!r}' for share, part in pairs)})"

    def _part_of(self, i: int) -> tuple[sources.Source, int]:
        k = int(np.searchsorted(self.bounds, i, side="right")) - 1
        return self.parts[k], i - int(self.bounds[k])

    def _name(self, i: int) -> str:
        part, k = self._part_of(i)
        return part.names[k]


def open_source(path: str) -> sources.Source:
    """The photographs that `path` names; the grammar stands above.

    Raises:
      UsageError: the text is not understood, or nothing usable is there.
    """
    if not path.strip():
        raise UsageError(
            "the path of the data is empty. Name a folder of photographs, or "
            f"{BUILTIN} for those that come with scikit-image."
        )
    pieces = split_mixture(path)
    if not pieces:
        if re.search(rf"@({_NUMBER})\s*,", path) and not Path(path).exists():
            raise UsageError(
                f"a part of the mixture {path!r} has no weight. Write "
                "PATH@WEIGHT,PATH@WEIGHT with numbers above 0, such as a@0.7,b@0.3."
            )
        return _open_one(path)
    for text, weight in pieces:
        if not text or not weight:
            raise UsageError(
                f"{text}@{float(weight):g} in the mixture {path} has no path or no "
                "weight. Write PATH@WEIGHT,PATH@WEIGHT with weights above 0."
            )
    parts = [_open_one(text) for text, _ in pieces]
    return Mixture(parts, [weight for _, weight in pieces])


def folders(path: str) -> list[Path]:
    """The folders of pictures that `path` names."""
    texts = [text for text, _ in split_mixture(path)] or [path.strip()]
    return [Path(text) for text in texts if text and Path(text).is_dir()]


def split_mixture(path: str) -> list[tuple[str, Fraction]]:
    """[(path, weight)] of a mixture; empty when the text is a single source."""
    weighted = re.compile(rf"(.*?)@({_NUMBER})\s*(?:,\s*|$)", re.DOTALL)
    found, position = [], 0
    while match := weighted.match(path, position):
        found.append((match[1].strip(), Fraction(match[2])))
        position = match.end()
    rest = path[position:].strip()
    if not found:
        return []
    if rest:  # a name with a comma in it, or a forgotten weight (open_source)
        return []
    return found


def _open_one(path: str) -> sources.Source:
    if path == BUILTIN:
        kept = [p for name, p in photos.photographs() if name != photos.HELD_OUT]
        return sources.arrays(kept)
    if path.startswith("tfds:"):
        if path == "tfds:":
            raise UsageError("tfds: names no dataset. Write tfds:NAME or tfds:DIR.")
        from gendr_jax.data import tfds_source  # the slowest import of all

        return tfds_source.tfds_source(path.removeprefix("tfds:"))
    folder = Path(path).expanduser()
    if not folder.is_dir() and _SHARD.search(folder.name):
        return shards.shards(path)
    if (folder / "features.json").is_file():
        raise UsageError(f"{path} is a TFDS dataset. Write tfds:{path}.")
    if any(folder.glob("*.array_record")) and not sources.find(folder):
        raise UsageError(f"{path} holds ArrayRecord files. Write {path}/*.array_record")
    return sources.folder(folder)
