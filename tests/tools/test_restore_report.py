"""The report has a column for each weights folder, titled by its name."""

import sys

import numpy as np
from PIL import Image

from tools import restore_report


class Enlarging:
    """Stands for a restorer: repeats pixels."""

    def __call__(self, low, scale):
        return np.repeat(np.repeat(low, int(scale), 0), int(scale), 1)


def test_a_column_for_each_weights_folder(tmp_path, monkeypatch, capsys):
    opened = []

    def from_pretrained(source, dtype):
        opened.append(source)
        return Enlarging()

    monkeypatch.setattr(restore_report.Restorer, "from_pretrained", from_pretrained)
    rng = np.random.default_rng(0)
    for name, side in (("LR", 12), ("HR", 48)):
        (tmp_path / name).mkdir()
        picture = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / name / "a.png")
    argv = ["report", "--lr", str(tmp_path / "LR"), "--hr", str(tmp_path / "HR")]
    argv += ["--weights", "first=x/weights", "y/second", "-o", str(tmp_path / "s.png")]
    argv += ["--sr", f"other={tmp_path / 'HR'}", "--crop", "32"]
    monkeypatch.setattr(sys, "argv", argv)
    restore_report.main()
    assert opened == ["x/weights", "y/second"]
    a, mean = capsys.readouterr().out.splitlines()
    assert a.startswith("a.png") and mean.startswith("mean of 1")
    assert all(title in mean for title in ("bicubic", "other", "first", "second"))
    # Bicubic, the other program's, two weights, the truth; their middles.
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (5 * 32, 32 + restore_report.TITLE)
        columns = np.asarray(sheet)[restore_report.TITLE :].reshape(32, 5, 32, 3)
    np.testing.assert_array_equal(columns[:, 1], picture[8:40, 8:40])
    np.testing.assert_array_equal(columns[:, 4], picture[8:40, 8:40])
