"""`data.small`: what the settings say becomes of pictures smaller than the crop."""

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.train.stages import build
from tests.helpers import tiny_stages
from tests.helpers.tiny_pictures import write

CROP = 32


def taken(folder, small):
    """The shapes and the means of eight samples."""
    data = {"path": str(folder), "crop": CROP, "small": small}
    told = tiny_stages.settings("vae", batch_size=2, data=data)
    mesh = tiny_stages.one_device()
    batches = build.data_batches(told, mesh, build.data_source(told))(0)
    try:
        return [next(batches)["hq"] for _ in range(4)]
    finally:
        batches.close()


def test_they_are_left_out_mirrored_or_an_error(tmp_path):
    small = write(tmp_path / "photos", ["small.png"], (20, 24))
    with pytest.raises(UsageError, match="has sides of 32 pixels or more .*has 20"):
        taken(small, "skip")
    assert {x.shape for x in taken(small, "pad")} == {(2, CROP, CROP, 3)}
    both = write(small, ["large.png"], (40, 48))
    assert {x.shape for x in taken(both, "skip")} == {(2, CROP, CROP, 3)}
    with pytest.raises(UsageError, match=r"small\.png has a side of 20 pixels"):
        taken(both, "error")
    with pytest.raises(UsageError, match="small is 'shrink', not one of"):
        taken(both, "shrink")


def test_the_default_leaves_them_out():
    assert tiny_stages.settings("vae").data.small == "skip"
