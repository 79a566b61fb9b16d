"""One global order from every kind of source: hosts, workers, resuming, damage."""

import itertools
import json
import threading

import numpy as np
import pytest

from gendr_jax.data import gendr_photos, open_source, pipeline, shard_writer, sources
from gendr_jax.errors import UsageError
from tests.helpers.bad_files import HEIGHT, encode, picture

KINDS = ("folder", "shards", "tfds", "mixture")
CROP, BATCH = 24, 8


def fill(root, seeds):
    root.mkdir(parents=True)
    for k in seeds:
        (root / f"{k:02d}.png").write_bytes(encode(picture(seed=k), "PNG"))
    return root


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """data.path of the same ten pictures; in the mixture each kind has its own."""
    root = tmp_path_factory.mktemp("data")
    folder = fill(root / "photos", range(10))
    shard_writer.write(folder, root / "shards", count=3)
    shards = f"{root}/shards/*.array_record"
    tfds = f"tfds:{gendr_photos.build(folder, root / 'tfds', count=3)}"
    other = fill(root / "a, b", range(20, 26))
    mixture = f"{other}@0.5,{shards}@0.2,{tfds}[train[:4]]@0.3"
    return {"folder": str(folder), "shards": shards, "tfds": tfds, "mixture": mixture}


def take(count, source, **settings):
    settings = {"batch_size": BATCH, "crop": CROP, "seed": 3, **settings}
    if isinstance(source, str):
        source = open_source.open_source(source)
    stream = pipeline.batches(source, **settings)
    try:
        return list(itertools.islice(stream, count))
    finally:
        stream.close()


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


def test_the_same_pictures_give_the_same_batches(paths):
    want = take(6, paths["folder"])
    assert_equal(take(6, paths["shards"]), want)
    assert_equal(take(6, paths["tfds"]), want)


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_and_starts_share_one_order(paths, kind):
    source = open_source.open_source(paths[kind])
    whole = take(6, source)
    assert_equal(take(2, source, start=4), whole[4:])
    for hosts, start in ((2, 0), (4, 3)):
        parts = [
            take(3, source, start=start, process_index=p, process_count=hosts)
            for p in range(hosts)
        ]
        for k, same in enumerate(zip(*parts, strict=True)):
            for name, want in whole[start + k].items():
                got = np.concatenate([part[name] for part in same])
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("mixture", 2)]
    + [
        pytest.param(kind, workers, marks=pytest.mark.slow)
        for kind in KINDS
        for workers in (2, 4)
        if (kind, workers) != ("mixture", 2)
    ],
)
def test_workers_change_nothing(paths, kind, workers):
    want = take(6, paths[kind])[1:]
    assert_equal(take(5, paths[kind], start=1, workers=workers), want)


@pytest.mark.slow
def test_workers_of_the_second_host_change_nothing(paths):
    host = {"process_index": 1, "process_count": 2, "start": 2}
    want = take(5, paths["mixture"], **host)
    assert_equal(take(5, paths["mixture"], workers=2, **host), want)


class Counted:
    """Which pictures were read; their first value says which they are."""

    def __init__(self, source):
        self._source, self.reads, self._lock = source, [], threading.Lock()
        self.names, self.sides_n = source.names, source.sides_n

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        with self._lock:
            self.reads.append(i)
        return self._source[i]


def numbered(count, first=0):
    return sources.arrays(
        [np.full((30, 30, 3), first + k, np.uint8) for k in range(count)]
    )


def test_resuming_reads_nothing_of_what_came_before():
    """Within one epoch every picture is read once, so a replay would show."""
    source = Counted(numbered(200))
    whole = take(20, source)
    order = [int(b["hq"][row, 0, 0, 0]) for b in whole for row in range(BATCH)]
    source.reads.clear()
    rest = take(2, source, start=15)
    assert_equal(rest, whole[15:17])
    assert not set(source.reads) & set(order[: 15 * BATCH])
    # two batches taken; behind them at most those that are read ahead
    assert set(order[15 * BATCH : 17 * BATCH]) <= set(source.reads)
    assert len(source.reads) <= (2 + 2 + 2) * BATCH


def test_starting_far_away_costs_nothing():
    source = Counted(numbered(50))
    take(1, source, start=10**12)
    assert len(source.reads) <= 5 * BATCH


def test_a_mixture_gives_exact_shares_and_whole_epochs_of_each_part():
    parts = [numbered(5), numbered(7, first=100), numbered(3, first=200)]
    weights = [open_source.Fraction(w) for w in ("0.5", "0.25", "0.25")]
    mixture = open_source.Mixture(parts, weights)
    shown = np.concatenate([b["hq"][:, 0, 0, 0] for b in take(20, mixture)])
    for rows in shown.reshape(-1, 4):
        assert sorted(rows // 100) == [0, 0, 1, 2]
    for first, size in ((0, 5), (100, 7), (200, 3)):
        own = shown[shown // 100 == first // 100]
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(epochs) == first + np.arange(size)).all()
        assert len({tuple(e) for e in epochs}) > 2 and len(epochs) >= 5


def test_equal_parts_are_shuffled_apart():
    mixture = open_source.Mixture(
        [numbered(40), numbered(40, 100)], [open_source.Fraction(1)] * 2
    )
    shown = np.concatenate([b["hq"][:, 0, 0, 0] for b in take(10, mixture)])
    assert (shown[shown < 100] != shown[shown >= 100] - 100).any()


def test_damage_gives_way_within_its_part(tmp_path, caplog):
    a, b = fill(tmp_path / "a", range(6)), fill(tmp_path / "b", range(10, 16))
    text = f"{a}@1,{b}@1"
    good = take(6, text, crop=HEIGHT)
    path = b / "15.png"  # the last one: the next good one is the first of b
    path.write_bytes(path.read_bytes()[:-40])
    first = take(6, text, crop=HEIGHT)
    shown = [
        ((x["hq"] != y["hq"]).any((1, 2, 3))).sum()
        for x, y in zip(good, first, strict=True)
    ]
    assert 0 < sum(shown) <= 6 * BATCH // 2 // 6 + 6
    assert caplog.text.count("skipped") == 1 and "15.png" in caplog.text
    assert_equal(take(2, text, crop=HEIGHT, start=4), first[4:])


def test_a_part_of_damaged_files_stops_however_large_the_others_are(tmp_path):
    a, b = fill(tmp_path / "a", range(30)), fill(tmp_path / "b", range(40, 44))
    for path in b.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"[34] of 4 pictures .*4\d\.png"):
        take(30, f"{a}@1,{b}@1")


def test_a_part_without_large_pictures_is_an_error(tmp_path):
    a = fill(tmp_path / "a", range(3))
    parts = [sources.folder(a), numbered(4)]
    mixture = open_source.Mixture(parts, [open_source.Fraction(1)] * 2)
    with pytest.raises(UsageError, match="none of 4 pictures has sides of 40 .* 30"):
        take(1, mixture, crop=40)


def test_truncated_data_under_a_run_is_one_line(tmp_path):
    """A shard that lost its manifest and half of its bytes, found at the start."""
    folder = fill(tmp_path / "a", range(4))
    shard_writer.write(folder, tmp_path / "out")
    [path] = (tmp_path / "out").glob("*.array_record")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["pictures"] == 4
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="cannot be opened"):
        take(1, f"{folder}@1,{tmp_path}/out/*.array_record@1")
