"""data/records.py: more files than may be open; files that are away, not damaged."""

import os
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python import array_record_module

from gendr_jax.data import pipeline, records, retry, shard_writer, shards
from gendr_jax.errors import InputError, TryAgainError, UsageError
from tests.helpers.bad_files import encode, picture

FILES, RECORDS = 12, 3


@pytest.fixture
def paths(tmp_path):
    """FILES files of RECORDS records, each record naming both."""
    found = []
    for k in range(FILES):
        found.append(str(tmp_path / f"{k:02d}.array_record"))
        writer = array_record_module.ArrayRecordWriter(found[-1], "group_size:1")
        for i in range(RECORDS):
            writer.write(f"{k} {i}".encode())
        writer.close()
    return found


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(retry, "WAITS", (0.0, 0.0))


def opened(paths):
    """How many descriptors of this process lead to these files."""
    real = {os.path.realpath(path) for path in paths}
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # that of the listing itself
            continue
    return sum(link in real for link in links)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_more_files_are_open_than_there_is_room_for(paths, monkeypatch):
    monkeypatch.setattr(records, "_pool", records.Pool(4))
    jobs = [(k, i) for _ in range(3) for i in range(RECORDS) for k in range(FILES)]

    def read(job):
        k, i = job
        return records.read_record(paths[k], i), opened(paths)

    with ThreadPoolExecutor(5) as threads:
        found = list(threads.map(read, jobs))
    assert [data for data, _ in found] == [f"{k} {i}".encode() for k, i in jobs]
    assert max(count for _, count in found) <= 4 + 5
    assert len(records._pool) == opened(paths) == 4


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (256, 256 // 2 - records.THREADS),
        (20, 1),
        (10**6, records.MAX_OPEN),
        (resource.RLIM_INFINITY, records.MAX_OPEN),
    ],
)
def test_the_room_is_within_the_limit_of_the_system(monkeypatch, limit, room):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limit, limit))
    assert records.reader_limit() == room


def test_a_file_that_is_away_is_not_damaged(paths, no_waiting):
    os.rename(paths[0], paths[0] + ".away")
    away = "00.array_record cannot be read .*No such file"
    with pytest.raises(TryAgainError, match=away):
        records.read_record(paths[0], 1)
    with pytest.raises(TryAgainError, match=away):
        records.count_records(paths[0])
    os.rename(paths[0] + ".away", paths[0])
    assert records.read_record(paths[0], 1) == b"0 1"


def test_a_file_that_is_away_for_one_read_is_read(paths, monkeypatch):
    os.rename(paths[3], paths[3] + ".away")
    monkeypatch.setattr(
        retry.time, "sleep", lambda seconds: os.rename(paths[3] + ".away", paths[3])
    )
    assert records.read_record(paths[3], 2) == b"3 2"


def test_a_limit_of_the_system_is_named(paths, monkeypatch, no_waiting):
    def full(*args, **settings):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(array_record_module, "ArrayRecordReader", full)
    monkeypatch.setattr(records, "_pool", records.Pool(1))
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(TryAgainError, match="Raise the limit with ulimit -n"):
        records.read_record(paths[0], 0)


def test_what_can_be_read_and_not_decoded_is_damaged(paths):
    with open(paths[1], "r+b") as file:
        file.truncate(100)
    with pytest.raises(UsageError, match="cannot be opened as an ArrayRecord file"):
        records.count_records(paths[1])
    with pytest.raises(InputError, match="01.array_record: record 0: "):
        records.read_record(paths[1], 0)


def test_training_stops_with_the_cause_and_counts_no_picture_as_damaged(
    tmp_path, no_waiting, monkeypatch
):
    (tmp_path / "in").mkdir()
    for k in range(6):
        (tmp_path / f"in/{k}.png").write_bytes(encode(picture(seed=k)[:40], "PNG"))
    shard_writer.write(tmp_path / "in", tmp_path / "out", count=3)
    source = shards.shards(f"{tmp_path}/out/*.array_record")
    monkeypatch.setattr(records, "_pool", records.Pool(1))
    away = tmp_path / "away"
    os.rename(tmp_path / "out", away)
    batches = pipeline.batches(source, batch_size=2, crop=32, seed=0)
    with pytest.raises(TryAgainError, match="cannot be read"):
        next(batches)
    batches.close()
    assert source.rejected == {}
    os.rename(away, tmp_path / "out")
    batches = pipeline.batches(source, batch_size=2, crop=32, seed=0)
    assert next(batches)["hq"].shape == (2, 32, 32, 3)
    batches.close()


def test_a_link_to_a_shard_is_not_read_twice(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    for k in range(2):
        (tmp_path / f"in/{k}.png").write_bytes(encode(picture(seed=k)[:40], "PNG"))
    shard_writer.write(tmp_path / "in", tmp_path / "out", count=1)
    (name,) = [p.name for p in (tmp_path / "out").glob("*.array_record")]
    (tmp_path / "out/photos-z.array_record").symlink_to(name)
    source = shards.shards(f"{tmp_path}/out/*.array_record")
    assert len(source) == 2 and "photos-z.array_record: a link to" in caplog.text
    np.testing.assert_array_equal(source[1], picture(seed=1)[:40])


def test_a_shard_whose_name_is_not_utf8_is_named(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.array_record"
    with open(path, "wb"):
        pass
    with pytest.raises(UsageError, match=r"/\?.array_record: the name is not UTF-8"):
        shards.shards(f"{tmp_path}/*.array_record")
