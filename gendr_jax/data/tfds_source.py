"""TFDS datasets as a source of pictures, without TensorFlow.

TFDS returns the encoded bytes (`SkipDecoding`), and decode.py decodes them as it does
files. gendr_photos.py builds a dataset. No jax: worker processes import this file.
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

    `rejected` is {record: reason} of records that cannot be used.
    """

    def __init__(self, builder: Any, split: str, key: str):
        self._decoders = {key: tfds.decode.SkipDecoding()}
        # Called for its errors about the split. Records are read by records.py, since
        # TFDS keeps a reader open for every file.
        builder.as_data_source(split=split, decoders=self._decoders)
        self._features = builder.info.features
        self._key, self._split = key, split
        self._label = f"tfds:{builder.info.name}[{split}]"
        instructions = builder.info.splits[split].file_instructions
        self._files = [str(instruction.filename) for instruction in instructions]
        self._skips = [instruction.skip for instruction in instructions]
        self._ends = np.cumsum([instruction.take for instruction in instructions])
        with ThreadPoolExecutor(records.THREADS) as pool:
            list(pool.map(_check_file, instructions))
        sides = _sides(builder, instructions)
        if sides is None:
            scanned = records.scan(
                int(self._ends[-1]), self._name_and_side, self._label
            )
            self._good, self.sides_n, self.rejected = scanned
        else:
            self._good, self.sides_n, self.rejected = None, sides, {}
        self.names = records.Names(len(self), self._name)

    def __len__(self) -> int:
        return len(self.sides_n)

    def __getitem__(self, i: int) -> np.ndarray:
        index = self._index(i)
        example = self._example(index)
        return decode.read_bytes(example[self._key], self._location(index, example))

    def __repr__(self) -> str:
        return f"Tfds({self._label!r}, {len(self)} pictures)"

    def _index(self, i: int) -> int:
        return i if self._good is None else int(self._good[i])

    def _file_and_record(self, index: int) -> tuple[str, int]:
        """(file, record in it)."""
        k = int(np.searchsorted(self._ends, index, side="right"))
        record = index - (int(self._ends[k - 1]) if k else 0) + self._skips[k]
        return self._files[k], record

    def _location(self, index: int, example: dict[str, Any] | None = None) -> str:
        path, record = self._file_and_record(index)
        name = example and example.get("name")
        named = f" ({name.decode()})" if isinstance(name, bytes) else ""
        return f"{path}: record {record}{named}"

    def _example(self, index: int) -> dict[str, Any]:
        data = records.read_record(*self._file_and_record(index))
        try:
            return self._features.deserialize_example_np(data, decoders=self._decoders)
        # of any type, for a record that does not have these features
        except Exception as error:
            reason = records.one_line(error) or "it cannot be read"
            raise InputError(f"{self._location(index)}: {reason}") from error

    def _name_and_side(self, index: int) -> tuple[str, int]:
        example = self._example(index)
        location = self._location(index, example)
        return location, min(decode.read_size_bytes(example[self._key], location))

    def _name(self, i: int) -> str:
        index = self._index(i)
        try:
            name = self._example(index).get("name")
        except InputError:
            name = None
        return name.decode() if isinstance(name, bytes) else self._location(index)


def tfds_source(text: str) -> Tfds:
    """The pictures of a prepared TFDS dataset.

    Args:
      text: NAME[/CONFIG][:VERSION], below TFDS_DATA_DIR (~/tensorflow_datasets), or the
        folder of a dataset (the one with features.json); then, in brackets, a split
        such as [train] or [train[:90%]], needed where there are several.

    Raises:
      UsageError: no such dataset, split or image feature; a file that is truncated; no
        usable picture, or too many bad ones (`sources.check_rejected`).
    """
    match = re.fullmatch(r"(.+?)(?:\[(.+)\])?", text, re.DOTALL)
    assert match is not None  # any text that is not empty matches
    dataset, split = match[1], match[2]
    builder = _builder(dataset)
    split = split or _only_split(builder, dataset)
    key = _image_key(builder, dataset)
    try:
        source = Tfds(builder, split, key)
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise UsageError(
            f"split {split!r} of tfds:{dataset} cannot be read "
            f"({records.one_line(error)}). Splits are "
            f"{', '.join(builder.info.splits)}; files have to be array_record."
        ) from error
    for reason in source.rejected.values():
        _log.warning("left out %s", reason)
    if not len(source) and not source.rejected:
        raise UsageError(f"tfds:{text} has no records. Give another split.")
    sources.check_rejected(source.rejected, len(source) + len(source.rejected))
    return source


def _builder(dataset: str) -> Any:
    folder = Path(dataset).expanduser()
    is_folder = "://" in dataset or dataset[0] in "/.~" or folder.is_dir()
    try:
        if is_folder:
            builder = tfds.builder_from_directory(
                dataset if "://" in dataset else str(folder)
            )
        else:
            builder = tfds.builder(dataset)
    # TFDS raises many types of errors for datasets that are missing or misspelt
    except Exception as error:
        raise UsageError(
            f"tfds:{dataset} is not a prepared dataset ({records.one_line(error)}). "
            "Give the folder with its features.json, or a name below TFDS_DATA_DIR."
        ) from error
    if not builder.info.splits:
        raise UsageError(
            f"tfds:{dataset} is not prepared at {builder.data_dir}. Run its "
            "download_and_prepare(file_format='array_record') first."
        )
    return builder


def _only_split(builder: Any, dataset: str) -> str:
    splits = list(builder.info.splits)
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else splits[0]
    raise UsageError(
        f"tfds:{dataset} has the splits {', '.join(splits)} and no train. Name one, "
        f"tfds:{dataset}[{splits[0]}]."
    )


def _image_key(builder: Any, dataset: str) -> str:
    features = builder.info.features
    images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    preferred = [key for key in PREFERRED if key in images] or images
    if not images or (len(images) > 1 and preferred == images):
        raise UsageError(
            f"tfds:{dataset} has the image features {sorted(images)}. Give a dataset "
            f"with one, or with one named {' or '.join(PREFERRED)}."
        )
    return preferred[0]


def _check_file(instruction: Any) -> None:
    """Refuse a truncated file when the dataset is opened, not hours later."""
    count = records.count_records(str(instruction.filename))
    if count != instruction.examples_in_shard:
        raise UsageError(
            f"{instruction.filename} has {count} records, dataset_info.json in its "
            f"folder says {instruction.examples_in_shard}. Copy or write them again."
        )


def _sides(builder: Any, instructions: list[Any]) -> np.ndarray | None:
    """The shorter sides by gendr_photos' metadata; None for other datasets."""
    recorded = (builder.info.metadata or {}).get("sides")
    if not isinstance(recorded, dict):
        return None
    first = {}  # file -> (split, index of its first record)
    for name, split in builder.info.splits.items():
        starts = np.cumsum([0, *split.shard_lengths])
        for path, start in zip(split.filepaths, starts, strict=False):
            first[str(path)] = name, int(start)
    shard_sides = []
    for instruction in instructions:
        name, start = first[str(instruction.filename)]
        begin = start + instruction.skip
        shard_sides.append(recorded.get(name, [])[begin : begin + instruction.take])
    sides = np.asarray(
        [side for instruction in shard_sides for side in instruction], np.int64
    )
    return (
        sides
        if len(sides) == sum(instruction.take for instruction in instructions)
        else None
    )
