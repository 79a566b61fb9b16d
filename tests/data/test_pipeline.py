"""The order of samples: one integer describes it, whatever reads it."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gendr_jax.data import pipeline, sources
from gendr_jax.errors import UsageError

CROP = 16


def pictures(count=7):
    """Every pixel says which picture it is from and where it lay."""
    x = np.zeros((count, 40, 50, 3), np.uint8)
    x[..., 0] = np.arange(count)[:, None, None]
    x[..., 1] = np.arange(40)[:, None]
    x[..., 2] = np.arange(50)
    return list(x)


def take(count, source=None, **settings):
    settings = {"batch_size": 8, "crop": CROP, "seed": 3, **settings}
    source = source or sources.arrays(pictures())
    stream = pipeline.batches(source, **settings)
    found = list(itertools.islice(stream, count))
    stream.close()
    return found


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


@pytest.fixture
def files(tmp_path):
    for k, picture in enumerate(pictures(12)):
        Image.fromarray(picture).save(tmp_path / f"{k:02d}.png")
    return tmp_path


def test_shapes_and_types():
    batch = take(1)[0]
    assert batch["hq"].shape == (8, CROP, CROP, 3) and batch["hq"].dtype == np.uint8
    assert batch["index"].dtype == np.uint32
    assert type(batch["hq"]) is np.ndarray


def test_crops_are_contiguous_pieces_flipped_half_of_the_time():
    crops = np.concatenate([b["hq"] for b in take(40)])
    rows, columns = crops[..., 1].astype(int), crops[..., 2].astype(int)
    assert (np.diff(rows, axis=1) == 1).all()
    step = np.diff(columns, axis=2)
    flipped = (step == -1).all((1, 2))
    assert ((step == 1).all((1, 2)) | flipped).all()
    assert 0.35 < flipped.mean() < 0.65
    tops, lefts = rows.min((1, 2)), columns.min((1, 2))
    assert tops.min() == 0 and tops.max() == 40 - CROP
    assert lefts.min() == 0 and lefts.max() == 50 - CROP


def test_every_epoch_shows_every_picture_once_in_a_new_order():
    shown = np.concatenate([b["hq"][:, 0, 0, 0] for b in take(7)])
    epochs = shown[:56].reshape(8, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(e) for e in epochs}) > 4


def test_index_counts_samples():
    index = np.concatenate([b["index"] for b in take(5)])
    np.testing.assert_array_equal(index, np.arange(40))
    late = take(1, start=2**31)[0]["index"]
    np.testing.assert_array_equal(late, np.arange(8))  # modulo 2^32


def test_seed_decides():
    assert_equal(take(3), take(3))
    a, b = take(3), take(3, seed=4)
    assert any((x["hq"] != y["hq"]).any() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("start", [1, 3, 6])
def test_resume_is_the_rest_of_the_same_order(start):
    assert_equal(take(8 - start, start=start), take(8)[start:])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_hosts_share_the_global_batch(count, start):
    whole = take(3, start=start)
    parts = [
        take(3, start=start, process_index=p, process_count=count) for p in range(count)
    ]
    joined = [
        {name: np.concatenate([b[name] for b in same]) for name in same[0]}
        for same in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole)


def test_resume_with_another_number_of_hosts():
    parts = [take(2, start=3, process_index=p, process_count=2) for p in range(2)]
    joined = [np.concatenate([a["hq"], b["hq"]]) for a, b in zip(*parts, strict=True)]
    for got, want in zip(joined, take(5)[3:], strict=True):
        np.testing.assert_array_equal(got, want["hq"])


def test_workers_change_nothing(files):
    """Two processes, started in the middle, without absl's flags parsed."""
    source = sources.folder(files)
    want = take(5, source)[1:]
    assert_equal(take(4, source, start=1, workers=2), want)


def test_a_damaged_file_gives_way_to_the_next_good_one(files, caplog):
    path = files / "03.png"
    data = path.read_bytes()
    source = sources.folder(files)
    good = take(6, source)
    path.write_bytes(data[: len(data) - 30])  # the header still looks fine
    first = take(6, sources.folder(files))
    for a, b in zip(good, first, strict=True):
        was, now = a["hq"][:, 0, 0, 0], b["hq"][:, 0, 0, 0]
        np.testing.assert_array_equal(np.where(was == 3, 4, was), now)
        np.testing.assert_array_equal(a["index"], b["index"])
    assert caplog.text.count("skipped") == 1 and "03.png" in caplog.text
    assert_equal(take(3, sources.folder(files), start=3), first[3:])
    halves = [
        take(6, sources.folder(files), process_index=p, process_count=2) for p in (0, 1)
    ]
    for a, b, whole in zip(*halves, first, strict=True):
        np.testing.assert_array_equal(np.concatenate([a["hq"], b["hq"]]), whole["hq"])


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_damaged_files_stop_with_the_list(files, workers):
    for k in range(8):
        path = files / f"{k:02d}.png"
        path.write_bytes(path.read_bytes()[:-30])
    source = sources.folder(files)
    # two threads read: the seventh or the eighth is one too many
    with pytest.raises(UsageError, match=r"[78] of 12 .*0\d\.png.*0\d\.png"):
        take(20, source, workers=workers)


def test_small_pictures_are_skipped_padded_or_an_error():
    small = np.full((10, 60, 3), 200, np.uint8)
    small[:, :, 1] = np.arange(10)[:, None]
    mixed = sources.arrays([*pictures(3), small])
    skipped = np.concatenate([b["hq"] for b in take(4, mixed)])
    assert set(skipped[:, 0, 0, 0]) == {0, 1, 2}
    padded = np.concatenate([b["hq"] for b in take(4, mixed, small="pad")])
    assert set(padded[:, 0, 0, 0]) == {0, 1, 2, 200}
    rows = padded[padded[:, 0, 0, 0] == 200][0][:, 0, 1]
    np.testing.assert_array_equal(
        rows, np.abs(9 - np.abs(9 - np.abs(np.arange(-3, 13))))
    )
    with pytest.raises(UsageError, match="array 3 has a side of 10 pixels.*needs 16"):
        take(1, mixed, small="error")
    with pytest.raises(UsageError, match="none of 4 pictures has sides of 99.*has 40"):
        take(1, mixed, crop=99)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"process_count": 3}, "batch of 8 cannot be shared by 3"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2, not in 0..1"),
        ({"crop": 0}, "crop 0 must be positive"),
        ({"start": -1}, "start -1"),
        ({"small": "stretch"}, "small is 'stretch', not one of skip, pad, error"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UsageError, match=message):
        take(1, **settings)


def test_sources_know_nothing_of_jax():
    """Our files in worker processes; grain itself may import what it likes."""
    code = "import sys, gendr_jax.data.sources; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    text = open(pipeline.__file__).read()
    assert "import jax" not in text and "from jax" not in text


def test_a_batch_of_one():
    pictures = [np.full((40, 40, 3), k, np.uint8) for k in range(3)]
    source = sources.arrays(pictures)
    one = pipeline.batches(source, batch_size=1, crop=16, seed=0)
    two = pipeline.batches(source, batch_size=2, crop=16, seed=0)
    alone = np.concatenate([next(one)["hq"] for _ in range(2)])
    np.testing.assert_array_equal(alone, next(two)["hq"])
    one.close(), two.close()
