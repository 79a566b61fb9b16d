"""Open the source of photographs that `config.data.path` names.

    FOLDER                        pictures in it at any depth        sources.py
    DIR/*.array_record            ArrayRecord files, a glob pattern  shards.py
    tfds:NAME[/CONFIG][:VERSION]  a prepared TFDS dataset by name    tfds_source.py
    tfds:DIR                      ... by its folder
    tfds:...[SPLIT]               ... one split of it, [train[:90%]]
    builtin:photographs           those of scikit-image              photos.py
    A@0.7,B@0.3                   a mixture: A gives 7 samples of 10

A comma separates only right after a weight, so names may contain commas; a single
folder whose own name ends in @NUMBER is written with a slash at its end. Weights are
relative and exact; spaces around a comma and one trailing comma are ignored. No jax:
worker processes import this file.
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

    members: the mixed sources.
    shares: integers; of every sum(shares) samples, member k gives shares[k].
    bounds: member k has the indices bounds[k] .. bounds[k + 1].
    """

    def __init__(self, members: list[sources.Source], weights: list[Fraction]):
        self.members = members
        denominator = math.lcm(*(weight.denominator for weight in weights))
        integers = [int(weight * denominator) for weight in weights]
        self.shares = tuple(weight // math.gcd(*integers) for weight in integers)
        self.bounds = np.cumsum([0, *(len(member) for member in members)])
        self.sides_n = np.concatenate([member.sides_n for member in members])
        self.names = records.Names(len(self), self._name)

    @property
    def rejected(self) -> dict[str, str]:
        """{name: reason} of what the members have left out."""
        rejected = [getattr(member, "rejected", {}) for member in self.members]
        return {name: why for member in rejected for name, why in member.items()}

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, i: int) -> np.ndarray:
        member, k = self._member_of(i)
        return member[k]

    def __repr__(self) -> str:
        pairs = zip(self.shares, self.members, strict=True)
        members = ", ".join(f"{share}: {member!r}" for share, member in pairs)
        return f"Mixture({members})"

    def _member_of(self, i: int) -> tuple[sources.Source, int]:
        k = int(np.searchsorted(self.bounds, i, side="right")) - 1
        return self.members[k], i - int(self.bounds[k])

    def _name(self, i: int) -> str:
        member, k = self._member_of(i)
        return member.names[k]


def open_source(path: str) -> sources.Source:
    """The photographs that `path` names; the module docstring has the grammar.

    Raises:
      UsageError: the text cannot be parsed, or there is no usable picture.
    """
    if not path.strip():
        raise UsageError(
            "the data path is empty. Name a folder of photographs, or "
            f"{BUILTIN} for those of scikit-image."
        )
    weighted = split_mixture(path)
    if not weighted:
        if re.search(rf"@({_NUMBER})\s*,", path) and not Path(path).exists():
            raise UsageError(
                f"a source of the mixture {path!r} has no weight. Write "
                "PATH@WEIGHT,PATH@WEIGHT with numbers above 0, such as a@0.7,b@0.3."
            )
        return _open_one(path)
    for member_path, weight in weighted:
        if not member_path or not weight:
            raise UsageError(
                f"{member_path}@{float(weight):g} in the mixture {path} has no path or "
                "no weight. Write PATH@WEIGHT,PATH@WEIGHT with weights above 0."
            )
    members = [_open_one(member_path) for member_path, _ in weighted]
    return Mixture(members, [weight for _, weight in weighted])


def folders(path: str) -> list[Path]:
    """The folders of pictures that `path` names."""
    texts = [text for text, _ in split_mixture(path)] or [path.strip()]
    return [Path(text) for text in texts if text and Path(text).is_dir()]


def split_mixture(path: str) -> list[tuple[str, Fraction]]:
    """[(path, weight)] of a mixture; empty when the text is a single source."""
    pattern = re.compile(rf"(.*?)@({_NUMBER})\s*(?:,\s*|$)", re.DOTALL)
    members, position = [], 0
    while match := pattern.match(path, position):
        members.append((match[1].strip(), Fraction(match[2])))
        position = match.end()
    remainder = path[position:].strip()
    if not members:
        return []
    if remainder:  # a name that contains a comma, or a missing weight (open_source)
        return []
    return members


def _open_one(path: str) -> sources.Source:
    if path == BUILTIN:
        pictures = [p for name, p in photos.photographs() if name != photos.HELD_OUT]
        return sources.arrays(pictures)
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
        raise UsageError(
            f"{path} contains ArrayRecord files. Write {path}/*.array_record"
        )
    return sources.folder(folder)
