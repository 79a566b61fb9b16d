"""Golden files of the degradation, made by the torch reference on a CPU.

    python -m tools.make_degrade_goldens FILES [--photos SHARED] [-o FOLDER]

FILES: see tests/helpers/degrade_reference.py. SHARED holds photos/val and
photos/train; without it the statistics of photographs are not made anew. Needs torch,
scipy, cv2; the tests that read the golden files need none of these but scipy.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from tests.helpers import degrade_statistics as measures
from tests.helpers.degrade_cases import cases, pictures
from tests.helpers.degrade_reference import Reference, draw


def law(reference: Reference, hq_bhwc: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[count * b, 6]: `count` degradations of each picture, by torch's own noise."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    made = [(x, reference.apply(x, draw(rng))) for x in hq_bhwc for _ in range(count)]
    return np.stack([measures.statistics(lq, hq) for hq, lq in made])


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
