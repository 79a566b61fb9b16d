"""Ship a weights folder as the package's gendr-tiny, and record its metrics.

    python -m tools.ship_student WEIGHTS [--steps N --seed N]

Writes gendr_jax/pretrained/gendr-tiny in float16 (its MODEL_CARD.md stays) and
tests/goldens/student.json, with which tests/cli/test_quickstart.py compares.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

import gendr_jax
from gendr_jax.cli import comparison
from gendr_jax.metrics import ssim
from gendr_jax.weights import folder, resolve

CARD = "MODEL_CARD.md"
GOLDENS = Path(__file__).parents[1] / "tests" / "goldens" / "student.json"


def main() -> None:
    """Read flags, ship, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--steps", type=int, default=0, help="of training, recorded")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    target = resolve.SHIPPED / resolve.DEFAULT
    card = target / CARD
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    ship(flags.weights, target, {"steps": flags.steps, "seed": flags.seed})
    card.write_text(text, encoding="utf-8")
    recorded = figures()
    GOLDENS.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(recorded, indent=2))


def ship(source: Path, target: Path, training: dict[str, int]) -> None:
    """The weights in float16."""
    weights = folder.load(source)
    half = {
        name: jax.tree.map(lambda x: np.asarray(x, np.float16), tree)
        for name, tree in weights.params.items()
    }
    weights = dataclasses.replace(
        weights, params=half, provenance={**weights.provenance, **training}
    )
    folder.save(
        target,
        kind=weights.kind,
        unet=(weights.configs["unet"], half["unet"]),
        vae=(weights.configs["vae"], half["vae"]),
        prompt=weights.prompt,
        prediction=weights.prediction,
        t_star=weights.t_star,
        provenance=weights.provenance,
    )
    # Orbax writes the folder's path on this machine into its mark of a finished save.
    for mark in target.glob("*/commit_success.txt"):
        mark.write_text("Checkpoint commit was successful.\n", encoding="utf-8")


def figures() -> dict[str, float]:
    """What tests/cli/test_quickstart.py compares: means over the photographs."""
    photographs = comparison.shipped()
    bicubic, ours = comparison.means(photographs)
    ssim_restored, ssim_bicubic = (
        float(
            np.mean(
                [
                    ssim(getattr(photograph, name), photograph.truth)
                    for photograph in photographs
                ]
            )
        )
        for name in ("restored", "plain")
    )
    recorded = {
        "gain": ours - bicubic,
        "ssim_gain": ssim_restored - ssim_bicubic,
        "colour": colour(photographs),
        "seam": seam(photographs),
        "grid": float(
            np.mean([grid(photograph.restored) for photograph in photographs])
        ),
    }
    return {name: round(value, 4) for name, value in recorded.items()}


def colour(photographs: list[comparison.Shown], name: str = "restored") -> float:
    """Mean gap of the mean colour of a picture to the truth, in levels."""
    gaps = [
        getattr(photograph, name).mean((0, 1))
        - photograph.truth.mean((0, 1), dtype=float)
        for photograph in photographs
    ]
    return float(np.mean(np.abs(gaps)))


def seam(photographs: list[comparison.Shown]) -> float:
    """The greatest difference in levels between tiles and one pass, of all pictures.

    The network sees some 100 pixels far, so tiles of 192 share half of their sides.
    """
    one_pass = gendr_jax.Restorer.from_pretrained(dtype="float32", tile=0)
    tiled = gendr_jax.Restorer.from_pretrained(
        dtype="float32", tile=192, tile_overlap=96
    )
    gaps = [
        np.abs(
            one_pass(photograph.low).astype(float) - tiled(photograph.low).astype(float)
        )
        for photograph in photographs
    ]
    return float(np.max(gaps))


def grid(image: np.ndarray) -> float:
    """Edges of the strongest column or row phase of 2, 4, 8 pixels over the mean."""
    grey, ratios = image.astype(float).mean(-1), []
    for axis in (0, 1):
        edges = np.abs(np.diff(grey, axis=axis)).mean(1 - axis)
        for n in (2, 4, 8):
            phases = [edges[k::n].mean() for k in range(n)]
            ratios.append(max(phases) / edges.mean())
    return float(np.mean(ratios))


if __name__ == "__main__":
    main()
