"""`gendr degrade`: a folder of good pictures to pairs, DIR/LR and DIR/HR.

The degradation itself is `gendr_jax.data.degrade`, the record of what was done
degrade_manifest.py; heavy imports wait until there is something to do.

Every picture is degraded whole, at its own size cropped at the right and at the bottom
to a multiple of the scale. It lies at the start of a canvas from a short ladder of
sizes, so that a folder of mixed sizes needs few compilations; nothing of the canvas
shows in the result.
"""

import argparse
import io
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gendr_jax.errors import InputError, UsageError

if TYPE_CHECKING:
    import jax

    from gendr_jax.data.degrade import Recipe

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

    from gendr_jax.data import pairs_manifest as manifest
    from gendr_jax.data import sources
    from gendr_jax.data.degrade import recipe

    preset = recipe(flags.preset)
    root, out = Path(flags.input), Path(flags.output)
    _check(flags, root, out)
    names = sources.find(root)
    if not names:
        raise UsageError(f"no pictures below {root}. Give a folder of images with -i.")
    targets = _targets(names)
    _check_empty(out, set(targets.values()))
    # a folder without it is not finished
    (out / manifest.NAME).unlink(missing_ok=True)
    shared = manifest.header(preset.name, flags.scale, flags.seed)
    lines = [shared]
    for name in tqdm(names, unit="image", disable=not sys.stderr.isatty()):
        pair = {k: out / k / targets[name] for k in ("HR", "LR")}
        try:
            _one(root, name, pair, preset, shared)
            lines.append(manifest.line(root, name, out, pair, shared, preset))
        except InputError as error:
            tqdm.write(f"gendr: error: {error}", file=sys.stderr)
    manifest.write(out, lines)
    done = len(lines) - 1
    print(f"{done} of {len(names)} pictures -> {out / 'LR'}")
    return 0 if done == len(names) else 1


def _parser() -> argparse.ArgumentParser:
    from gendr_jax.data.degrade import PRESETS
    from gendr_jax.data.pairs_manifest import NAME

    parser = argparse.ArgumentParser(
        prog="gendr degrade",
        description="Make low-quality pictures of good ones: DIR/LR and DIR/HR, and "
        f"DIR/{NAME} with what was done to each.",
    )
    add = parser.add_argument
    add("-i", "--input", required=True, metavar="HQ_DIR", help="folder of good images")
    add("-o", "--output", required=True, metavar="DIR", help="where LR and HR go")
    add("-s", "--scale", type=int, default=4, help="times smaller (default: 4)")
    known = ", ".join(PRESETS)
    add("--preset", default="realesrgan", help=f"{known} (default: realesrgan)")
    add("--seed", type=int, default=0, help="of every random draw (default: 0)")
    return parser


def _targets(names: list[str]) -> dict[str, str]:
    """PNG names, the extension kept where two pictures differ in nothing else."""
    stems = {name: os.path.splitext(name)[0] for name in names}
    often = Counter(stems.values())
    whole = {f"{name}.png" for name in names}
    return {
        name: f"{name}.png"
        if often[stem] > 1 or f"{stem}.png" in whole
        else f"{stem}.png"
        for name, stem in stems.items()
    }


def _check(flags: argparse.Namespace, root: Path, out: Path) -> None:
    if not 1 <= flags.scale <= 8:
        raise UsageError(f"scale {flags.scale} is not in 1..8. Give another with -s.")
    if not 0 <= flags.seed < 2**31:
        raise UsageError(f"seed {flags.seed} is not in 0..2147483647. Give another.")
    if out.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"the output {out} lies inside the input {root} and would be read next "
            "time. Choose another with -o."
        )
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}. Give a folder of images with -i.")


def _check_empty(out: Path, mine: set[str]) -> None:
    """Pictures of another run in LR or HR would pass for some of this one."""
    from gendr_jax.data.pairs_manifest import PARTIAL

    for folder in (out / "LR", out / "HR"):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.name.startswith(".") and path.name.endswith(PARTIAL):
                path.unlink()  # of a run that was killed
            elif path.relative_to(folder).as_posix() not in mine:
                raise UsageError(
                    f"{path} is not made from this input. Choose an empty folder with "
                    "-o."
                )


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


def _one(
    root: Path, name: str, pair: dict[str, Path], preset: "Recipe", shared: dict
) -> None:
    """Write both pictures of one file.

    The draws depend on the seed and on the name, not on the other pictures.
    """
    from gendr_jax.data import pairs_manifest as manifest

    for file in pair.values():
        # never an old picture beside a new one, or in the place of a failed one
        file.unlink(missing_ok=True)
    hq_hwc = _crop(root / name, shared["scale"])
    key = manifest.key(shared["seed"], manifest.index(name))
    lq_hwc = _degrade(hq_hwc, key, preset, shared["scale"])
    for file, pixels_hwc in zip(pair.values(), (hq_hwc, lq_hwc), strict=True):
        manifest.write_whole(file, _png(pixels_hwc))


def _degrade(
    hq_hwc: np.ndarray, key: "jax.Array", preset: "Recipe", scale: int
) -> np.ndarray:
    import jax.numpy as jnp

    from gendr_jax.data.degrade import degrade

    height, width = hq_hwc.shape[:2]
    canvas = [next(n for n in LADDER if n >= side) for side in (height, width)]
    padded = np.zeros((1, *canvas, 3), np.float32)
    padded[0, :height, :width] = hq_hwc.astype(np.float32) / 255.0
    sizes_b2 = jnp.asarray([[height, width]], jnp.int32)
    lq_bhwc = degrade(key[None], jnp.asarray(padded), preset, scale, sizes_b2)
    lq_hwc = np.asarray(lq_bhwc[0, : height // scale, : width // scale])
    return np.round(lq_hwc * 255.0).astype(np.uint8)


def _png(pixels_hwc: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels_hwc).save(stream, format="PNG")
    return stream.getvalue()
