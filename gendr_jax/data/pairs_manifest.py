"""DIR/manifest.jsonl of `gendr degrade`: what was done to each picture.

What lives here: the lines of that file, the keys they are about, and the log of a run
that has not ended. One JSON object a line: first what holds for the run,
then one object a picture, in the order of their names. A picture's line does not
depend on the other pictures, except for the name of its pair (degrade_folder.py).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax import files
from gendr_jax.data.degrade import Recipe, draws, sample_keys
from gendr_jax.data.degrade.kernels import RADIUS
from gendr_jax.data.degrade.resize import MODES
from gendr_jax.version import __version__

NAME = "manifest.jsonl"
UNFINISHED = "manifest.unfinished.jsonl"  # the lines so far; NAME comes at the end
KINDS = ("HR", "LR")
Line = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Both files of a picture, and their names below the output folder."""

    files: dict[str, Path]
    names: dict[str, str]

    @classmethod
    def at(cls, out: Path, target: str) -> "Pair":
        """HR and LR below `out` of that name."""
        names = {kind: f"{kind}/{target}" for kind in KINDS}
        return cls({kind: out / name for kind, name in names.items()}, names)


def files_of(out: Path) -> list[Path]:
    """What `Log` writes."""
    return [out / NAME, out / UNFINISHED]


def key(seed: int, index: int) -> jax.Array:
    """The typed key of one picture: a function of the two numbers in its line."""
    return sample_keys(jax.random.key(seed), jnp.asarray([index], jnp.uint32))[0]


def index(name: str) -> int:
    """A picture's global index, from its path below the input folder."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def header(preset: str, scale: int, seed: int) -> Line:
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
    name: str, pair: Pair, digests: dict[str, str], shared: Line, preset: Recipe
) -> Line:
    """The line of one picture.

    Args:
      name: of the input, below its folder.
      digests: SHA-256 of the bytes of "input", "HR" and "LR".
      shared: see `header`.
    """
    number = index(name)
    return {
        "input": name,
        **pair.names,
        "key": {"seed": shared["seed"], "index": number},
        "preset": shared["preset"],
        "scale": shared["scale"],
        "sha256": digests,
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
    first_order, second_order = preset.orders
    found = {"first": _order(first, first_order.resize_anywhere)}
    if drawn.has_second:
        found["second"] = _order(second, second_order.resize_anywhere)
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
    place = {"resize_place": int(drawn.resize_at)} if anywhere else {}
    return {
        "kernel": _kernel(drawn.kernel),
        "resize": MODES[int(drawn.mode)],
        "factor": _number(drawn.factor),
        **place,
        "noise": kind,
        "noise_gray": bool(noise.is_gray),
        "noise_strength": _number(number),
    }


def _kernel(drawn: jax.Array) -> dict:
    """Its kind, and what can be measured of a 21 x 21 kernel.

    size: the side of the window that is not zero. sigma: standard deviations along
    the axes, the longer first, angle: of the longer, in degrees from the columns'
    direction towards the rows'; a sinc kernel has none of these.
    """
    kernel = np.asarray(drawn)
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


def _number(x: jax.Array | float) -> float:
    return float(f"{float(x):.6g}")


class Log:
    """The lines of a run, on disk as they come, and as the manifest when it ends.

    A folder without the manifest is not finished.
    """

    def __init__(self, out: Path, shared: Line):
        self._out, self._shared = out, shared

    def read(self) -> dict[str, Line]:
        """{input: line} of a run with the same settings, finished or not.

        Lines of other settings are there too, with sums that no file has: they say
        which files are ours.
        """
        found: dict[str, Line] = {}
        for path in files_of(self._out):
            head, *lines = _read(path) or [{}]
            if head != self._shared:
                lines = [_unsure(own) for own in lines]
            found |= {own["input"]: own for own in lines}
        return found

    def start(self, lines: Iterable[Line]) -> None:
        """Begin with these lines; the manifest of an earlier run goes last.

        What is known of files of that run stays: another one takes them as ours.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        kept = {own["input"]: own for own in self.read().values()}
        kept = {name: _unsure(own) for name, own in kept.items()}
        kept |= {own["input"]: own for own in lines}
        text = _text([self._shared, *kept.values()])
        files.write_text(self._out / UNFINISHED, text)
        (self._out / NAME).unlink(missing_ok=True)

    def add(self, own: Line) -> None:
        """One more picture."""
        with open(self._out / UNFINISHED, "a", encoding="utf-8") as file:
            file.write(_text([own]))

    def finish(self, lines: list[Line]) -> None:
        """The manifest, once all pictures are done."""
        files.write_text(self._out / NAME, _text([self._shared, *lines]))
        (self._out / UNFINISHED).unlink(missing_ok=True)


def _unsure(own: Line) -> Line:
    """The line without sums: the files are ours, and to be made anew."""
    return own | {"sha256": dict.fromkeys(own["sha256"])}


def _text(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(own, ensure_ascii=False) + "\n" for own in lines)


def _read(path: Path) -> list[Line]:
    """The lines of a file; none where it is absent. A last one may be cut off."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for number, own in enumerate(text.splitlines()):
        try:
            value = json.loads(own)
            if number:
                value["input"], value["HR"], value["LR"], value["sha256"]["input"]
        except (ValueError, KeyError, TypeError):
            break
        found.append(value)
    return found
