"""`gendr degrade`: files in, pairs out."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from gendr_jax.cli import degrade
from gendr_jax.errors import UsageError


@pytest.fixture
def photos(tmp_path):
    """Three sizes on two canvases, one name twice but for its extension."""
    root = tmp_path / "hq"
    (root / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (height, width) in {
        "a.png": (61, 50),
        "a.bmp": (64, 64),
        "more/b.png": (40, 63),
    }.items():
        x = ndimage.gaussian_filter(rng.random((height, width, 3)), (2, 2, 0))
        x = (x - x.min()) / np.ptp(x) * 255
        Image.fromarray(x.astype(np.uint8)).save(root / name)
    return root


def read(folder):
    return {
        str(p.relative_to(folder)): np.asarray(Image.open(p))
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_pairs(photos, tmp_path):
    out = tmp_path / "out"
    assert degrade.main(["-i", str(photos), "-o", str(out), "--seed", "5"]) == 0
    lq, hq = read(out / "LR"), read(out / "HR")
    assert list(lq) == list(hq) == ["a.bmp.png", "a.png.png", "more/b.png"]
    assert lq["a.png.png"].shape == (15, 12, 3) and hq["a.png.png"].shape == (60, 48, 3)
    source = np.asarray(Image.open(photos / "a.png"))
    np.testing.assert_array_equal(hq["a.png.png"], source[:60, :48])
    assert lq["more/b.png"].std() > 2

    # the same again from fewer files: a picture's draws are its own
    (photos / "a.bmp").unlink()
    (photos / "a.png").unlink()
    again = tmp_path / "again"
    assert degrade.main(["-i", str(photos), "-o", str(again), "--seed", "5"]) == 0
    np.testing.assert_array_equal(read(again / "LR")["more/b.png"], lq["more/b.png"])
    other = tmp_path / "other"
    assert degrade.main(["-i", str(photos), "-o", str(other), "--seed", "6"]) == 0
    assert (read(other / "LR")["more/b.png"] != lq["more/b.png"]).any()


def test_bad_files_are_named_and_the_rest_is_done(photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:500])
    Image.new("RGB", (20, 90)).save(photos / "tiny.png")
    out = tmp_path / "out"
    flags = ["-i", str(photos), "-o", str(out), "--preset", "bicubic", "-s", "3"]
    assert degrade.main(flags) == 1
    error = capsys.readouterr().err
    assert "broken.png" in error and "tiny.png: sides of 18x90" in error
    lq = read(out / "LR")
    assert len(lq) == 3 and lq["a.png.png"].shape == (20, 16, 3)
    pillow = Image.open(photos / "a.png").crop((0, 0, 48, 60))
    pillow = np.asarray(pillow.resize((16, 20), Image.BICUBIC)).astype(int)
    assert np.abs(pillow - lq["a.png.png"]).max() <= 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "nope"], "no degradation preset named 'nope'"),
        (["-s", "0"], "scale 0"),
        (["-o", "{hq}/out"], "lies inside the input"),
        (["-i", "{hq}/nowhere"], "there is no folder"),
    ],
)
def test_usage_errors(photos, tmp_path, flags, message):
    given = ["-i", str(photos), "-o", str(tmp_path / "out")]
    given += [flag.format(hq=photos) for flag in flags]
    with pytest.raises(UsageError, match=message):
        degrade.main(given)
