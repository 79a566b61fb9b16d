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
    # 2.5 * 13 is 32 pixels, not 33: one is cut
    assert not pairs.problems and pairs.items[0].size_hw == (gt[0], 32)
    assert ("1 of 1 truths cut" in pairs.protocol) == (gt == (25, 33))


def test_a_truth_of_another_scale_is_named(tmp_path):
    gt = write(tmp_path / "gt", ["a.png", "b.png", "c.png"], (24, 32))
    write(gt, ["b.png"], (24, 28))
    lr = write(tmp_path / "lr", ["a.png", "b.png", "c.png"], (6, 8))
    pairs = pair(Folders(gt, lr), method(gt))
    (problem,) = pairs.problems
    assert "b.png is 28x24, 4 times" in problem and "would be 32x24" in problem
    assert "up to 3 pixels are cut" in problem
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
    assert "b.png is not a supported image file" in problem


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


@pytest.mark.parametrize("low", [(6, 8), (7, 9)])
def test_truths_that_are_no_multiple_are_cut(tmp_path, low):
    """Inputs of the truth cut to a multiple (MATLAB's modcrop), or of all of it."""
    gt = write(tmp_path / "gt", ["a.png", "b.png"], (27, 34))
    write(gt, ["b.png"], (24, 32))
    lr = write(tmp_path / "lr", ["a.png", "b.png"], (6, 8))
    write(lr, ["a.png"], low)
    sr = write(tmp_path / "sr", ["a.png", "b.png"], (24, 32))
    write(sr, ["a.png"], tuple(4 * n for n in low))
    pairs = pair(Folders(gt, lr), method(sr))
    assert not pairs.problems
    a, b = pairs.items
    assert a.size_hw == tuple(min(x, 4 * y) for x, y in zip((27, 34), low, strict=True))
    assert a.effective_fit.uncut_hw == tuple(4 * n for n in low) and b.size_hw == (
        24,
        32,
    )
    if low == (6, 8):
        assert "1 of 2 truths cut at the right or at the bottom, by 3" in pairs.protocol
        assert "more than 3 are refused" in pairs.protocol


def test_results_a_few_pixels_off_are_cut_and_those_beyond_are_not_followed(tmp_path):
    gt = write(tmp_path / "gt", ["a.png"], (40, 40))
    near, far = ((38, 41), (36, 40))
    one = write(tmp_path / "one", ["a.png"], near)
    two = write(tmp_path / "two", ["a.png"], far)
    (item,) = pair(Folders(gt), method(one), method(two, "two")).items
    assert item.size_hw == (38, 40)  # four pixels are no result of this truth
    assert item.effective_fit.takes(near) and not item.effective_fit.takes(far)
    (item,) = pair(Folders(gt, scale=2), method(one)).items
    assert item.size_hw == (40, 40) and not item.effective_fit.takes(near)


def test_the_order_of_names_is_the_last_resort(tmp_path):
    gt = write(tmp_path / "gt", ["0801.png", "0802.png"])
    sr = write(tmp_path / "sr", ["out9.png", "out10.png"])
    with pytest.raises(UsageError, match="--by-order"):
        pair(Folders(gt), method(sr))
    pairs = pair(Folders(gt, by_order=True), method(sr))
    assert pairs.methods[0].files == {
        "0801": sr / "out9.png",
        "0802": sr / "out10.png",
    }
    assert "ours paired by the order of names (out9.png with 0801 to" in pairs.protocol
    # Not where names say it, whatever was asked for.
    named = write(tmp_path / "named", ["0802.png", "0801.png"])
    assert "by name" in pair(Folders(gt, by_order=True), method(named)).protocol
    lr = write(tmp_path / "lr", ["x1.png", "x2.png"], (6, 8))
    assert "inputs paired by the order" in (
        pair(Folders(gt, lr, by_order=True), method(gt)).protocol
    )
    write(sr, ["out11.png"])
    with pytest.raises(UsageError, match="has 3 pictures, .*gt has 2"):
        pair(Folders(gt, by_order=True), method(sr))
    write(sr, ["out9.jpg", "out10.png"])
    with pytest.raises(UsageError, match="--by-order needs every picture"):
        pair(Folders(gt, by_order=True), method(sr))


def test_templates_name_results_and_inputs(tmp_path):
    gt = write(tmp_path / "gt", ["a.png"], (24, 32))
    lr = write(tmp_path / "lr", ["low-a-small.png"], (6, 8))
    sr = write(tmp_path / "sr", ["SR_a.png", "a.png"], (24, 32))
    folders = Folders(gt, lr, sr_template="SR_{}", lr_template="low-{}-small")
    pairs = pair(folders, method(sr))
    assert pairs.methods[0].files == {"a": sr / "SR_a.png"}
    assert pairs.items[0].lr == lr / "low-a-small.png"
