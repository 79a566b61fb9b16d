"""A folder of good pictures to pairs: DIR/HR, DIR/LR and DIR/manifest.jsonl.

What lives here: names of pairs, the loop over files, what a run that was interrupted
leaves. The degradation itself is `gendr_jax.data.degrade`, the lines of the manifest
are pairs_manifest.py's, which files there are picture_walk.py's.

Every picture is degraded at its own size, cropped at the right and at the bottom to a
multiple of the scale. It lies at the start of a canvas from a short ladder of sizes,
so that a folder of mixed sizes needs few compilations; nothing of the canvas shows in
the result.
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
from gendr_jax.data import decode, pairs_manifest, patience, sources
from gendr_jax.data.degrade import Recipe, degrade
from gendr_jax.errors import InputError, UsageError

# Sides of canvases: complete JPEG units. To compile one more program takes longer than
# to compute the empty pixels of many pictures, so small canvases are square and few,
# and no side of a large one is less than half of the other.
SQUARE = (128, 512)
LADDER = (*SQUARE, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
MIN_SIDE = 32
REMEDY = "Choose an empty folder with -o."


@dataclass(frozen=True)
class Job:
    """What is to be made of what; scale in 1..8, seed below 2**31."""

    root: Path
    out: Path
    preset: Recipe
    scale: int
    seed: int
    resume: bool = False


@dataclass
class Done:
    """Pictures of which there are pairs now, those among them that were there before,
    and a line for each other picture."""

    pairs: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)


def run(
    job: Job,
    *,
    over: Callable[[Sequence[str]], Iterable[str]] = iter,
    say: Callable[[str], None] = lambda line: None,
) -> Done:
    """Make all pairs; pictures that cannot be used are told and the rest is done.

    Args:
        over: shows progress over the names.
        say: is told each problem when it comes up.

    Raises:
        UsageError: folders that cannot be used; nothing was written.
        TryAgainError: a file that cannot be read just now; `resume` goes on.
    """
    walked = _walk(job)
    targets = assign(walked.names)
    pairs = {n: pairs_manifest.Pair.at(job.out, t) for n, t in targets.items()}
    done = Done()
    shared = pairs_manifest.header(job.preset.name, job.scale, job.seed)
    log = pairs_manifest.Log(job.out, shared)
    old = log.read()
    _check(job, walked.names, pairs, old)
    for line in walked.left_out.values():
        done.problems.append(line)
        say(line)
    kept = _kept(job, pairs, old) if job.resume else {}
    done.kept = len(kept)
    log.start(kept.values())
    lines = dict(kept)
    for name in over(walked.names):
        if name in kept:
            continue
        try:
            lines[name] = _one(job, name, pairs[name], shared, log)
        except InputError as error:
            done.problems.append(str(error))
            say(str(error))
            for file in pairs[name].files.values():
                # of an earlier run: it would pass for a pair of this one
                file.unlink(missing_ok=True)
    log.finish([lines[name] for name in walked.names if name in lines])
    done.pairs = len(lines)
    return done


def assign(names: Sequence[str]) -> dict[str, str]:
    """A PNG name for each picture, none equal to another on any file system.

    The extension is kept where two pictures differ in nothing else, and a number is
    added where they differ in the case of letters alone.
    """
    same = picture_walk.same_name
    stems = {name: os.path.splitext(name)[0] for name in names}
    often = Counter(same(stem) for stem in stems.values())
    full = {same(f"{name}.png") for name in names}
    taken: set[str] = set()
    targets = {}
    for name, stem in stems.items():
        short = often[same(stem)] == 1 and same(f"{stem}.png") not in full
        target, number = f"{stem}.png" if short else f"{name}.png", 1
        while same(target) in taken:
            number += 1
            target = f"{name}-{number}.png"
        taken.add(same(target))
        targets[name] = target
    return targets


def _walk(job: Job) -> picture_walk.Walk:
    if not job.root.is_dir():
        raise UsageError(
            f"there is no folder {job.root}. Give a folder of images with -i."
        )
    if job.out.resolve().is_relative_to(job.root.resolve()):
        overwriting.refuse_nested(job.out, job.root, REMEDY)
    for kind in pairs_manifest.KINDS:
        overwriting.refuse_nested(job.out / kind, job.root, REMEDY)
    walked = picture_walk.walk(job.root, sources.EXTENSIONS)
    if not walked.names:
        why = "".join(f" {line}" for line in list(walked.left_out.values())[:3])
        raise UsageError(
            f"no pictures below {job.root}. Give a folder of images with -i.{why}"
        )
    return walked


def _check(
    job: Job,
    names: Sequence[str],
    pairs: dict[str, pairs_manifest.Pair],
    old: dict[str, pairs_manifest.Line],
) -> None:
    """Nothing is replaced but pairs that this command has made."""
    outputs = [file for pair in pairs.values() for file in pair.files.values()]
    outputs += pairs_manifest.files_of(job.out)
    overwriting.refuse(outputs, [job.root / name for name in names], REMEDY)
    targets = {file.relative_to(job.out).as_posix() for file in outputs}
    ours = {line[kind] for line in old.values() for kind in pairs_manifest.KINDS}
    for kind in pairs_manifest.KINDS:
        folder = job.out / kind
        for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
            name = path.relative_to(job.out).as_posix()
            if files.is_temporary(path):
                continue
            if name not in targets:
                what = "is not made from this input"
            elif name not in ours:
                what = f"is not in {pairs_manifest.NAME}, another program has made it"
            else:
                continue
            raise UsageError(f"{picture_walk.shown(path)} {what}. {REMEDY}")


def _kept(
    job: Job,
    pairs: dict[str, pairs_manifest.Pair],
    old: dict[str, pairs_manifest.Line],
) -> dict[str, pairs_manifest.Line]:
    """Lines of pairs that are there as they were written, of inputs as they were."""
    found = {}
    for name, pair in pairs.items():
        line = old.get(name)
        if line is None or any(line[k] != own for k, own in pair.names.items()):
            continue
        both = {"input": job.root / name, **pair.files}
        if all(_digest(file) == line["sha256"][k] for k, file in both.items()):
            found[name] = line
    return found


def _digest(path: Path) -> str:
    if not path.exists():
        return ""
    data = patience.patiently(path.read_bytes, str(path))
    return hashlib.sha256(data).hexdigest()


def _one(
    job: Job,
    name: str,
    pair: pairs_manifest.Pair,
    shared: pairs_manifest.Line,
    log: pairs_manifest.Log,
) -> pairs_manifest.Line:
    """Write both pictures of one file; its line.

    The draws depend on the seed and on the name, not on the other pictures.
    """
    path = job.root / name
    data = patience.patiently(path.read_bytes, str(path))
    hq_hwc = _crop(decode.read_bytes(data, str(path)), path, job.scale)
    lq_hwc = _degrade(job, name, hq_hwc)
    written = {"HR": _png(hq_hwc), "LR": _png(lq_hwc)}
    digests = {
        kind: hashlib.sha256(content).hexdigest()
        for kind, content in {"input": data, **written}.items()
    }
    line = pairs_manifest.line(name, pair, digests, shared, job.preset)
    log.add(line)  # first, so that whatever is there is known as ours
    for kind, file in pair.files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(file, written[kind])
    return line


def _crop(pixels_hwc: np.ndarray, path: Path, scale: int) -> np.ndarray:
    height, width = (n - n % scale for n in pixels_hwc.shape[:2])
    if min(height, width) < MIN_SIDE or max(height, width) > LADDER[-1]:
        raise InputError(
            f"{path} has {pixels_hwc.shape[1]}x{pixels_hwc.shape[0]} pixels, each side "
            f"needs {MIN_SIDE}..{LADDER[-1]}, cut to a multiple of {scale}. Resize or "
            "cut it."
        )
    return pixels_hwc[:height, :width]


def _degrade(job: Job, name: str, hq_hwc: np.ndarray) -> np.ndarray:
    key = pairs_manifest.key(job.seed, pairs_manifest.index(name))
    height, width = hq_hwc.shape[:2]
    padded = np.zeros((1, *canvas(height, width), 3), np.float32)
    padded[0, :height, :width] = hq_hwc.astype(np.float32) / 255.0
    sizes_b2 = jnp.asarray([[height, width]], jnp.int32)
    lq_bhwc = degrade(key[None], jnp.asarray(padded), job.preset, job.scale, sizes_b2)
    lq_hwc = np.asarray(lq_bhwc[0, : height // job.scale, : width // job.scale])
    return np.round(lq_hwc * 255.0).astype(np.uint8)


def canvas(height: int, width: int) -> tuple[int, int]:
    """The smallest canvas that holds the picture."""
    longest = max(height, width)
    least = longest if longest <= SQUARE[-1] else longest // 2
    rows, columns = (
        next(n for n in LADDER if n >= max(side, least)) for side in (height, width)
    )
    return rows, columns


def _png(pixels_hwc: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_hwc).save(stream, format="PNG")
    return stream.getvalue()
