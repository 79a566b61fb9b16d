"""TFDS datasets as a source, without TensorFlow.

TFDS gives the encoded bytes (`SkipDecoding`), decode.py judges and decodes them as it
does files. Making a dataset is gendr_photos.py's. No jax: worker processes import this
file.
"""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gendr_jax.data import decode, records, sources
from gendr_jax.errors import InputError, UsageError

PREFERRED = ("image", "hr")
_log = logging.getLogger(__name__)


class Tfds:
    """The pictures of one split, in the order of its records.

    `rejected` maps records that are no pictures to the reason.
    """

    def __init__(self, builder: Any, split: str, key: str):
        self._decoders = {key: tfds.decode.SkipDecoding()}
        # TFDS says what is wrong with a split; reading is ours, since its readers
        # stay open, one a file.
        builder.as_data_source(split=split, decoders=self._decoders)
        self._features = builder.info.features
        self._key, self._split = key, split
        self._label = f"tfds:{builder.info.name}[{split}]"
        taken = builder.info.splits[split].file_instructions
        self._files = [str(part.filename) for part in taken]
        self._skips = [part.skip for part in taken]
        self._ends = np.cumsum([part.take for part in taken])
        with ThreadPoolExecutor(records.THREADS) as pool:
            list(pool.map(_check_file, taken))
        sides = _sides(builder, taken)
        if sides is None:
            found = records.look_at_all(int(self._ends[-1]), self._look, self._label)
            self._good, self.sides_n, self.rejected = found
        else:
            self._good, self.sides_n, self.rejected = None, sides, {}
        self.names = records.Names(len(self), self._name)

    def __len__(self) -> int:
        return len(self.sides_n)

    def __getitem__(self, i: int) -> np.ndarray:
        index = self._index(i)
        example = self._example(index)
        return decode.read_bytes(example[self._key], self._where(index, example))

    def __repr__(self) -> str:
        return f"Tfds({self._label!r}, {len(self)} pictures)"

    def _index(self, i: int) -> int:
        return i if self._good is None else int(self._good[i])

    def _file_and_record(self, index: int) -> tuple[str, int]:
        """(file, record in it)."""
        k = int(np.searchsorted(self._ends, index, side="right"))
        record = index - (int(self._ends[k - 1]) if k else 0) + self._skips[k]
        return self._files[k], record

    def _where(self, index: int, example: dict[str, Any] | None = None) -> str:
        path, record = self._file_and_record(index)
        name = example and example.get("name")
        named = f" ({name.decode()})" if isinstance(name, bytes) else ""
        return f"{path}: record {record}{named}"

    def _example(self, index: int) -> dict[str, Any]:
        data = records.read_record(*self._file_and_record(index))
        try:
            return self._features.deserialize_example_np(data, decoders=self._decoders)
        # a record that is no example of these features
        except Exception as error:
            reason = records.one_line(error) or "it cannot be read"
            raise InputError(f"{self._where(index)}: {reason}") from error

    def _look(self, index: int) -> tuple[str, int]:
        example = self._example(index)
        where = self._where(index, example)
        return where, min(decode.read_size_bytes(example[self._key], where))

    def _name(self, i: int) -> str:
        index = self._index(i)
        try:
            name = self._example(index).get("name")
        except InputError:
            name = None
        return name.decode() if isinstance(name, bytes) else self._where(index)


def tfds_source(text: str) -> Tfds:
    """The pictures of a prepared TFDS dataset.

    Args:
      text: NAME[/CONFIG][:VERSION], below TFDS_DATA_DIR (~/tensorflow_datasets), or the
        folder of a dataset (the one with features.json); then, in brackets, a split
        such as [train] or [train[:90%]] if there are several or a part is wanted.

    Raises:
      UsageError: no such dataset, split or image feature; a file that is truncated; no
        usable picture, or too many bad ones (`sources.check_rejected`).
    """
    match = re.fullmatch(r"(.+?)(?:\[(.+)\])?", text, re.DOTALL)
    assert match is not None  # of any text that is not empty
    where, split = match[1], match[2]
    builder = _builder(where)
    split = split or _only_split(builder, where)
    key = _image_key(builder, where)
    try:
        source = Tfds(builder, split, key)
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise UsageError(
            f"split {split!r} of tfds:{where} cannot be read "
            f"({records.one_line(error)}). Splits are "
            f"{', '.join(builder.info.splits)}; files have to be array_record."
        ) from error
    for reason in source.rejected.values():
        _log.warning("left out %s", reason)
    if not len(source) and not source.rejected:
        raise UsageError(f"tfds:{text} holds no record. Give another split.")
    sources.check_rejected(source.rejected, len(source) + len(source.rejected))
    return source


def _builder(where: str) -> Any:
    folder = Path(where).expanduser()
    is_folder = "://" in where or where[0] in "/.~" or folder.is_dir()
    try:
        if is_folder:
            builder = tfds.builder_from_directory(
                where if "://" in where else str(folder)
            )
        else:
            builder = tfds.builder(where)
    # TFDS has errors of many kinds for what is missing or misspelt
    except Exception as error:
        raise UsageError(
            f"tfds:{where} is not a prepared dataset ({records.one_line(error)}). Give "
            "the folder with its features.json, or a name below TFDS_DATA_DIR."
        ) from error
    if not builder.info.splits:
        raise UsageError(
            f"tfds:{where} is known but not prepared at {builder.data_dir}. Run its "
            "download_and_prepare(file_format='array_record') first."
        )
    return builder


def _only_split(builder: Any, where: str) -> str:
    splits = list(builder.info.splits)
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else splits[0]
    raise UsageError(
        f"tfds:{where} has the splits {', '.join(splits)} and no train. Name one, "
        f"tfds:{where}[{splits[0]}]."
    )


def _image_key(builder: Any, where: str) -> str:
    features = builder.info.features
    images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    named = [key for key in PREFERRED if key in images] or images
    if not images or (len(images) > 1 and named == images):
        raise UsageError(
            f"tfds:{where} has the image features {sorted(images)}. Give a dataset "
            f"with one, or with one called {' or '.join(PREFERRED)}."
        )
    return named[0]


def _check_file(part: Any) -> None:
    """A truncated file is found when the dataset is opened, not hours later."""
    count = records.count_records(str(part.filename))
    if count != part.examples_in_shard:
        raise UsageError(
            f"{part.filename} has {count} records, dataset_info.json beside it says "
            f"{part.examples_in_shard}. Copy or write them again."
        )


def _sides(builder: Any, taken: list[Any]) -> np.ndarray | None:
    """The shorter sides by gendr_photos' metadata; None for other datasets."""
    known = (builder.info.metadata or {}).get("sides")
    if not isinstance(known, dict):
        return None
    first = {}  # file -> (split, how many records lie before it)
    for name, split in builder.info.splits.items():
        starts = np.cumsum([0, *split.shard_lengths])
        for path, start in zip(split.filepaths, starts, strict=False):
            first[str(path)] = name, int(start)
    parts = []
    for part in taken:
        name, start = first[str(part.filename)]
        begin = start + part.skip
        parts.append(known.get(name, [])[begin : begin + part.take])
    sides = np.asarray([side for part in parts for side in part], np.int64)
    return sides if len(sides) == sum(part.take for part in taken) else None
