"""TFDS datasets without TensorFlow: ours, and those of others."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gendr_jax.data import gendr_photos, sources
from gendr_jax.data.tfds_source import tfds_source
from gendr_jax.errors import InputError, UsageError
from tests.helpers.bad_files import encode, picture
from tools import make_arrayrecord


class Pairs(tfds.core.GeneratorBasedBuilder):
    """Somebody else's: two images, no names, no sides, shuffled, two splits."""

    VERSION = tfds.core.Version("2.0.0")
    keys = ("hr", "lr")
    splits = ("validation", "test")

    def _info(self):
        images = {key: tfds.features.Image(shape=(None, None, 3)) for key in self.keys}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(images | {"n": np.int32})
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in self.splits}

    def _generate_examples(self):
        for k in range(12):
            files = [encode(picture(seed=k)[: 30 + k], "PNG") for _ in self.keys]
            yield (
                k,
                dict(zip(self.keys, map(io.BytesIO, files), strict=True)) | {"n": k},
            )


class Unnamed(Pairs):
    keys = ("left", "right")


class NoImage(Pairs):
    keys = ()
    splits = ("train",)


def prepare(builder, path, count=2):
    tfds.disable_progress_bar()
    made = builder(data_dir=str(path), file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=count, compute_stats="skip")
    made.download_and_prepare(download_config=config)
    return made.data_dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    (root / "a").mkdir()
    for k in range(10):
        name = f"a/{k}.jpg" if k % 2 else f"{k}.png"
        kind = "JPEG" if k % 2 else "PNG"
        (root / name).write_bytes(encode(picture(seed=k)[: 30 + k], kind))
    return root


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    return gendr_photos.build(folder, tmp_path_factory.mktemp("tfds"), count=3)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return prepare(Pairs, tmp_path_factory.mktemp("tfds"))


def test_ours_is_the_folder(folder, ours):
    have, want = tfds_source(str(ours)), sources.folder(folder)
    assert list(have.names) == want.names and have.rejected == {}
    assert have.sides_n.tolist() == want.sides_n.tolist()
    for i in range(10):
        np.testing.assert_array_equal(have[i], want[i])
    copy = pickle.loads(pickle.dumps(have))
    np.testing.assert_array_equal(copy[7], want[7])


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("train", slice(None)),
        ("train[:40%]", slice(0, 4)),
        ("train[2:7]", slice(2, 7)),
        ("train[8:]+train[:1]", [8, 9, 0]),
    ],
)
def test_splits(folder, ours, split, part):
    have, want = tfds_source(f"{ours}[{split}]"), sources.folder(folder)
    index = np.arange(10)[part]
    assert list(have.names) == [want.names[i] for i in index]
    assert have.sides_n.tolist() == want.sides_n[index].tolist()
    np.testing.assert_array_equal(have[1], want[index[1]])


def test_ours_by_name(ours, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(ours.parents[1]))
    for name in ("gendr_photos", "gendr_photos:1.0.0"):
        assert len(tfds_source(name)) == 10


def test_the_bytes_are_those_of_the_files(folder, ours):
    builder = tfds.builder_from_directory(str(ours))
    skip = {"image": tfds.decode.SkipDecoding()}
    for example in builder.as_data_source("train", decoders=skip):
        data = (folder / example["name"].decode()).read_bytes()
        assert example["image"] == data and len(example["sha256"]) == 64


def test_keys_keep_the_order_and_fill_every_bucket():
    """TFDS sorts in as many buckets as the leading bits of a 128-bit key say."""
    names = [str(k) for k in range(1000)]
    keys = [key for key, _ in gendr_photos.keyed(names)]
    assert keys == sorted(set(keys)) and keys[0] == 0 and keys[-1] < 2**128
    assert len({key >> 120 for key in keys}) == 256


def test_what_beam_maps_over_drops_what_is_refused(folder, tmp_path):
    [(key, found)] = gendr_photos.examples(folder, (3, "a/1.jpg"))
    assert (key, found["name"], found["height"]) == (3, "a/1.jpg", 31)
    (tmp_path / "no.png").write_bytes(b"")
    assert gendr_photos.examples(tmp_path, (0, "no.png")) == []


def test_the_tool(folder, tmp_path, capsys):
    options = [str(folder), str(tmp_path), "--tfds", "--min-side=35"]
    assert make_arrayrecord.main(options) == 0
    said = capsys.readouterr().out
    assert "left out 0.png: 64x30, smaller than 35 pixels" in said
    assert f"tfds:{tmp_path}/gendr_photos/1.0.0: 5 pictures, 5 left out" in said
    assert make_arrayrecord.main(options) == 2
    assert "exists" in capsys.readouterr().err


def test_of_others_the_records_are_looked_at_once(pairs):
    source = tfds_source(f"{pairs}[test]")
    want = {30 + k: picture(seed=k)[: 30 + k] for k in range(12)}
    assert sorted(source.sides_n) == sorted(want) and "record" in source.names[3]
    for i in range(12):
        np.testing.assert_array_equal(source[i], want[int(source.sides_n[i])])


def test_what_cannot_be_opened(pairs, ours, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    cases = {
        str(pairs): "has the splits .*validation.* and no train",
        f"{pairs}[train]": "split 'train' .*Unknown split",
        f"{ours}[train[:]": r"Splits are train",
        f"{tmp_path}/none": "not a prepared dataset",
        "no_such_dataset": "not a prepared dataset .*no_such_dataset not found",
        "gendr_photos": "is not prepared at|not a prepared dataset",
        prepare(Unnamed, tmp_path) + "[test]": r"image features \['left', 'right'\]",
        prepare(NoImage, tmp_path): r"image features \[\]",
    }
    for text, words in cases.items():
        with pytest.raises(UsageError, match=words) as caught:
            tfds_source(text)
        assert "\n" not in str(caught.value)


@pytest.fixture
def copied(folder, tmp_path):
    return gendr_photos.build(folder, tmp_path, count=2)


def test_a_truncated_file_is_named_when_it_is_opened(copied):
    path = sorted(copied.glob("*array_record*"))[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"00001-of-00002 cannot be opened"):
        tfds_source(str(copied))


def test_a_flipped_bit_is_an_error_of_that_record(copied):
    path = sorted(copied.glob("*array_record*"))[1]
    data = bytearray(path.read_bytes())
    data[1000] ^= 1  # in the first record; those are compressed
    path.write_bytes(data)
    source, failed = tfds_source(str(copied)), []
    for i in range(len(source)):
        try:
            source[i]
        except InputError as error:
            failed.append(str(error))
    assert len(failed) == 1 and f"{path}: record " in failed[0]


def test_files_that_do_not_fit_the_description(copied):
    info = json.loads((copied / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["4", "6"]
    (copied / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="has 5 records, dataset_info.json .* says 4"):
        tfds_source(str(copied))


def test_no_tensorflow(folder, tmp_path):
    code = (
        "import sys\n"
        "from gendr_jax.data import gendr_photos, tfds_source\n"
        f"made = gendr_photos.build({str(folder)!r}, {str(tmp_path)!r})\n"
        "source = tfds_source.tfds_source(str(made))\n"
        "assert source[0].ndim == 3\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
