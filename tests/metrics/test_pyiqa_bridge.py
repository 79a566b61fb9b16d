"""The bridge to pyiqa, against a stand-in of its interface and, if there, itself.

The stand-in has the signatures and attributes of pyiqa 0.1.16 (`create_metric`,
`list_models`, `InferenceModel`): what it is asked for is recorded, its figures are
made of what it is given.
"""

import sys
import types

import numpy as np
import pytest

from gendr_jax import metrics
from gendr_jax.errors import InputError, UsageError
from gendr_jax.metrics import pyiqa_bridge
from gendr_jax.metrics.kinds import Settings
from gendr_jax.metrics.table import open_metrics, open_set_metrics

MODES = {
    "psnr": ("FR", False),
    "ssim": ("FR", False),
    "niqe": ("NR", True),
    "musiq": ("NR", False),
    "maniqa": ("NR", False),
    "maniqa-pipal": ("NR", False),
    "topiq_nr": ("NR", False),
    "topiq_fr": ("FR", False),
    "fid": ("NR", True),
}


@pytest.fixture
def asked(monkeypatch):
    """What the stand-in was asked for: (name, options) and the tensors of calls."""
    torch = pytest.importorskip("torch")
    made, given = [], []

    class InferenceModel:
        def __init__(self, name):
            self.metric_mode, self.lower_better = MODES[name]

        def __call__(self, target, ref=None, **kwargs):
            given.append((target, ref, kwargs))
            if isinstance(target, str):
                if target.endswith("imaginary"):
                    raise ValueError("Imaginary component")
                return 12.5  # FID gives a plain number
            assert (
                target.dtype == torch.float32 and 0 <= target.min() <= target.max() <= 1
            )
            assert (ref is not None) == (self.metric_mode == "FR")
            return target.mean() if ref is None else (target - ref).abs().mean()[None]

    def create_metric(metric_name, as_loss=False, device=None, **kwargs):
        if metric_name == "musiq":
            raise OSError("<urlopen error\n unreachable>")
        made.append((metric_name, kwargs))
        return InferenceModel(metric_name)

    def list_models(metric_mode=None, filter="", exclude_filters=""):
        return list(MODES)

    module = types.ModuleType("pyiqa")
    module.__version__ = "0.0"
    module.create_metric, module.list_models = create_metric, list_models
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return made, given


def pair(seed=0):
    rng = np.random.default_rng(seed)
    sr, gt = rng.integers(0, 256, (2, 2, 30, 40, 3), dtype=np.uint8)
    return list(sr), list(gt)


def opened(name, **settings):
    (one,) = open_metrics([name], Settings(**settings))
    return one


def test_a_score_of_pictures_alone(asked):
    one = opened("pyiqa:maniqa-pipal")
    metric = one.metric
    assert (metric.name, metric.against) == ("pyiqa:maniqa-pipal", "nothing")
    assert (metric.better, metric.digits) == ("higher", 4)
    assert one.protocol == "pyiqa 0.0 maniqa-pipal, its defaults"
    sr, _ = pair()
    figures = one.measure(sr, None)
    assert figures == pytest.approx([a.mean() / 255 for a in sr], abs=1e-6)
    made, given = asked
    assert made == [("maniqa-pipal", {})]
    assert [tuple(target.shape) for target, *_ in given] == [(1, 3, 30, 40)] * 2


def test_a_score_against_the_truth(asked):
    one = opened("pyiqa:topiq_fr")
    assert one.metric.against == "gt"
    sr, gt = pair()
    expected = [
        np.abs(a.astype(float) - b).mean() / 255 for a, b in zip(sr, gt, strict=True)
    ]
    assert one.measure(sr, gt) == pytest.approx(expected, abs=1e-6)
    grey = [a[..., :1] for a in sr]
    assert len(one.measure(grey, gt)) == 2  # grey becomes three channels
    assert opened("pyiqa:niqe").metric.better == "lower"


def test_luma_as_in_the_tables(asked):
    assert opened("pyiqa:psnr").protocol == (
        "pyiqa 0.0 psnr, test_y_channel=True, color_space=ycbcr"
    )
    opened("pyiqa:ssim", channel="rgb", crop=4)
    made, _ = asked
    assert made == [
        ("psnr", {"test_y_channel": True, "color_space": "ycbcr"}),
        ("ssim", {"test_y_channel": False, "crop_border": 4}),
    ]


def test_distances_of_sets(asked, tmp_path):
    sr, gt = tmp_path / "sr", tmp_path / "gt"
    (one,) = open_set_metrics(["pyiqa:fid"])
    metric = one.metric
    assert (metric.name, metric.against, metric.better) == ("pyiqa:fid", "gt", "lower")
    assert one.protocol == "pyiqa 0.0 fid, its defaults"
    assert one.measure(sr, gt) == 12.5
    assert asked[1][-1] == (str(gt), str(sr), {"num_workers": 0, "verbose": False})
    with pytest.raises(InputError, match="cannot measure fid .ValueError: Imaginary"):
        one.measure(sr, tmp_path / "imaginary")
    with pytest.raises(UsageError, match="pyiqa:musiq does not compare sets.*fid"):
        pyiqa_bridge.open_distance("musiq")
    with pytest.raises(UsageError, match="pyiqa:fid compares sets"):
        opened("pyiqa:fid")
    with pytest.raises(UsageError, match="has no ground truth.* Use pyiqa:fid"):
        opened("pyiqa:inception_score")


def test_what_cannot_be_had_is_said(asked, monkeypatch):
    with pytest.raises(
        UsageError, match="no metric 'topiq'. Nearest: topiq_nr, topiq_fr"
    ):
        opened("pyiqa:topiq")
    with pytest.raises(InputError, match="musiq .OSError: <urlopen error unreachable>"):
        opened("pyiqa:musiq")
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # not installed
    with pytest.raises(UsageError, match="PolyForm Noncommercial.*pip install pyiqa"):
        opened("pyiqa:musiq")
    with pytest.raises(UsageError, match="'musiq' is unknown.*pyiqa:NAME"):
        opened("musiq")


def test_pyiqa_itself_agrees():
    """Where it is installed: names, interface, and the two that need no weights."""
    pytest.importorskip("pyiqa")
    sr, gt = pair(1)
    for settings in (Settings(), Settings(channel="rgb", crop=3)):
        chosen = {"channel": settings.channel, "crop": settings.crop}
        theirs = open_metrics(["pyiqa:psnr", "pyiqa:ssim"], settings)
        ours = (metrics.psnr, metrics.ssim)
        for one, function in zip(theirs, ours, strict=True):
            assert one.metric.against == "gt" and one.metric.better == "higher"
            expected = [function(a, b, **chosen) for a, b in zip(sr, gt, strict=True)]
            assert one.measure(sr, gt) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UsageError, match="Nearest: .*topiq_nr"):
        opened("pyiqa:topiq")
