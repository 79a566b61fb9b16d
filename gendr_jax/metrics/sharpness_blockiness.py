"""Sharpness and blockiness: no-reference figures of one picture, without weights.

With Y in levels, 0 to 255:

    sharpness  = sqrt(mean over inner pixels of (Gx^2 + Gy^2))                      (1)
                 Gx = Sobel / 8, so that a ramp of s levels a pixel gives s
    blockiness = (E + e) / (I + e),  e = 0.1 level                                  (2)
                 E the mean |Y_1 - Y_0 - ((Y_0 - Y_-1) + (Y_2 - Y_1)) / 2| over the
                 borders of the blocks, rows and columns alike; I the same elsewhere

(1) is the root of Tenengrad (Krotkov 1987), (2) the jump less the slopes on its sides
(as MSDS, Minami and Zakhor 1995) as a ratio, so that detail cancels: 1 is invisible.
Noise increases sharpness, and content may have edges at block borders.
"""

import numpy as np

from gendr_jax.errors import UsageError
from gendr_jax.metrics.psnr_ssim import levels

BLOCK = 8  # pixels, of JPEG
UNSEEN = 0.1  # levels, invisible; makes flat pictures 1


def sharpness(picture: np.ndarray) -> float:
    """Root mean square slope in levels a pixel, equation (1).

    Args:
        picture: HWC with 1 or 3 channels or HW: uint8, uint16, or floats in [0, 1].

    Raises:
        InputError: no picture, or a side below 3.
    """
    y_hw = levels(picture, smallest=3)
    along_x = y_hw[:, 2:] - y_hw[:, :-2]
    along_y = y_hw[2:] - y_hw[:-2]
    gx = (along_x[:-2] + 2 * along_x[1:-1] + along_x[2:]) / 8
    gy = (along_y[:, :-2] + 2 * along_y[:, 1:-1] + along_y[:, 2:]) / 8
    return float(np.sqrt(np.mean(gx * gx + gy * gy)))


def blockiness(picture: np.ndarray, *, block: int = BLOCK) -> float:
    """Visibility of block borders, equation (2); 1 means invisible.

    Args:
        picture: as in `sharpness`; blocks start at its top left pixel.
        block: side of the blocks. For an enlarged JPEG it is scale times 8.

    Raises:
        InputError: not a picture, or smaller than one block and its border.
        UsageError: `block` below 4, which has no inner pixels.
    """
    if block < 4:
        raise UsageError(f"block is {block} pixels, it needs 4. Use that of the codec.")
    y_hw = levels(picture, smallest=block + 2)
    edge, inside = [], []
    for x in (y_hw, y_hw.T):
        step = np.diff(x, axis=0)  # step i is between lines i and i + 1
        jump = np.abs(step[1:-1] - (step[:-2] + step[2:]) / 2).mean(1)
        at_border = np.arange(1, len(jump) + 1) % block == block - 1
        edge.append(jump[at_border])
        inside.append(jump[~at_border])
    e, i = (float(np.concatenate(lines).mean()) for lines in (edge, inside))
    return (e + UNSEEN) / (i + UNSEEN)
