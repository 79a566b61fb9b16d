"""DIR/manifest.jsonl of `gendr degrade`: what was done to each picture.

One JSON object a line: first what holds for the run, then one object a picture, in the
order of their names. A picture's line does not depend on the other pictures, except for
the name of its pair (degrade.py).
"""

import hashlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade import Recipe, draws, sample_keys
from gendr_jax.data.degrade.kernels import RADIUS
from gendr_jax.data.degrade.resize import MODES
from gendr_jax.version import __version__
from gendr_jax.weights.sha256 import file_sha256

NAME = "manifest.jsonl"
PARTIAL = ".partial"


def key(seed: int, index: int) -> jax.Array:
    """The typed key of one picture: a function of the two numbers in its line."""
    return sample_keys(jax.random.key(seed), jnp.asarray([index], jnp.uint32))[0]


def index(name: str) -> int:
    """A picture's global index, from its path below the input folder."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def header(preset: str, scale: int, seed: int) -> dict:
    """The first line: the settings, and the programs that the bytes depend on."""
    import PIL

    return {
        "gendr_jax": __version__,
        "preset": preset,
        "scale": scale,
        "seed": seed,
        "jax": jax.__version__,
        "pillow": PIL.__version__,
        "platform": jax.default_backend(),
    }


def line(
    root: Path,
    name: str,
    out: Path,
    pair: dict[str, Path],
    shared: dict,
    preset: Recipe,
) -> dict:
    """The line of one picture.

    Args:
      root, name: the input folder and the path below it.
      pair: the files in HR and in LR, which lie below `out`.
      shared: see `header`.
    """
    number = index(name)
    files = {"input": root / name, **pair}
    return {
        "input": name,
        **{k: file.relative_to(out).as_posix() for k, file in pair.items()},
        "key": {"seed": shared["seed"], "index": number},
        "preset": shared["preset"],
        "scale": shared["scale"],
        "sha256": {k: file_sha256(file) for k, file in files.items()},
        "parameters": parameters(key(shared["seed"], number), preset),
    }


def parameters(key: jax.Array, preset: Recipe) -> dict:
    """What the sampler drew for that key, in the units of recipe.py."""
    if preset.first is None:
        return {}
    # as in chain.py: 0 is the parameters, 1 and 2 are the noise of the two passes
    parameters_key = jax.random.fold_in(key, 0)
    drawn = jax.tree.map(np.asarray, _sample(parameters_key, preset))
    first, second = drawn.first, drawn.second
    found = {"first": _order(first, preset.first.resize_anywhere)}
    if drawn.has_second:
        found["second"] = _order(second, preset.second.resize_anywhere)
    found["jpeg_qualities"] = [_number(first.quality), _number(second.quality)]
    found["last_resize"] = MODES[int(drawn.last_mode)]
    found["last_kernel"] = _kernel(drawn.sinc)
    found["jpeg_last"] = bool(drawn.jpeg_last)
    return found


_sample = jax.jit(draws.sample, static_argnums=1)


def _order(drawn: draws.OrderDraw, anywhere: bool) -> dict:
    noise = drawn.noise
    kind, number = (
        ("gaussian", noise.gaussian_sigma * 255)
        if noise.is_gaussian
        else ("poisson", noise.poisson_scale)
    )
    place = {"resize_place": int(drawn.place)} if anywhere else {}
    return {
        "kernel": _kernel(drawn.kernel),
        "resize": MODES[int(drawn.mode)],
        "factor": _number(drawn.factor),
        **place,
        "noise": kind,
        "noise_gray": bool(noise.is_gray),
        "noise_strength": _number(number),
    }


def _kernel(kernel: np.ndarray) -> dict:
    """Its kind, and what can be measured of a 21 x 21 kernel.

    size: the side of the window that is not zero. sigma: standard deviations along
    the axes, the longer first, angle: of the longer, in degrees from the columns'
    direction towards the rows'; a sinc kernel has none of these.
    """
    if kernel[RADIUS, RADIUS] == 1:
        return {"kind": "none"}
    rows = np.flatnonzero(np.any(kernel != 0, axis=1))
    size = int(2 * np.max(np.abs(rows - RADIUS)) + 1)
    if kernel.min() < 0:
        return {"kind": "sinc", "size": size}
    offsets = np.arange(-RADIUS, RADIUS + 1)
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    xx, xy, yy = (float(np.sum(kernel * m)) for m in (x * x, x * y, y * y))
    spread = np.hypot((xx - yy) / 2, xy)
    long, short = (np.sqrt(max((xx + yy) / 2 + s * spread, 0)) for s in (1, -1))
    angle = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2 if spread > 1e-4 else 0.0
    sigma = [_number(long), _number(short)]
    return {"kind": "bell", "size": size, "sigma": sigma, "angle": round(angle, 1)}


def _number(x: float) -> float:
    return float(f"{float(x):.6g}")


def write(out: Path, lines: list[dict]) -> None:
    """The file as a whole, once all pictures are done."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(out / NAME, text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """The bytes under that name, never a part of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
