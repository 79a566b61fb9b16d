"""The draws and the pictures of the golden files of the whole chain.

Used by tools/make_degrade_goldens.py only; the tests read what it wrote.
"""

import random

import numpy as np

from tests.helpers.degrade_reference import NONE, SINC, draw

CASES, GAUSSIAN_CASES = 28, 18


def pictures() -> dict[str, np.ndarray]:
    """Two crops of photographs, and one picture of eight flat colours."""
    from skimage import data

    rows, columns = np.mgrid[:128, :128] // 32
    flat = np.stack([rows * 60, columns * 60, (rows + columns) % 2 * 200], -1)
    wide = data.coffee()[150:246, 200:360]
    return {"square": data.astronaut()[:128, 170:298], "wide": wide, "flat": flat + 20}


def cases() -> list[dict]:
    """Parameters by the law, with what they should cover put in by turns.

    The last ten have shot noise; four of those are too flat for 256 levels.
    """
    rng, made = random.Random(4), []
    for i in range(CASES):
        p = draw(rng)
        p |= {"case": i, "hq": ("square", "wide")[i % 2], "recipe": "realesrgan"}
        p |= {"k1_kind": i % (SINC + 1), "jpeg_last": i // 2 % 2}
        p |= {"mode1": i % 3, "mode2": i // 3 % 3, "mode3": i // 9 % 3}
        p |= {"gray1": i // 3 % 2, "gray2": i // 5 % 2, "gauss1": 1, "gauss2": 1}
        if i % 7 in (0, 2, 4):
            p["k1_sy"] = p["k1_sx"]
        if i % 12 == 10:
            p |= {"recipe": "invsr", "has_second": 0, "hq": "square"}
        if i % 12 == 11:
            p |= {"recipe": "stablesr", "sharpen": 1, "hq": "wide"}
        if i in (9, 21, 27):
            p |= {"recipe": "apisr", "k3_kind": NONE, "jpeg_last": 1, "hq": "square"}
            p |= {"place1": i % 4 // 2 * 2, "place2": i // 9 - 1}
            p["s1"] = min(p["s1"], 1.1875)
        if i >= GAUSSIAN_CASES:
            p |= {"gauss1": i % 2, "gauss2": 1 - i % 2}
        if i >= CASES - 6 and i < CASES - 2:
            p |= {"hq": "flat", "k1_kind": 0, "k1_sx": 0.2, "k1_sy": 0.2, "s1": 1.0}
            p |= {"gauss1": 0, "recipe": "realesrgan", "has_second": 1, "sharpen": 0}
        made.append(p)
    return made
