"""evaluate/gallery.py: where crops are cut, which are kept, what is in them."""

import io

import numpy as np
from PIL import Image as Pil

from gendr_jax.evaluate import gallery
from gendr_jax.evaluate.gallery import INPUT, SIDE, TRUTH, Gallery
from gendr_jax.evaluate.measuring import ItemPixels
from gendr_jax.evaluate.pairing import Item
from tests.helpers.tiny_pictures import pixels


def seen(name, results, *, gt=None, lr=None):
    size = next(iter(results.values())).shape[:2]
    item = Item(name, None, None, size, None if lr is None else lr.shape[:2])
    return ItemPixels(item, gt, lr, results)


def flat(height=600, width=500, value=100):
    return np.full((height, width, 3), value, np.uint8)


def spot(top, left, by, side=64):
    picture = flat()
    picture[top : top + side, left : left + side] += np.uint8(by)
    return picture


def decoded(file):
    return np.asarray(Pil.open(io.BytesIO(file)).convert("RGB"))


def test_the_crop_is_where_methods_differ():
    difference, top, left = gallery.most_different(
        seen("x", {"a": flat(), "b": spot(420, 300, 40)})
    )
    assert top <= 420 <= 484 <= top + SIDE and left <= 300 <= 364 <= left + SIDE
    # Two methods are 20 levels from their mean within the spot.
    assert abs(difference - 20 * 64 / SIDE) < 1e-3


def test_one_method_is_held_against_the_truth_or_its_own_mean():
    for gt in (flat(), None):
        _, top, left = gallery.most_different(
            seen("x", {"a": spot(30, 350, 40)}, gt=gt)
        )
        assert top <= 30 and left <= 350 <= 414 <= left + SIDE


def test_crops_are_the_pixels_of_the_results():
    a, b, gt = pixels(300, 280, 1), pixels(300, 280, 2), pixels(300, 280, 3)
    lr = pixels(75, 70, 4)
    one = gallery.crop_at(seen("x", {"a": a, "b": b}, gt=gt, lr=lr), 64, 88).encoded()
    assert list(one.panels) == [INPUT, "a", "b", TRUTH]
    rows, columns = slice(64, 64 + SIDE), slice(88, 88 + SIDE)
    for label, picture in {"a": a, "b": b, TRUTH: gt}.items():
        np.testing.assert_array_equal(
            decoded(one.panels[label]), picture[rows, columns]
        )
    np.testing.assert_array_equal(decoded(one.panels[INPUT]), lr[16:64, 22:70])
    assert one.size == (SIDE, SIDE)
    assert one.box == (88 / 280, 64 / 300, SIDE / 280, SIDE / 300)


def test_small_deep_pictures_are_cut_whole():
    deep = pixels(20, 30).astype(np.uint16) * 257
    one = gallery.crop_at(seen("x", {"a": deep}), 0, 0).encoded()
    np.testing.assert_array_equal(decoded(one.panels["a"]), pixels(20, 30))
    assert gallery.most_different(seen("x", {"a": deep}))[1:] == (0, 0)


def test_pictures_of_all_methods_go_before_those_that_differ_more():
    kept = Gallery(2)
    kept.add(seen("alone", {"a": spot(0, 0, 99)}))
    kept.add(seen("small", {"a": flat(), "b": spot(0, 0, 5)}))
    kept.add(ItemPixels(Item("none", None, None, (9, 9), None), None, None, {}))
    kept.add(seen("large", {"a": flat(), "b": spot(0, 0, 50)}))
    assert [crop.name for crop in kept.crops] == ["large", "small"]
    assert sorted(kept.thumbs) == ["alone", "large", "small"]
    assert max(decoded(kept.thumbs["large"]).shape[:2]) == gallery.THUMB


def test_the_bytes_are_bounded(monkeypatch):
    monkeypatch.setattr(gallery, "BYTES", 1)
    kept = Gallery()
    for name in ("x", "y"):
        kept.add(seen(name, {"a": flat(), "b": spot(0, 0, 5)}))
    assert len(kept.crops) == 1


def test_ties_are_not_encoded_one_after_the_other(monkeypatch):
    """Every picture of a tie takes the place of another: only those kept are files."""
    encoded, webp = [], gallery.webp
    monkeypatch.setattr(
        gallery, "webp", lambda pixels: encoded.append(1) or webp(pixels)
    )
    kept = Gallery(3)
    for number in range(40):
        kept.add(seen(f"{number:02d}", {"a": flat(40, 40), "b": flat(40, 40)}))
    assert not encoded
    assert [crop.name for crop in kept.crops] == ["39", "38", "37"]
    assert len(encoded) == 3 * 2


def test_pixels_that_are_kept_are_no_views_of_whole_pictures():
    one = gallery.crop_at(seen("x", {"a": flat()}, gt=flat(), lr=flat(150, 125)), 0, 0)
    assert all(pixels.base is None for pixels in one.panels.values())
