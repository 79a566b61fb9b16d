"""Fit NIQE's parameters to a folder of sharp, undamaged photographs.

    python tools/fit_niqe.py PHOTOS -o niqe.npz
    gendr evaluate --sr RESULTS --metrics niqe --niqe niqe.npz

Figures of different parameters are not comparable: keep the file with the figures.
The published tables were made with the parameters of NIQE's authors (docs/metrics.md).
"""

import argparse
from pathlib import Path

from gendr_jax.errors import GendrError
from gendr_jax.metrics.niqe_files import fit_folder, save_niqe


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the parameters of NIQE.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("niqe.npz"))
    parser.add_argument("--luma", choices=("full", "studio"), default="full")
    args = parser.parse_args()
    try:
        fitted = fit_folder(args.folder, luma=args.luma)
        save_niqe(args.output, fitted)
    except GendrError as error:
        parser.error(str(error))
    for name, value in fitted.provenance.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
