"""Make golden files of the degradation with the torch reference on a CPU.

    python -m tools.make_degrade_goldens FILES [--photos SHARED] [-o FOLDER]

FILES: see tools/degrade_reference.py. SHARED holds photos/val and
photos/train; without it the statistics of photographs are not updated. Needs torch,
scipy, cv2; the tests that read the golden files need none of these but scipy.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from tools import degrade_statistics as measures
from tools.degrade_reference import NONE, SINC, Reference, draw

CASES, GAUSSIAN_CASES = 28, 18


def pictures() -> dict[str, np.ndarray]:
    """Two crops of photographs, and one picture of eight flat colours."""
    from skimage import data

    rows, columns = np.mgrid[:128, :128] // 32
    flat = np.stack([rows * 60, columns * 60, (rows + columns) % 2 * 200], -1)
    wide = data.coffee()[150:246, 200:360]
    return {"square": data.astronaut()[:128, 170:298], "wide": wide, "flat": flat + 20}


def cases() -> list[dict]:
    """Random parameters, some of them set so that the cases cover all branches.

    The last ten have shot noise; four of those are too flat for 256 levels.
    """
    rng, parameters = random.Random(4), []
    for i in range(CASES):
        p = draw(rng)
        p |= {"case": i, "hq": ("square", "wide")[i % 2], "recipe": "osediff"}
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
            p |= {"gauss1": 0, "recipe": "osediff", "has_second": 1, "sharpen": 0}
        parameters.append(p)
    return parameters


def law(reference: Reference, hq_bhwc: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[count * b, 6]: `count` degradations of each picture, by torch's own noise."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    pairs = [(x, reference.apply(x, draw(rng))) for x in hq_bhwc for _ in range(count)]
    return np.stack([measures.statistics(lq, hq) for hq, lq in pairs])


def normals(case: int, pass_: int):
    """The standard normals of a case; RandomState's stream is fixed for good."""
    rng = np.random.RandomState(2 * case + pass_)
    return lambda shape: rng.standard_normal(shape).astype(np.float32)


def main() -> None:
    """Flags, and up to four files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("-o", type=Path, default=Path("tests/goldens/degrade"))
    flags = parser.parse_args()
    reference, hq = Reference(flags.files), pictures()
    torch.set_num_threads(1)
    save = lambda name, **what: np.savez_compressed(flags.o / name, **what)  # noqa: E731
    save("hq.npz", **{name: x.astype(np.uint8) for name, x in hq.items()})
    chains = {"parameters": json.dumps(cases())}
    for p in cases():
        fields = normals(p["case"], 0), normals(p["case"], 1)
        chains[f"lq{p['case']}"] = reference.apply(hq[p["hq"]], p, fields)
    save("chain.npz", **chains)
    save("law_crops.npz", statistics=law(reference, measures.small_crops(), 40, 1))
    if flags.photos:
        photos = measures.photo_crops(flags.photos)
        names = [path.name for path in measures.photo_paths(flags.photos)]
        save("law_photos.npz", names=names, statistics=law(reference, photos, 6, 2))


if __name__ == "__main__":
    main()
