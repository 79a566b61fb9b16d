"""Bad files of a crawl: converted right, or named with the reason, and on it goes.

The files are those of `bad_files.py`; here they lie in a folder, in shards and in a
TFDS dataset that were written without a look at them.
"""

import itertools
import json
import re

import numpy as np
import pytest

from gendr_jax.data import decode, gendr_photos, open_source, pipeline, shard_writer
from gendr_jax.errors import InputError, UsageError
from tests.helpers.bad_files import CASES, HEIGHT, WIDTH, encode, picture

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
REFUSED = [case for case in CASES if case.reason]
GROUPS = [REFUSED[k : k + 8] for k in range(0, len(REFUSED), 8)]
GOOD = 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_converted_right_or_refused_with_the_reason(case, tmp_path):
    data, want = case.make()
    path = tmp_path / case.name
    path.write_bytes(data)
    for read, start in (
        (lambda: decode.read(path), str(path)),
        (lambda: decode.read_bytes(data, "a name"), "a name"),
    ):
        if case.reason:
            with pytest.raises(InputError, match=case.reason) as caught:
                read()
            assert str(caught.value).startswith(f"{start}: ")
            assert "\n" not in str(caught.value) and want is None
        else:
            got = read()
            assert got.dtype == np.uint8
            np.testing.assert_array_equal(got, want)


def fill(folder, cases):
    """Good pictures, and the files of `cases` among them."""
    folder.mkdir()
    for k in range(GOOD):
        (folder / f"good{k:02d}.png").write_bytes(encode(picture(seed=k), "PNG"))
    for case in cases:
        (folder / case.name).write_bytes(case.make()[0])
    return folder


def unchecked(root, name, min_side=1):
    """What shard_writer.check would give if it believed everything."""
    data = (root / name).read_bytes()
    try:
        return data, *decode.read_size_bytes(data, name)
    except InputError:
        return data, HEIGHT, WIDTH


def as_path(kind, folder, tmp_path, monkeypatch):
    """data.path of these files in a folder, in shards or in a TFDS dataset."""
    monkeypatch.setattr(shard_writer, "check", unchecked)
    if kind == "folder":
        return str(folder)
    if kind == "tfds":
        return f"tfds:{gendr_photos.build(folder, tmp_path / 'tfds', count=2)}"
    shard_writer.write(folder, tmp_path / "out", count=2)
    if kind == "shards looked through":
        (tmp_path / "out" / "manifest.json").unlink()
    return f"{tmp_path}/out/*.array_record"


@pytest.mark.parametrize("kind", ["folder", "shards", "shards looked through", "tfds"])
@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_the_run_goes_on_without_them(kind, group, tmp_path, monkeypatch, caplog):
    folder = fill(tmp_path / "in", GROUPS[group])
    source = open_source.open_source(as_path(kind, folder, tmp_path, monkeypatch))
    stream = pipeline.batches(source, batch_size=7, crop=HEIGHT, seed=1)
    crops = np.concatenate([b["hq"] for b in itertools.islice(stream, 9)])
    stream.close()
    good = [picture(seed=k) for k in range(GOOD)]
    wide = [np.lib.stride_tricks.sliding_window_view(p, HEIGHT, 1) for p in good]
    known = {w[:, k].tobytes() for w in wide for k in range(w.shape[1])}
    known |= {w[:, k, :, ::-1].tobytes() for w in wide for k in range(w.shape[1])}
    # [H, C, W] of the windows against [H, W, C] of the crops
    assert all(crop.swapaxes(1, 2).tobytes() in known for crop in crops)
    for case in GROUPS[group]:
        said = [r.getMessage() for r in caplog.records if case.name in r.getMessage()]
        assert len(said) == 1 and re.search(case.reason, said[0]), (case.name, said)
        assert said[0].startswith(("left out", "skipped")) and "\n" not in said[0]


def test_writing_shards_lists_them(tmp_path):
    folder = fill(tmp_path / "in", CASES)
    made = shard_writer.write(folder, tmp_path / "out", count=3, min_side=HEIGHT)
    assert made == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(made["quarantine"]) == {c.name for c in REFUSED} | {"tiny.png"}
    for case in REFUSED:
        reason = made["quarantine"][case.name]
        assert re.match(rf"{case.name}: .*{case.reason}", reason)
    assert made["quarantine"]["tiny.png"] == "tiny.png: 1x1, smaller than 48 pixels"
    kept = [c for c in CASES if not c.reason and c.name != "tiny.png"]
    assert made["pictures"] == len(kept) + GOOD
    source = open_source.open_source(f"{tmp_path}/out/*.array_record")
    for case in kept:
        found = source[list(source.names).index(case.name)]
        np.testing.assert_array_equal(found, case.make()[1])


def test_the_dataset_lists_them(tmp_path):
    folder = fill(tmp_path / "in", GROUPS[0])
    made = gendr_photos.build(folder, tmp_path / "tfds")
    metadata = json.loads((made / "metadata.json").read_text())
    assert set(metadata["quarantine"]) == {case.name for case in GROUPS[0]}
    assert len(metadata["sides"]["train"]) == GOOD


@pytest.mark.parametrize("kind", ["folder", "shards", "shards looked through", "tfds"])
def test_too_many_stop_the_run_with_the_list(kind, tmp_path, monkeypatch):
    folder = fill(tmp_path / "in", REFUSED)
    path = as_path(kind, folder, tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=r"cannot be used \(10 allowed\): ") as caught:
        source = open_source.open_source(path)
        stream = pipeline.batches(source, batch_size=7, crop=HEIGHT, seed=1)
        list(itertools.islice(stream, 30))
    assert str(caught.value).count("; ") >= 10 and "\n" not in str(caught.value)
    assert sum(case.name in str(caught.value) for case in REFUSED) >= 11


def test_nothing_but_bad_files_cannot_be_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 of 1 pictures.*a\.jpg: the file is empty"):
        shard_writer.write(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    with pytest.raises(UsageError, match=r"1 of 1 pictures.*a\.jpg: the file is empty"):
        gendr_photos.build(tmp_path / "in", tmp_path / "tfds")
