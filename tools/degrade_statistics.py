"""Statistics that compare distributions of degradations: six numbers of each picture.

Imported by test_degrade_law.py and by tools/make_degrade_goldens.py, which stores the
numbers that the torch reference gives.
"""

from pathlib import Path

import numpy as np

NAMES = ("mean", "std", "laplacian", "blockiness", "chroma", "high_band")
PHOTOS, PHOTO_SIDE = 100, 256
CROP_SIDE, CROPS = 128, 24


def statistics(lq_hwc: np.ndarray, hq_hwc: np.ndarray) -> np.ndarray:
    """Changes of six numbers by a degradation, in the order of NAMES; uint8 pictures.

    Each is that of the picture minus that of the truth reduced by means of 4 x 4, so
    that it says more of the degradation than of the photograph.
    """
    height, width = lq_hwc.shape[:2]
    small = hq_hwc.reshape(height, 4, width, 4, 3).mean((1, 3))
    return _numbers(lq_hwc) - _numbers(small)


def _numbers(pixels_hwc: np.ndarray) -> np.ndarray:
    """mean of luma, and the logarithms of

    std: its standard deviation. laplacian: the variance of its Laplacian. blockiness:
    the mean step between columns at multiples of 8 over that elsewhere. chroma: the
    mean step of Cb and Cr. high_band: the power beyond a quarter of the sampling rate.
    """
    y, cb, cr = _ycc(pixels_hwc)
    laplacian = 4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1]
    laplacian = laplacian - y[1:-1, :-2] - y[1:-1, 2:]
    steps = np.abs(np.diff(y, axis=1)).mean(0)
    at_edge = np.arange(1, y.shape[1]) % 8 == 0
    chroma = sum(np.abs(np.diff(c, axis=a)).mean() for c in (cb, cr) for a in (0, 1))
    power = np.abs(np.fft.fft2(y - y.mean()) / y.size) ** 2
    fy, fx = (np.fft.fftfreq(n) for n in y.shape)
    positive = (
        y.std() + 1e-3,
        laplacian.var() + 1e-7,
        (steps[at_edge].mean() + 1e-4) / (steps[~at_edge].mean() + 1e-4),
        chroma + 1e-3,
        power[np.hypot(fy[:, None], fx[None]) > 0.25].sum() + 1e-7,
    )
    return np.array([y.mean(), *np.log(positive)], np.float32)


def _ycc(pixels_hwc: np.ndarray) -> np.ndarray:
    x = pixels_hwc.astype(np.float64) / 255.0
    y = x @ (0.299, 0.587, 0.114)
    return np.stack([y, (x[..., 2] - y) / 1.772, (x[..., 0] - y) / 1.402])


def photo_paths(shared: Path) -> list[Path]:
    """The first PHOTOS pictures of photos/val and, after them, of photos/train."""
    folders = [shared / "photos" / name for name in ("val", "train")]
    return [p for f in folders for p in sorted(f.glob("*.jpg"))][:PHOTOS]


def photo_crops(shared: Path) -> np.ndarray:
    """The middle of each of those, uint8 bhwc."""
    from PIL import Image

    crops = []
    for path in photo_paths(shared):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        top, left = ((n - PHOTO_SIDE) // 2 for n in pixels.shape[:2])
        crops.append(pixels[top : top + PHOTO_SIDE, left : left + PHOTO_SIDE])
    return np.stack(crops)


def small_crops() -> np.ndarray:
    """CROPS crops of the eight photographs in scikit-image, uint8 bhwc."""
    from gendr_jax.data.photos import photographs

    crops = []
    for _, pixels in photographs():
        height, width = pixels.shape[:2]
        for column in range(CROPS // 8):
            top = (height - CROP_SIDE) // 2
            left = (width - CROP_SIDE) * (column + 1) // (CROPS // 8 + 1)
            crops.append(pixels[top : top + CROP_SIDE, left : left + CROP_SIDE])
    return np.stack(crops)
