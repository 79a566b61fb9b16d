"""The bundled photographs are there without a network and are what they claim."""

import sys

import numpy as np
import pytest

from gendr_jax.data import photos
from gendr_jax.errors import UsageError


def test_photographs_are_pictures(monkeypatch):
    pytest.importorskip("skimage")
    # No proxy answers on this port: a download would fail instead of succeeding.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    pictures = photos.photographs()
    names = [name for name, _ in pictures]
    assert len(set(names)) == len(names) == 8
    assert photos.HELD_OUT in names
    for name, pixels_hwc in pictures:
        assert pixels_hwc.dtype == np.uint8, name
        assert pixels_hwc.shape[2] == 3 and min(pixels_hwc.shape[:2]) >= 300, name
        assert pixels_hwc.flags["C_CONTIGUOUS"], name
        assert pixels_hwc.std() > 20, f"{name} is nearly flat"
    grey = {n for n, p in pictures if np.array_equal(p[..., 0], p[..., 2])}
    assert grey == {"brick", "camera", "grass", "gravel"}


def test_held_out_picture_is_colour_and_wider_than_high():
    pytest.importorskip("skimage")
    pixels_hwc = dict(photos.photographs())[photos.HELD_OUT]
    assert pixels_hwc.shape == (300, 451, 3)
    assert not np.array_equal(pixels_hwc[..., 0], pixels_hwc[..., 2])


def test_missing_scikit_image_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UsageError, match=r"gendr_jax\[quickstart\]"):
        photos.photographs()
