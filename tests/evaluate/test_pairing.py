"""evaluate/pairing.py: who belongs to whom, sizes, and what has no partner."""

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.evaluate import methods, pairing
from gendr_jax.evaluate.pairing import Folders
from tests.helpers.tiny_pictures import write


def method(folder, name="ours"):
    return methods.Method(name, str(folder), {}), folder


def pair(folders, *some):
    return pairing.pair(folders, some)


def test_all_that_belongs_together(tmp_path):
    gt = write(tmp_path / "gt", ["a.png", "b.png"], (24, 32))
    lr = write(tmp_path / "lr", ["a.jpg", "b_LR4.png"], (6, 8))
    sr = write(tmp_path / "sr", ["a_x4.png", "b.webp"], (24, 32))
    pairs = pair(Folders(gt, lr), method(sr))
    assert not pairs.problems and pairs.scale == 4
    a, b = pairs.items
    assert (a.name, a.gt, a.lr) == ("a", gt / "a.png", lr / "a.jpg")
    assert b.lr == lr / "b_LR4.png"
    assert a.size_hw == (24, 32) and a.lr_hw == (6, 8)
    assert pairs.methods[0].files == {"a": sr / "a_x4.png", "b": sr / "b.webp"}


def test_every_one_without_a_partner_is_named_with_its_folder(tmp_path):
    gt = write(tmp_path / "gt", ["a.png", "b.png", "c.png"])
    lr = write(tmp_path / "lr", ["a.png", "b.png", "d.png"], (6, 8))
    sr = write(tmp_path / "sr", ["a.png", "e.png"])
    pairs = pair(Folders(gt, lr), method(sr))
    told = "\n".join(pairs.problems)
    for part in (
        f"{lr} has no picture c.",
        f"{lr / 'd.png'} has no partner in {gt}",
        f"ours: {sr} has no picture b.",
        f"ours: {sr} has no picture c.",
        f"{sr / 'e.png'} has no partner in {gt}",
    ):
        assert part in told
    assert len(pairs.problems) == 5
    assert [item.name for item in pairs.items] == ["a", "b", "c"]
    # Methods may lack pictures where that is meant; the rest stays wrong.
    pairs = pair(Folders(gt, lr, partial=True), method(sr))
    assert len(pairs.problems) == 3


def test_nothing_in_common_is_a_mistake_of_the_command(tmp_path):
    gt = write(tmp_path / "gt", ["a.png"])
    sr = write(tmp_path / "sr", ["b.png"])
    with pytest.raises(UsageError, match="no picture of .*sr has a partner"):
        pair(Folders(gt, partial=True), method(sr))
    # Not a line for each of thousands.
    with pytest.raises(UsageError, match="no picture of .*lr has a partner in .*gt"):
        pair(Folders(gt, write(tmp_path / "lr", ["c.png"])), method(gt))
    with pytest.raises(UsageError, match="ours: no picture of .* with --gt or --lr"):
        pair(Folders(), method(sr), method(gt, "other"))
    with pytest.raises(UsageError, match="Name their folder with --lr"):
        pair(Folders(gt), (methods.bicubic("bicubic"), None))


@pytest.mark.parametrize(
    ("gt", "lr", "given", "scale"),
    [
        ((24, 32), (12, 16), None, 2.0),
        ((25, 33), (10, 13), None, 2.5),
        ((24, 32), (12, 16), 2.0, 2.0),
    ],
)
def test_truths_show_the_scale(tmp_path, gt, lr, given, scale):
    a = write(tmp_path / "gt", ["a.png"], gt)
    b = write(tmp_path / "lr", ["a.png"], lr)
    pairs = pair(Folders(a, b, scale=given), method(a))
    assert pairs.scale == scale
    assert bool(pairs.problems) == (gt == (25, 33))  # 2.5 * 13 is 32 pixels, not 33


def test_a_truth_of_another_scale_is_named(tmp_path):
    gt = write(tmp_path / "gt", ["a.png", "b.png", "c.png"], (24, 32))
    write(gt, ["b.png"], (24, 31))
    lr = write(tmp_path / "lr", ["a.png", "b.png", "c.png"], (6, 8))
    pairs = pair(Folders(gt, lr), method(gt))
    (problem,) = pairs.problems
    assert "b.png is 31x24, 4 times" in problem and "would be 32x24" in problem
    assert [item.name for item in pairs.items] == ["a", "c"]


def test_without_truths_the_scale_gives_sizes(tmp_path):
    lr = write(tmp_path / "lr", ["a.png"], (6, 8))
    sr = write(tmp_path / "sr", ["a.png"], (24, 32))
    assert pair(Folders(lr=lr), method(sr)).items[0].size_hw == (24, 32)
    assert pair(Folders(lr=lr, scale=2), method(sr)).items[0].size_hw == (12, 16)
    # Alone, the first method that has a picture gives its size.
    alone = pair(Folders(), method(sr), method(lr, "other"))
    assert alone.items[0].size_hw == (24, 32) and not alone.problems


def test_a_damaged_truth_is_named_once(tmp_path):
    gt = write(tmp_path / "gt", ["a.png", "b.png"])
    (gt / "b.png").write_bytes(b"no picture")
    sr = write(tmp_path / "sr", ["a.png", "b.png"])
    pairs = pair(Folders(gt), method(sr))
    assert [item.name for item in pairs.items] == ["a"]
    (problem,) = pairs.problems
    assert "b.png is not a picture" in problem


def test_twins_are_one_line_and_not_a_second_for_want_of_them(tmp_path):
    gt = write(tmp_path / "gt", ["a.png", "b.png"])
    lr = write(tmp_path / "lr", ["a.png", "b.png"], (6, 8))
    sr = write(tmp_path / "sr", ["a.png", "b.png"])
    other = write(tmp_path / "other", ["b.png"])
    for folder in (sr, lr):
        write(folder, ["a.jpg"])
    pairs = pair(Folders(gt, lr), method(sr), method(other, "other"))
    told = sorted(pairs.problems)
    assert len(told) == 3  # what is absent elsewhere is told as ever
    assert f"{lr} has a.jpg and a.png" in told[0]
    assert f"{sr} has a.jpg and a.png" in told[1]
    assert told[2].startswith(f"other: {other} has no picture a.")
    assert [item.lr for item in pairs.items] == [None, lr / "b.png"]
    # Twins among the truths: their partners are no strays.
    clean = write(tmp_path / "clean", ["a.png", "b.png"])
    write(gt, ["b.jpg"])
    (line,) = pair(Folders(gt), method(clean)).problems
    assert "b.jpg and b.png" in line
