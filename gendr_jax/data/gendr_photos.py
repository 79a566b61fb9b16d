"""Build the TFDS dataset `gendr_photos` from a folder of photographs.

    python -m tools.make_arrayrecord PHOTOS DATA_DIR --tfds
    gendr train ... --config.data.path=tfds:DATA_DIR/gendr_photos/1.0.0

One split, `train`; examples hold the unchanged bytes of each file (`image`), its
`name` relative to the folder, `height`, `width` and `sha256`. Files that decode.py
refuses are left out and listed in metadata.json, which also has the shorter side of
every picture. The order is that of the sorted names. Neither writing nor reading needs
TensorFlow.

On a cluster TFDS builds it with Apache Beam (`pip install apache-beam`, in a separate
environment: it needs older protobuf and pyarrow). The builder for that is

    class GendrPhotosBeam(gendr_photos.GendrPhotos):
        def _generate_examples(self, root, names):
            import apache_beam as beam
            make = functools.partial(gendr_photos.examples, root)
            return beam.Create(list(enumerate(names))) | beam.FlatMap(make)

    builder = GendrPhotosBeam(data_dir=DATA_DIR, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
        manual_dir=PHOTOS, num_shards=4096, compute_stats="skip",
        beam_options=PipelineOptions(["--runner=DataflowRunner", ...])))

PHOTOS has to be a folder that every worker can read. Beam drops refused files without
a list and writes no sides: such a dataset is scanned once when it is opened.
"""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gendr_jax import overwriting
from gendr_jax.data import shard_writer, sources
from gendr_jax.errors import InputError, UsageError


class GendrPhotos(tfds.core.GeneratorBasedBuilder):
    """The dataset builder; TFDS' `manual_dir` is the folder of photographs."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder of photographs as manual_dir."
    min_side = 1  # smaller pictures are left out

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "name": tfds.features.Text(),
            "height": np.int32,
            "width": np.int32,
            "sha256": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs of a folder, unchanged.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        return {"train": self._generate_examples(root, sources.find(root))}

    def _generate_examples(self, root: Path, names: list[str]) -> Iterator[Any]:
        sides, rejected = [], {}
        for key_and_name in keyed(names):
            try:
                key, features = example(root, key_and_name, self.min_side)
            except InputError as error:
                rejected[key_and_name[1]] = str(error)
                continue
            sides.append(min(features["height"], features["width"]))
            yield key, features
        if not sides:
            sources.check_rejected(rejected, len(names))
        self.info.metadata["sides"] = {"train": sides}
        self.info.metadata["quarantine"] = rejected


def keyed(names: list[str]) -> list[tuple[int, str]]:
    """(key, name) of each file, keys in the order of the names.

    TFDS sorts by key and spreads 128-bit keys evenly over its buckets, hence the
    shift. (Not with Beam, whose integers have 64 bits and whose buckets adapt.)
    """
    return [((i << 128) // len(names), name) for i, name in enumerate(names)]


def example(
    root: Path, key_and_name: tuple[int, str], min_side: int = 1
) -> tuple[int, dict[str, Any]]:
    """(key, features) of one photograph.

    Raises:
      InputError: decode.py refuses it.
    """
    key, name = key_and_name
    data, height, width = shard_writer.check(root, name, min_side)
    return key, {
        "image": io.BytesIO(data),
        "name": name,
        "height": height,
        "width": width,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def examples(
    root: Path, key_and_name: tuple[int, str]
) -> list[tuple[int, dict[str, Any]]]:
    """[`example`], or [] where the file is refused, for Beam's FlatMap."""
    try:
        return [example(root, key_and_name)]
    except InputError:
        return []


def build(
    folder: str | Path, data_dir: str | Path, *, count: int = 0, min_side: int = 1
) -> Path:
    """Write the dataset below `data_dir` and return its folder.

    Args:
      count: number of shards; 0 leaves it to TFDS.
      min_side: smaller pictures are left out.

    Raises:
      UsageError: no pictures below `folder`, or the dataset is there already.
    """
    if not sources.find(Path(folder)):
        raise UsageError(f"{folder} has no pictures. Give a folder of images.")
    overwriting.refuse_nested(Path(data_dir), Path(folder), "Give another DATA_DIR.")
    builder = GendrPhotos(data_dir=str(data_dir), file_format="array_record")
    builder.min_side = min_side
    target = Path(builder.data_dir)
    if target.exists():
        raise UsageError(f"{target} exists. Remove it, or give another folder.")
    tfds.disable_progress_bar()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=str(folder),
            compute_stats=tfds.download.ComputeStatsMode.SKIP,
            num_shards=count or None,
        )
    )
    return target
