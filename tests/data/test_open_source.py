"""data.path: the grammar, and mixtures in exact shares."""

import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from gendr_jax.data import gendr_photos, open_source, pipeline, shard_writer, sources
from gendr_jax.errors import UsageError
from tests.helpers.bad_files import encode, picture


def fill(root, count, first=0):
    root.mkdir(parents=True)
    for k in range(count):
        (root / f"{k}.png").write_bytes(encode(picture(seed=first + k), "PNG"))
    return root


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("/data/a", []),
        ("/data/a, b and c", []),
        ("/data/a@2,b", []),
        ("/data/a@2/", []),
        ("me@home", []),
        ("/a@1", [("/a", 1)]),
        ("/a@0.7,/b@0.3", [("/a", 0.7), ("/b", 0.3)]),
        ("/a, b@.5,/c,d@2", [("/a, b", 0.5), ("/c,d", 2)]),
        ("me@home@3,b@2x@1", [("me@home", 3), ("b@2x", 1)]),
        (
            "tfds:x/y:1.0.0[train[:9%]]@1,o/*.array_record@2",
            [("tfds:x/y:1.0.0[train[:9%]]", 1), ("o/*.array_record", 2)],
        ),
    ],
)
def test_a_comma_separates_right_after_a_weight_only(text, pieces):
    exact = [(path, Fraction(str(weight))) for path, weight in pieces]
    assert open_source.split_mixture(text) == exact


def test_each_kind_of_source(tmp_path, monkeypatch):
    folder = fill(tmp_path / "photos", 3)
    shard_writer.write(folder, tmp_path / "shards", count=2)
    made = gendr_photos.build(folder, tmp_path / "tfds")
    monkeypatch.setenv("HOME", str(tmp_path))
    one = tmp_path / "shards" / "photos-00000-of-00002.array_record"
    for path, kind, size in (
        (folder, "Folder", 3),
        ("~/photos", "Folder", 3),
        (tmp_path / "shards/*.array_record", "Shards", 3),
        ("~/shards/*.arrayrecord*", "", 0),
        (one, "Shards", 1),
        (f"tfds:{made}", "Tfds", 3),
        (f"tfds:~/{made.relative_to(tmp_path)}[train[:2]]", "Tfds", 2),
        (f"{folder}@1,tfds:{made}@2", "Mixture", 6),
    ):
        if not kind:
            with pytest.raises(UsageError, match="no file matches"):
                open_source.open_source(str(path))
            continue
        source = open_source.open_source(str(path))
        assert (type(source).__name__, len(source)) == (kind, size)
        assert len(source.names) == len(source.sides_n) == size
        assert source.rejected == {} and source[size - 1].shape == (48, 64, 3)


def test_the_photographs_of_scikit_image():
    pytest.importorskip("skimage")
    assert isinstance(open_source.open_source(open_source.BUILTIN), sources.Arrays)


def test_what_is_no_path(tmp_path):
    folder = fill(tmp_path / "photos", 2)
    shard_writer.write(folder, tmp_path / "shards")
    made = gendr_photos.build(folder, tmp_path / "tfds")
    for path, words in {
        " ": "is empty",
        "tfds:": "names no dataset",
        f"{folder}@0,{folder}@1": "@0 in the mixture .* has no path or no weight",
        f"@1,{folder}@1": "@1 in the mixture .* has no path",
        f"{folder}@1,{tmp_path}/no@2": "does not exist",
        str(tmp_path / "shards"): r"Write \S+/shards/\*\.array_record",
        str(made): f"Write tfds:{made}",
    }.items():
        with pytest.raises(UsageError, match=words) as caught:
            open_source.open_source(path)
        assert "\n" not in str(caught.value)


def test_a_mixture_is_its_parts(tmp_path):
    a, b = fill(tmp_path / "a", 3), fill(tmp_path / "b", 2, first=10)
    (b / "bad.png").write_bytes(b"")
    source = open_source.open_source(f"{a}@0.75,{b}@0.25")
    assert source.shares == (3, 1) and source.bounds.tolist() == [0, 3, 5]
    assert list(source.names) == ["0.png", "1.png", "2.png", "0.png", "1.png"]
    assert list(source.rejected) == ["bad.png"]
    copy = pickle.loads(pickle.dumps(source))
    for i, seed in enumerate([0, 1, 2, 10, 11]):
        np.testing.assert_array_equal(source[i], picture(seed=seed))
        np.testing.assert_array_equal(copy[i], source[i])


@pytest.mark.parametrize("shares", [(1,), (7, 3), (1, 1, 1), (5, 1, 3), (1, 999)])
def test_turns_are_exact_even_and_gapless(shares):
    total = sum(shares)
    turns = [pipeline.take_turns(k, shares) for k in range(3 * total)]
    for part, share in enumerate(shares):
        own = [i for p, i in turns if p == part]
        assert own == list(range(3 * share))
        places = [k for k, (p, _) in enumerate(turns) if p == part]
        # one part's turns are never further apart than its share asks, rounded up
        gaps = np.diff(places)
        assert len(gaps) == 0 or gaps.max() <= 2 * -(-total // share)
    late = 10**15 * total
    counts = Counter(
        pipeline.take_turns(k, shares)[0] for k in range(late, late + total)
    )
    assert [counts[part] for part in range(len(shares))] == list(shares)


@pytest.mark.parametrize("text", ["a@0.5, b@0.5", "a@0.5,b@0.5,", "a@5e-1 ,b@.5"])
def test_blanks_and_a_comma_at_the_end_do_not_count(text):
    found = open_source.split_mixture(text)
    assert found == [("a", Fraction(1, 2)), ("b", Fraction(1, 2))]


@pytest.mark.parametrize("text", ["a@0.7,b", "a@0.5,b@0.5,c"])
def test_a_forgotten_weight_is_named(text):
    with pytest.raises(UsageError, match="has no weight. Write PATH@WEIGHT"):
        open_source.open_source(text)
