"""evaluate/measuring.py and methods.py: batches, pictures that cannot be used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import metrics as formulas
from gendr_jax.errors import InputError
from gendr_jax.evaluate import measuring, methods, pairing
from gendr_jax.evaluate.pairing import Folders, Item
from gendr_jax.image_io import resize
from gendr_jax.metrics.kinds import Metric, Opened, Settings
from gendr_jax.metrics.table import open_metrics
from tests.helpers.tiny_pictures import pixels, write

PSNR, SSIM, SHARP = open_metrics(["psnr", "ssim", "sharpness"], Settings())


def pairs_of(folders, *named):
    some = [(methods.Method(path.name, str(path), {}), path) for path in named]
    return pairing.pair(folders, some)


@pytest.fixture
def gt(tmp_path):
    write(tmp_path / "gt", ["a.png", "b.png", "c.png"], (24, 32))
    return write(tmp_path / "gt", ["d.png"], (32, 24))


def spy(against, values=lambda sr: [0.0] * len(sr)):
    """A metric that keeps what it was called with."""
    calls = []

    def measure(sr, other):
        calls.append((sr, other))
        return values(sr)

    return Opened(Metric("spy", against, "higher", 1, "none"), "none", measure), calls


def test_figures_are_those_of_the_formulas(gt, tmp_path):
    sr = write(tmp_path / "sr", ["a.png", "b.png", "c.png"], (24, 32), noise=9)
    write(sr, ["d.png"], (32, 24), noise=9)
    found = measuring.run(pairs_of(Folders(gt), sr), [PSNR, SSIM, SHARP])
    assert not found.problems and list(found.values) == ["sr"]
    assert sorted(found.values["sr"]) == ["a", "b", "c", "d"]
    for name, own in found.values["sr"].items():
        one, two = (methods.read(f / f"{name}.png") for f in (sr, gt))
        assert own["psnr"] == pytest.approx(formulas.psnr(one, two), abs=1e-9)
        assert own["ssim"] == pytest.approx(formulas.ssim(one, two), abs=1e-9)


def test_a_batch_has_one_size_and_one_type(gt, tmp_path):
    opened, calls = spy("gt")
    sr = write(tmp_path / "sr", ["a.png", "b.png", "c.png"], (24, 32))
    write(sr, ["d.png"], (32, 24))
    deep = (pixels(24, 32, noise=0).astype(np.uint16) * 257)[..., 0]
    Pil.fromarray(deep).save(sr / "b.png")
    pairs = pairs_of(Folders(gt), sr)
    found = measuring.run(pairs, [opened])
    assert not found.problems
    assert sorted(len(ours) for ours, _ in calls) == [1, 1, 2]
    for ours, theirs in calls:
        shapes = {x.shape for x in ours + theirs}
        assert len(shapes) == 1 and shapes.pop()[2] == 3  # grey became RGB
        assert len({x.dtype for x in ours}) == 1


def test_batches_are_bounded_by_their_pixels():
    def items(count, side):
        return [Item(str(i), None, None, (side, side), None) for i in range(count)]

    assert [len(b) for b in measuring.batches(items(20, 512))] == [8, 8, 4]
    assert [len(b) for b in measuring.batches(items(2, 4096))] == [1, 1]
    assert [len(b) for b in measuring.batches(items(65, 8))] == [64, 1]
    mixed = items(3, 512) + items(2, 256)
    assert [len(b) for b in measuring.batches(mixed)] == [2, 3]


def test_what_cannot_be_used_is_named_and_the_rest_is_done(gt, tmp_path):
    names = ["a.png", "b.png", "c.png"]
    sr = write(tmp_path / "sr", names, (24, 32))
    write(sr, ["a.png"], (24, 28))
    (sr / "b.png").write_bytes((sr / "b.png").read_bytes()[:200])
    rgba = np.dstack([pixels(32, 24), np.full((32, 24), 9, np.uint8)])
    Pil.fromarray(rgba).save(sr / "d.png")
    found = measuring.run(pairs_of(Folders(gt), sr), [PSNR])
    assert list(found.values["sr"]) == ["c"]
    told = "\n".join(found.problems)
    assert len(found.problems) == 3
    assert f"{sr / 'a.png'} is 28x24, its partner needs 32x24 (up to 3" in told
    assert "b.png" in told and f"{sr / 'd.png'} has transparent" in told


def test_a_size_that_differs_is_told_with_its_remedy(tmp_path):
    sr = write(tmp_path / "sr", ["a.png", "b.png"], (24, 32))
    other = write(tmp_path / "other", ["a.png", "b.png"], (24, 32))
    write(other, ["a.png"], (20, 32))
    lr = write(tmp_path / "lr", ["a.png", "b.png"], (6, 8))
    (line,) = measuring.run(pairs_of(Folders(), sr, other), [SHARP]).problems
    assert "a.png is 32x20, its partner needs 32x24. Crop or resize it." in line
    (line,) = measuring.run(pairs_of(Folders(lr=lr), sr, other), [SHARP]).problems
    assert line.endswith("Give the scale with -s.")


def test_a_metric_that_refuses_one_picture_measures_the_others(gt):
    def picky(sr):
        if any(x.mean() == worst for x in sr):
            raise InputError("too plain. Take another.")
        return [1.0] * len(sr)

    worst = methods.read(gt / "b.png").mean()
    opened, calls = spy("nothing", picky)
    found = measuring.run(pairs_of(Folders(gt), gt), [opened])
    assert found.problems == ["gt: spy of b: too plain. Take another."]
    assert found.values["gt"] == {n: {"spy": 1.0} for n in "acd"} | {"b": {}}
    assert all(other is None for _, other in calls)


def test_a_figure_that_is_none_is_told(gt):
    opened, _ = spy("nothing", lambda sr: [float("nan")] * len(sr))
    found = measuring.run(pairs_of(Folders(gt), gt), [opened])
    assert (
        len(found.problems) == 4 and "spy of a: nan is not finite" in found.problems[0]
    )
    assert found.values["gt"]["a"] == {}


def test_bicubic_is_made_of_the_inputs(gt, tmp_path):
    lr = write(tmp_path / "lr", ["a.png", "b.png", "c.png"], (6, 8))
    write(lr, ["d.png"], (8, 6))
    pairs = pairing.pair(Folders(gt, lr), [(methods.bicubic("bicubic"), None)])
    seen = []
    found = measuring.run(pairs, [PSNR], on_item=seen.append)
    assert not found.problems and len(found.values["bicubic"]) == 4
    low = methods.read(lr / "d.png")
    plain = np.clip(resize.bicubic(low / np.float32(255), (32, 24)), 0, 1)
    (d,) = [s for s in seen if s.item.name == "d"]
    np.testing.assert_array_equal(d.results["bicubic"], np.rint(plain * 255))
    assert d.results["bicubic"].dtype == np.uint8


def test_a_maker_that_refuses_one_input_makes_the_others(gt, tmp_path):
    lr = write(tmp_path / "lr", ["a.png", "b.png", "c.png"], (6, 8))

    def make(lows, size_hw):
        if any(np.array_equal(low, bad) for low in lows):
            raise InputError("not finite. Use fp32.")
        return methods.bicubic("x").make(lows, size_hw)

    bad = methods.read(lr / "b.png")
    maker = replace(methods.bicubic("ours"), make=make)
    pairs = pairing.pair(Folders(lr=lr), [(maker, None)])
    found = measuring.run(pairs, [SHARP])
    assert sorted(found.values["ours"]) == ["a", "c"]
    assert found.problems == ["ours: b: not finite. Use fp32."]


def test_an_opaque_alpha_channel_is_no_harm(tmp_path):
    rgb = pixels(4, 5)
    path = Path(tmp_path / "a.png")
    Pil.fromarray(np.dstack([rgb, np.full((4, 5), 255, np.uint8)])).save(path)
    np.testing.assert_array_equal(methods.read(path), rgb)


def test_what_is_a_few_pixels_off_is_cut_at_the_right_and_at_the_bottom(tmp_path):
    """Figures are those of pictures cut by hand; inputs meet results as they were."""
    x = pixels(40, 44)
    for name, picture in {
        "gt": x,
        "sr": x[:38, :41] // 2,
        "lr": x[:40:4, :44:4],
    }.items():
        (tmp_path / name).mkdir()
        Pil.fromarray(picture).save(tmp_path / name / "a.png")
    pairs = pairs_of(Folders(tmp_path / "gt"), tmp_path / "sr")
    found = measuring.run(pairs, [PSNR])
    assert not found.problems
    by_hand = PSNR.measure([x[:38, :41] // 2], [x[:38, :41]])[0]
    assert found.values["sr"]["a"]["psnr"] == pytest.approx(by_hand)
    assert "1 of 1 truths cut at the right or at the bottom, by 3" in pairs.protocol
    (tmp_path / "large").mkdir()
    Pil.fromarray(np.pad(x, ((0, 0), (0, 0), (0, 0)))).save(tmp_path / "large/a.png")
    Pil.fromarray(x[:39, :42]).save(tmp_path / "gt/a.png")  # no multiple of 4
    (residual,) = open_metrics(["residual"], Settings())
    folders = Folders(tmp_path / "gt", tmp_path / "lr")
    pairs = pairs_of(folders, tmp_path / "large")
    seen = []
    found = measuring.run(pairs, [PSNR, residual], on_item=seen.append)
    assert not found.problems and set(found.values["large"]["a"]) == {
        "psnr",
        "residual",
    }
    assert seen[0].results["large"].shape == seen[0].gt.shape == (39, 42, 3)
    made = pairing.pair(folders, [(methods.bicubic("bicubic"), None)])
    found = measuring.run(made, [PSNR, residual])
    assert not found.problems and len(found.values["bicubic"]["a"]) == 2
