"""ArrayRecord shards: the format, the writer, and damage that must name its file."""

import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from array_record.python import array_record_module

from gendr_jax.data import shard_writer, shards, sources
from gendr_jax.errors import InputError, UsageError
from tests.helpers.bad_files import encode, picture
from tools import make_arrayrecord


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    (root / "b, c").mkdir()
    for k in range(9):
        name = f"b, c/{k}.jpg" if k % 2 else f"{k}.png"
        kind = "JPEG" if k % 2 else "PNG"
        (root / name).write_bytes(encode(picture(seed=k)[: 30 + k], kind))
    return root


@pytest.fixture
def written(folder, tmp_path):
    shard_writer.write(folder, tmp_path / "out", count=3)
    return tmp_path / "out"


def read(path):
    return shards.shards(f"{path}/*.array_record")


def test_a_record_is_the_file_with_a_header():
    record = shards.pack("a/ä.jpg", 20, 30, b"bytes")
    assert record[:4] == b"GDR1" and record.endswith(b"bytes")
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert shards.unpack(record) == ("a/ä.jpg", 20, 30, digest, b"bytes")


@pytest.mark.parametrize(
    "record", [b"", b"GDR1", b"JPEG\1\0\0\0{}", b"GDR1\2\0\0\0{}", b"GDR1\2\0\0\0[["]
)
def test_other_bytes_are_no_record(record):
    with pytest.raises(InputError):
        shards.unpack(record)


def test_shards_are_the_folder(folder, written):
    have, want = read(written), sources.folder(folder)
    assert list(have.names) == want.names and len(have) == 9 and have.names[-1]
    assert have.sides_n.tolist() == want.sides_n.tolist() and have.rejected == {}
    for i in range(9):
        np.testing.assert_array_equal(have[i], want[i])
    copy = pickle.loads(pickle.dumps(have))
    np.testing.assert_array_equal(copy[4], want[4])
    with pytest.raises(IndexError):
        have.names[9]


def test_opening_reads_no_picture_unless_the_manifest_is_missing(written, monkeypatch):
    looks = []
    look = shards.Shards._name_and_side
    monkeypatch.setattr(
        shards.Shards,
        "_name_and_side",
        lambda self, i: (looks.append(i), look(self, i))[1],
    )
    with_manifest = read(written)
    assert looks == []
    (written / "manifest.json").unlink()
    without = read(written)
    assert sorted(looks) == list(range(9))
    assert with_manifest.sides_n.tolist() == without.sides_n.tolist()
    np.testing.assert_array_equal(with_manifest[5], without[5])


def test_the_same_bytes_whatever_the_number_of_processes(folder, tmp_path):
    made = {}
    for processes in (1, 2, 3):
        out = tmp_path / str(processes)
        shard_writer.write(folder, out, count=4, processes=processes)
        made[processes] = {p.name: p.read_bytes() for p in out.iterdir()}
    assert made[1] == made[2] == made[3] and len(made[1]) == 5
    assert not list(tmp_path.glob(".*"))


def test_groups_of_one_record(written):
    for path in written.glob("*.array_record"):
        reader = array_record_module.ArrayRecordReader(str(path))
        options = reader.writer_options_string()
        assert "group_size:1," in options and "uncompressed" in options


def test_the_tool(folder, tmp_path, capsys):
    assert make_arrayrecord.main([str(folder), f"{tmp_path}/o", "--processes=1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/o/*.array_record: 9 pictures, " + (
        "0 left out\n"
    )
    assert make_arrayrecord.main([str(folder), f"{tmp_path}/o"]) == 2
    assert "is not empty" in capsys.readouterr().err
    small = [str(folder), f"{tmp_path}/s", "--processes=1", "--min-side=35"]
    assert make_arrayrecord.main(small) == 0
    said = capsys.readouterr().out
    assert "left out 0.png: 64x30, smaller than 35 pixels\n" in said
    assert said.endswith("4 pictures, 5 left out\n")


def test_a_shard_may_be_empty(folder, tmp_path):
    made = shard_writer.write(folder, tmp_path / "o", count=9, min_side=38)
    assert [shard["records"] for shard in made["shards"]].count(0) == 8
    assert list(read(tmp_path / "o").names) == ["8.png"]


def test_what_cannot_be_written(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no pictures"):
        shard_writer.write(tmp_path / "empty", tmp_path / "o")
    with pytest.raises(UsageError, match="is inside the input"):
        shard_writer.write(tmp_path, tmp_path / "o")
    with pytest.raises(UsageError, match="10 shards are not possible with 9 pictures"):
        shard_writer.write(folder, tmp_path / "o", count=10)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_nothing_is_left_of_a_writer_that_died(folder, tmp_path, monkeypatch):
    def full(root, name, min_side):
        raise OSError("No space left on device")

    monkeypatch.setattr(shard_writer, "check", full)
    with pytest.raises(OSError, match="No space"):
        shard_writer.write(folder, tmp_path / "o")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 100, 0.5, -10])
def test_a_truncated_shard_is_named_when_it_is_opened(written, keep):
    path = sorted(written.glob("*.array_record"))[1]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else keep])
    with pytest.raises(UsageError, match=r"photos-00001-of-00003\S+ cannot be opened"):
        read(written)


def test_a_flipped_bit_is_an_error_of_that_record(written):
    path = sorted(written.glob("*.array_record"))[1]
    data = bytearray(path.read_bytes())
    at = data.index(b"\x89PNG") + 100  # the first record with a PNG
    data[at] ^= 1
    path.write_bytes(data)
    source, failed = read(written), []
    for i in range(len(source)):
        try:
            source[i]
        except InputError as error:
            failed.append(str(error))
            assert source.names[i] == f"record {i}"
    assert len(failed) == 1 and f"{path}: record " in failed[0]
    assert "hash mismatch" in failed[0] and "\n" not in failed[0]


def test_the_manifest_and_the_files_have_to_agree(written):
    path = written / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][2]["sides"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"00002-of-00003\S+ has 3 records, .* says 2"):
        read(written)
    path.write_text("{")
    with pytest.raises(UsageError, match=r"manifest\.json is not a manifest"):
        read(written)


def test_what_was_left_out_is_said(folder, tmp_path, caplog):
    shard_writer.write(folder, tmp_path / "o", min_side=35)
    read(tmp_path / "o")
    assert "5 files were left out when written" in caplog.text


def test_other_records_are_rejected_with_the_reason(tmp_path):
    path = tmp_path / "other.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b"something else")
    writer.close()
    with pytest.raises(UsageError, match=r"1 of 1 .*record 0: it begins with b'some'"):
        shards.shards(path)
    with pytest.raises(UsageError, match="no file matches"):
        shards.shards(tmp_path / "*.none")


def test_no_jax_of_our_own_and_no_tensorflow(written):
    code = (
        "import sys; from gendr_jax.data import shards\n"
        f"shards.shards({str(written)!r} + '/*.array_record')[0]\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
