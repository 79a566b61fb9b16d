"""DIR/manifest.jsonl of `gendr degrade`: the degradation of each picture.

One JSON object a line: first the settings of the run, then one object a picture, in the
order of their names. A picture's line does not depend on the other pictures, except for
the name of its pair (degrade_folder.py).
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
UNFINISHED = "manifest.unfinished.jsonl"  # of a run that has not ended
KINDS = ("HR", "LR")
Line = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """HR and LR file of a picture, and their names below the output folder."""

    files: dict[str, Path]
    names: dict[str, str]

    @classmethod
    def at(cls, out: Path, target: str) -> "Pair":
        """The pair of that file name below `out`."""
        names = {kind: f"{kind}/{target}" for kind in KINDS}
        return cls({kind: out / name for kind, name in names.items()}, names)


def files_of(out: Path) -> list[Path]:
    """The files that `Log` writes."""
    return [out / NAME, out / UNFINISHED]


def key(seed: int, index: int) -> jax.Array:
    """The typed PRNG key of one picture, from the two numbers in its line."""
    return sample_keys(jax.random.key(seed), jnp.asarray([index], jnp.uint32))[0]


def index(name: str) -> int:
    """A picture's global index, from its path below the input folder."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def header(preset: str, scale: int, seed: int) -> Line:
    """The first line: settings, and versions that the output bytes depend on."""
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
    """The drawn degradation parameters of a key, in the units of recipe.py."""
    if preset.first is None:
        return {}
    # as in chain.py: 0 is the parameters, 1 and 2 are the noise of the two passes
    parameters_key = jax.random.fold_in(key, 0)
    drawn = jax.tree.map(np.asarray, _sample(parameters_key, preset))
    first, second = drawn.first, drawn.second
    first_order, second_order = preset.orders
    result = {"first": _order(first, first_order.resize_anywhere)}
    if drawn.has_second:
        result["second"] = _order(second, second_order.resize_anywhere)
    result["jpeg_qualities"] = [_number(first.quality), _number(second.quality)]
    result["last_resize"] = MODES[int(drawn.last_mode)]
    result["last_kernel"] = _kernel(drawn.sinc)
    result["jpeg_last"] = bool(drawn.jpeg_last)
    return result


_sample = jax.jit(draws.sample, static_argnums=1)


def _order(drawn: draws.OrderDraw, anywhere: bool) -> dict:
    noise = drawn.noise
    noise_type, strength = (
        ("gaussian", noise.gaussian_sigma * 255)
        if noise.is_gaussian
        else ("poisson", noise.poisson_scale)
    )
    resize_place = {"resize_place": int(drawn.resize_at)} if anywhere else {}
    return {
        "kernel": _kernel(drawn.kernel),
        "resize": MODES[int(drawn.mode)],
        "factor": _number(drawn.factor),
        **resize_place,
        "noise": noise_type,
        "noise_gray": bool(noise.is_gray),
        "noise_strength": _number(strength),
    }


def _kernel(drawn: jax.Array) -> dict:
    """Type of a 21 x 21 kernel, and the parameters that can be measured from it.

    size: side of the nonzero window. sigma: standard deviations along the principal
    axes, the longer first. angle: of the longer axis, in degrees from x (columns)
    towards y (rows). A sinc kernel has neither sigma nor angle.
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
    anisotropy = np.hypot((xx - yy) / 2, xy)
    long, short = (np.sqrt(max((xx + yy) / 2 + s * anisotropy, 0)) for s in (1, -1))
    angle = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2 if anisotropy > 1e-4 else 0.0
    sigma = [_number(long), _number(short)]
    return {"kind": "bell", "size": size, "sigma": sigma, "angle": round(angle, 1)}


def _number(x: jax.Array | float) -> float:
    return float(f"{float(x):.6g}")


class Log:
    """Appends the lines of a run to UNFINISHED, and writes NAME when the run ends.

    A folder without the manifest is not finished.
    """

    def __init__(self, out: Path, shared: Line):
        self._out, self._shared = out, shared

    def read(self) -> dict[str, Line]:
        """{input: line} of earlier runs, finished or not.

        Lines of a run with other settings have no digests: they only say which files
        were written by this command.
        """
        lines_by_input: dict[str, Line] = {}
        for path in files_of(self._out):
            head, *lines = _read(path) or [{}]
            if head != self._shared:
                lines = [_without_digests(entry) for entry in lines]
            lines_by_input |= {entry["input"]: entry for entry in lines}
        return lines_by_input

    def start(self, lines: Iterable[Line]) -> None:
        """Begin with these lines, then delete the manifest of an earlier run.

        The lines of that run stay without their digests, so that a later run still
        knows its files as written by this command.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        lines_by_input = {entry["input"]: entry for entry in self.read().values()}
        lines_by_input = {
            name: _without_digests(entry) for name, entry in lines_by_input.items()
        }
        lines_by_input |= {entry["input"]: entry for entry in lines}
        text = _text([self._shared, *lines_by_input.values()])
        files.write_text(self._out / UNFINISHED, text)
        (self._out / NAME).unlink(missing_ok=True)

    def add(self, entry: Line) -> None:
        """Append the line of one more picture."""
        with open(self._out / UNFINISHED, "a", encoding="utf-8") as file:
            file.write(_text([entry]))

    def finish(self, lines: list[Line]) -> None:
        """Write the manifest, once all pictures are done."""
        files.write_text(self._out / NAME, _text([self._shared, *lines]))
        (self._out / UNFINISHED).unlink(missing_ok=True)


def _without_digests(entry: Line) -> Line:
    """The line without digests: the files are ours, and have to be made again."""
    return entry | {"sha256": dict.fromkeys(entry["sha256"])}


def _text(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines)


def _read(path: Path) -> list[Line]:
    """The lines of a file, none if it is missing; a truncated last one is dropped."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for number, text_line in enumerate(text.splitlines()):
        try:
            value = json.loads(text_line)
            if number:
                value["input"], value["HR"], value["LR"], value["sha256"]["input"]
        except (ValueError, KeyError, TypeError):
            break
        lines.append(value)
    return lines
