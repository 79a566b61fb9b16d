"""`gendr degrade`: a folder of good pictures to pairs, DIR/LR and DIR/HR.

What lives here: flags, file names and the loop over files. The degradation itself is
`gendr_jax.data.degrade`; heavy imports wait until there is something to do.

Every picture is degraded whole, at its own size cropped at the right and at the bottom
to a multiple of the scale. It lies at the start of a canvas from a short ladder of
sizes, so that a folder of mixed sizes needs few compilations; the canvas does not show
in the result except through the noise that was drawn for it.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from gendr_jax.errors import InputError, UsageError

# sides of the canvases: whole JPEG units, at most 1.5 times apart
LADDER = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
MIN_SIDE = 32


def main(args: list[str]) -> int:
    """Run the command; 0 when all pictures were done, 1 when some failed.

    Raises:
      UsageError: the settings cannot be run.
    """
    flags = _parser().parse_args(args)
    from tqdm import tqdm

    from gendr_jax.data import sources
    from gendr_jax.data.degrade import recipe

    preset = recipe(flags.preset)
    root, out = Path(flags.input), Path(flags.output)
    if not 1 <= flags.scale <= 8:
        raise UsageError(f"scale {flags.scale} is not in 1..8. Give another with -s.")
    if out.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"the output {out} lies inside the input {root} and would be read next "
            "time. Choose another with -o."
        )
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}. Give a folder of images with -i.")
    names = sources.find(root)
    if not names:
        raise UsageError(f"no pictures below {root}. Give a folder of images with -i.")
    targets = _targets(names)
    failed = 0
    for name in tqdm(names, unit="image", disable=not sys.stderr.isatty()):
        try:
            hq_hwc = _crop(root / name, flags.scale)
            lq_hwc = _degrade(hq_hwc, name, preset, flags.scale, flags.seed)
            _write(out / "HR" / targets[name], hq_hwc)
            _write(out / "LR" / targets[name], lq_hwc)
        except InputError as error:
            failed += 1
            tqdm.write(f"gendr: error: {error}", file=sys.stderr)
    print(f"{len(names) - failed} of {len(names)} pictures -> {out / 'LR'}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gendr degrade",
        description="Make low-quality pictures of good ones: DIR/LR and DIR/HR.",
    )
    add = parser.add_argument
    add("-i", "--input", required=True, metavar="HQ_DIR", help="folder of good images")
    add("-o", "--output", required=True, metavar="DIR", help="where LR and HR go")
    add("-s", "--scale", type=int, default=4, help="times smaller (default: 4)")
    add("--preset", default="realesrgan", help="recipe (default: realesrgan)")
    add("--seed", type=int, default=0, help="of every random draw (default: 0)")
    return parser


def _targets(names: list[str]) -> dict[str, str]:
    """PNG names, the extension kept where two pictures differ in nothing else."""
    stems = [os.path.splitext(name)[0] for name in names]
    return {
        name: f"{stem}.png" if stems.count(stem) == 1 else f"{name}.png"
        for name, stem in zip(names, stems, strict=True)
    }


def _crop(path: Path, scale: int) -> np.ndarray:
    from gendr_jax.data import decode

    pixels_hwc = decode.read(path)
    height, width = (n - n % scale for n in pixels_hwc.shape[:2])
    if min(height, width) < MIN_SIDE or max(height, width) > LADDER[-1]:
        raise InputError(
            f"{path}: sides of {width}x{height} pixels are not in {MIN_SIDE}.."
            f"{LADDER[-1]}. Resize or cut it."
        )
    return pixels_hwc[:height, :width]


def _degrade(
    hq_hwc: np.ndarray, name: str, preset: object, scale: int, seed: int
) -> np.ndarray:
    """The draws depend on the seed and on the name, not on the other pictures."""
    import jax
    import jax.numpy as jnp

    from gendr_jax.data.degrade import degrade, sample_keys

    height, width = hq_hwc.shape[:2]
    canvas = [next(n for n in LADDER if n >= side) for side in (height, width)]
    padded = np.zeros((1, *canvas, 3), np.float32)
    padded[0, :height, :width] = hq_hwc.astype(np.float32) / 255.0
    index = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    keys_b = sample_keys(jax.random.key(seed), jnp.asarray([index], jnp.uint32))
    sizes_b2 = jnp.asarray([[height, width]], jnp.int32)
    lq_bhwc = degrade(keys_b, jnp.asarray(padded), preset, scale, sizes_b2)
    lq_hwc = np.asarray(lq_bhwc[0, : height // scale, : width // scale])
    return np.round(lq_hwc * 255.0).astype(np.uint8)


def _write(path: Path, pixels_hwc: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(pixels_hwc).save(partial, format="PNG")
    os.replace(partial, path)
