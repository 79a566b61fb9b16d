"""Degrade a folder of photographs into pairs: DIR/HR, DIR/LR, DIR/manifest.jsonl.

Every picture is degraded at its own size, cropped at the right and at the bottom to a
multiple of the scale. It is put at the top left of a canvas from a short ladder of
sizes, so that a folder of mixed sizes needs few compilations; the result does not
depend on the canvas.
"""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from gendr_jax import files, overwriting, picture_walk
from gendr_jax.data import decode, pairs_manifest, retry, sources
from gendr_jax.data.degrade import Recipe, degrade
from gendr_jax.errors import InputError, UsageError

# Sides of canvases: multiples of JPEG's 16-pixel units. Compiling one more program
# costs more than computing the empty pixels of many pictures, so small canvases are
# square and few, and no side of a large one is less than half of the other.
SQUARE = (128, 512)
LADDER = (*SQUARE, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
MIN_SIDE = 32
REMEDY = "Choose an empty folder with -o."


@dataclass(frozen=True)
class Settings:
    """Input and output folders, and the degradation; scale 1..8, seed below 2**31."""

    root: Path
    out: Path
    preset: Recipe
    scale: int
    seed: int
    resume: bool = False


@dataclass
class Summary:
    """What a run did.

    Attributes:
        pairs: pictures that have a pair now.
        kept: those of them whose pair was complete before.
        problems: one line for each other picture.
    """

    pairs: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)


def run(
    settings: Settings,
    *,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
    report: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Make all pairs; pictures that cannot be used are reported and left out.

    Args:
        progress: wraps the names that are iterated over, as `tqdm` does.
        report: takes the line of each problem as it occurs.

    Raises:
        UsageError: folders that cannot be used; nothing was written.
        TryAgainError: a file that cannot be read just now; `resume` continues.
    """
    walked = _walk(settings)
    targets = assign(walked.names)
    pairs = {n: pairs_manifest.Pair.at(settings.out, t) for n, t in targets.items()}
    summary = Summary()
    shared = pairs_manifest.header(settings.preset.name, settings.scale, settings.seed)
    log = pairs_manifest.Log(settings.out, shared)
    recorded = log.read()
    _refuse_foreign(settings, walked.names, pairs, recorded)
    for line in walked.left_out.values():
        summary.problems.append(line)
        report(line)
    kept = _complete_pairs(settings, pairs, recorded) if settings.resume else {}
    summary.kept = len(kept)
    log.start(kept.values())
    lines = dict(kept)
    for name in progress(walked.names):
        if name in kept:
            continue
        try:
            lines[name] = _degrade_file(settings, name, pairs[name], shared, log)
        except InputError as error:
            summary.problems.append(str(error))
            report(str(error))
            for file in pairs[name].files.values():
                # a file of an earlier run would be taken for one of this run
                file.unlink(missing_ok=True)
    log.finish([lines[name] for name in walked.names if name in lines])
    summary.pairs = len(lines)
    return summary


def assign(names: Sequence[str]) -> dict[str, str]:
    """A PNG name for each picture, unique on every file system.

    Pictures that differ in their extension alone keep it (a.jpg.png), and those that
    differ in upper and lower case alone get a number.
    """
    key_of = picture_walk.same_name
    stems = {name: os.path.splitext(name)[0] for name in names}
    stem_counts = Counter(key_of(stem) for stem in stems.values())
    full_names = {key_of(f"{name}.png") for name in names}
    taken: set[str] = set()
    targets = {}
    for name, stem in stems.items():
        short = (
            stem_counts[key_of(stem)] == 1 and key_of(f"{stem}.png") not in full_names
        )
        target, number = f"{stem}.png" if short else f"{name}.png", 1
        while key_of(target) in taken:
            number += 1
            target = f"{name}-{number}.png"
        taken.add(key_of(target))
        targets[name] = target
    return targets


def _walk(settings: Settings) -> picture_walk.Walk:
    if not settings.root.is_dir():
        raise UsageError(
            f"there is no folder {settings.root}. Give a folder of images with -i."
        )
    if settings.out.resolve().is_relative_to(settings.root.resolve()):
        overwriting.refuse_nested(settings.out, settings.root, REMEDY)
    for kind in pairs_manifest.KINDS:
        overwriting.refuse_nested(settings.out / kind, settings.root, REMEDY)
    walked = picture_walk.walk(settings.root, sources.EXTENSIONS)
    if not walked.names:
        reasons = "".join(f" {line}" for line in list(walked.left_out.values())[:3])
        raise UsageError(
            f"{settings.root} has no pictures. Give a folder of images with -i."
            f"{reasons}"
        )
    return walked


def _refuse_foreign(
    settings: Settings,
    names: Sequence[str],
    pairs: dict[str, pairs_manifest.Pair],
    recorded: dict[str, pairs_manifest.Line],
) -> None:
    """Refuse to replace files that this command has not written."""
    outputs = [file for pair in pairs.values() for file in pair.files.values()]
    outputs += pairs_manifest.files_of(settings.out)
    overwriting.refuse(outputs, [settings.root / name for name in names], REMEDY)
    targets = {file.relative_to(settings.out).as_posix() for file in outputs}
    own_names = {
        line[kind] for line in recorded.values() for kind in pairs_manifest.KINDS
    }
    for kind in pairs_manifest.KINDS:
        folder = settings.out / kind
        for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
            name = path.relative_to(settings.out).as_posix()
            if files.is_temporary(path):
                continue
            if name not in targets:
                reason = "is not made from this input"
            elif name not in own_names:
                reason = f"is not in {pairs_manifest.NAME}, another program wrote it"
            else:
                continue
            raise UsageError(f"{picture_walk.shown(path)} {reason}. {REMEDY}")


def _complete_pairs(
    settings: Settings,
    pairs: dict[str, pairs_manifest.Pair],
    recorded: dict[str, pairs_manifest.Line],
) -> dict[str, pairs_manifest.Line]:
    """Lines of pairs whose input and outputs have the digests that were recorded."""
    complete = {}
    for name, pair in pairs.items():
        line = recorded.get(name)
        if line is None or any(
            line[k] != file_name for k, file_name in pair.names.items()
        ):
            continue
        paths = {"input": settings.root / name, **pair.files}
        if all(_digest(file) == line["sha256"][k] for k, file in paths.items()):
            complete[name] = line
    return complete


def _digest(path: Path) -> str:
    if not path.exists():
        return ""
    data = retry.with_retries(path.read_bytes, str(path))
    return hashlib.sha256(data).hexdigest()


def _degrade_file(
    settings: Settings,
    name: str,
    pair: pairs_manifest.Pair,
    shared: pairs_manifest.Line,
    log: pairs_manifest.Log,
) -> pairs_manifest.Line:
    """Write the HR and LR picture of one file; returns its line of the manifest.

    The draws depend on the seed and on the name, not on the other pictures.
    """
    path = settings.root / name
    data = retry.with_retries(path.read_bytes, str(path))
    hq_hwc = _crop(decode.read_bytes(data, str(path)), path, settings.scale)
    lq_hwc = _degrade(settings, name, hq_hwc)
    written = {"HR": _png(hq_hwc), "LR": _png(lq_hwc)}
    digests = {
        kind: hashlib.sha256(content).hexdigest()
        for kind, content in {"input": data, **written}.items()
    }
    line = pairs_manifest.line(name, pair, digests, shared, settings.preset)
    log.add(line)  # before the files, so that a killed run knows them as its own
    for kind, file in pair.files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(file, written[kind])
    return line


def _crop(pixels_hwc: np.ndarray, path: Path, scale: int) -> np.ndarray:
    height, width = (n - n % scale for n in pixels_hwc.shape[:2])
    if min(height, width) < MIN_SIDE or max(height, width) > LADDER[-1]:
        raise InputError(
            f"{path} has {pixels_hwc.shape[1]}x{pixels_hwc.shape[0]} pixels, each side "
            f"needs {MIN_SIDE}..{LADDER[-1]}, cropped to a multiple of {scale}. Resize "
            "or crop it."
        )
    return pixels_hwc[:height, :width]


def _degrade(settings: Settings, name: str, hq_hwc: np.ndarray) -> np.ndarray:
    key = pairs_manifest.key(settings.seed, pairs_manifest.index(name))
    height, width = hq_hwc.shape[:2]
    padded = np.zeros((1, *canvas(height, width), 3), np.float32)
    padded[0, :height, :width] = hq_hwc.astype(np.float32) / 255.0
    sizes_b2 = jnp.asarray([[height, width]], jnp.int32)
    lq_bhwc = degrade(
        key[None], jnp.asarray(padded), settings.preset, settings.scale, sizes_b2
    )
    lq_hwc = np.asarray(
        lq_bhwc[0, : height // settings.scale, : width // settings.scale]
    )
    return np.round(lq_hwc * 255.0).astype(np.uint8)


def canvas(height: int, width: int) -> tuple[int, int]:
    """The smallest canvas (height, width) that a picture of this size fits on."""
    longest = max(height, width)
    min_side = longest if longest <= SQUARE[-1] else longest // 2
    rows, columns = (
        next(n for n in LADDER if n >= max(side, min_side)) for side in (height, width)
    )
    return rows, columns


def _png(pixels_hwc: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_hwc).save(stream, format="PNG")
    return stream.getvalue()
