"""The loop of `gendr restore`: files are read ahead and written behind the device.

What lives here: one picture from file to files, and what happens when one fails. What
does not: flags (restore.py), names of files (jobs.py), pixels (gendr_jax/restore/).
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax.cli import panels
from gendr_jax.cli.jobs import Job
from gendr_jax.errors import GendrError, InputError
from gendr_jax.restore import image_io, pictures, resize
from gendr_jax.restore.image_io import Image
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.restore.residual import as_picture, residual
from gendr_jax.restore.resize import Target

DONE, FAILED, SKIPPED = "done", "failed", "skipped"
FAULTS = (InputError, OSError, MemoryError)
AHEAD, BEHIND = 2, 2  # pictures held beside the one on the device


@dataclass(frozen=True)
class Wishes:
    """What is done with each picture.

    Attributes:
        target: how large it gets.
        metadata: whether the result keeps EXIF, XMP, IPTC and profile.
        max_input_pixels: of a file.
        compare: folder for pictures of before and after, or None.
        layout: of those: "side" by side, or "split".
        residual_map: folder for maps, or None.
        max_residual: above this a result is named, or None.
        refuse: not written, then, instead.
    """

    target: Target
    metadata: bool = True
    max_input_pixels: int = image_io.MAX_PIXELS
    compare: Path | None = None
    layout: str = "side"
    residual_map: Path | None = None
    max_residual: float | None = None
    refuse: bool = False


@dataclass
class Work:
    """A picture on its way."""

    job: Job
    image: Image | None = None
    scale: float = 0.0
    restored: Image | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def timed(self, stage: str, begin: float) -> None:
        stages = self.entry.setdefault("stages", {})
        stages[stage] = round(time.perf_counter() - begin, 4)


def run(
    todo: list[Job],
    wishes: Wishes,
    open_restorer: Callable[[], Restorer],
    tell: Callable[[Work], None],
) -> None:
    """Restore pictures in order; `tell` gets each when it is done or has failed.

    Weights are read for the first picture that needs them, and errors in them, and
    UsageError, end the run. So does the keyboard: what is being written gets whole.
    """
    opened: list[Restorer] = []
    written: list[Future[Work]] = []
    writer = ThreadPoolExecutor(BEHIND, thread_name_prefix="write")
    try:
        for batch in _batches(_read_ahead(todo, wishes), opened):
            sound = [work for work in batch if work.error is None]
            if sound and not opened:
                opened.append(open_restorer())
            if sound:
                _restore(opened[0], sound)
            written += [writer.submit(_finish, work, wishes) for work in batch]
            while len(written) > BEHIND:
                tell(written.pop(0).result())
        while written:
            tell(written.pop(0).result())
    finally:
        writer.shutdown(cancel_futures=True)


def _read_ahead(todo: list[Job], wishes: Wishes) -> Iterator[Work]:
    jobs = iter(todo)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        ahead = [reader.submit(_read, job, wishes) for job in islice(jobs, AHEAD)]
        while ahead:
            work = ahead.pop(0).result()
            ahead += [reader.submit(_read, job, wishes) for job in islice(jobs, 1)]
            yield work


def _batches(works: Iterator[Work], opened: list[Restorer]) -> Iterator[list[Work]]:
    """Runs of pictures with one output size, as many as the devices take at once."""
    batch: list[Work] = []
    for work in works:
        if batch and work.entry.get("height") and not _alike(batch[0], work):
            yield batch
            batch = []
        batch.append(work)
        if not opened or len(batch) >= opened[0].batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _alike(one: Work, other: Work) -> bool:
    sides = ("height", "width")
    same = all(one.entry.get(side) == other.entry.get(side) for side in sides)
    return same and one.scale == other.scale


def _read(job: Job, wishes: Wishes) -> Work:
    work, begin = Work(job), time.perf_counter()
    try:
        image = image_io.read(job.source, max_pixels=wishes.max_input_pixels)
        height, width = image.pixels_hwc.shape[:2]
        scale = wishes.target.scale_of(height, width, str(job.source))
        size = resize.output_size(height, width, scale)
        # Before the networks run for nothing.
        alpha = image.alpha_hw is not None
        image_io.require_fit(job.target, image, *size, alpha=alpha)
    except FAULTS as error:
        work.error = error
        return work
    work.image, work.scale = image, scale
    work.entry |= {"height": size[0], "width": size[1]}
    work.timed("read", begin)
    return work


def _restore(restorer: Restorer, works: list[Work]) -> None:
    """Put results, or errors, into the works."""
    begin = time.perf_counter()
    try:
        for work in works:
            size = restorer.padded_size(work.image, work.scale)
            compiled = not restorer.is_compiled(size)
            work.entry |= {"tiles": 1, "compiled": compiled}
        results = restorer.restore([work.image for work in works], works[0].scale)
    except FAULTS as error:
        if len(works) == 1:
            works[0].error = error
            return
        for work in works:  # one of them is at fault
            _restore(restorer, [work])
        return
    for work, result in zip(works, results, strict=True):
        work.restored = result
        work.timed("restore", begin)


def _finish(work: Work, wishes: Wishes) -> Work:
    """Check and write a result and what else is wished for."""
    begin = time.perf_counter()
    if work.error is None:
        try:
            _check(work, wishes)
            work.job.target.parent.mkdir(parents=True, exist_ok=True)
            image_io.write(work.job.target, work.restored, metadata=wishes.metadata)
            if wishes.compare is not None:
                _compare(work, wishes)
            work.timed("write", begin)
        except FAULTS as error:
            work.error = error
    stages = work.entry.get("stages", {})
    work.entry["seconds"] = round(sum(stages.values()), 3)
    work.entry |= {"input": str(work.job.source), "output": str(work.job.target)}
    work.entry["status"] = DONE if work.error is None else FAILED
    if work.error is not None:
        work.entry["error"] = one_line(work.error, work.job.source)
    work.image = work.restored = None
    return work


def _check(work: Work, wishes: Wishes) -> None:
    """The difference from the input, its map, and what follows from too much of it."""
    found = residual(work.restored, work.image)
    work.entry |= {
        "residual": round(found.rms, 5),
        "residual_peak": round(found.peak, 5),
    }
    if wishes.residual_map is not None:
        path = _beside(wishes.residual_map, work.job)
        image_io.write(path, as_picture(found.map_hw))
    limit = wishes.max_residual
    if limit is not None and found.rms > limit:
        text = (
            f"{work.job.source}: the result, reduced to the input's size, differs from "
            f"it by {found.rms:.4f}, above --max-residual {limit:g}"
        )
        if wishes.refuse:
            raise InputError(f"{text}. Use a smaller --strength, or raise the limit.")
        work.entry["warning"] = text


def _compare(work: Work, wishes: Wishes) -> None:
    rgb, alpha = pictures.to_unit(work.image)
    size = work.restored.pixels_hwc.shape[:2]
    before = _on_white(resize.bicubic(rgb, size), alpha, size)
    after, alpha = pictures.to_unit(work.restored)
    after = _on_white(after, alpha, size)
    if wishes.layout == "split":
        sheet = panels.split(before, after)
    else:
        sheet = panels.strip({"bicubic": before, "restored": after})
    like = work.restored
    picture = Image(np.asarray(sheet), icc=like.icc, space=like.space, bits=8)
    image_io.write(_beside(wishes.compare, work.job), picture)


def _on_white(
    rgb_hwc: np.ndarray, alpha_hw: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray:
    """uint8 levels, transparent parts on white."""
    if alpha_hw is not None:
        alpha = resize.bicubic(alpha_hw[..., None], size)
        rgb_hwc = rgb_hwc * alpha + (1 - alpha)
    return np.rint(np.clip(rgb_hwc, 0, 1) * 255).astype(np.uint8)


def _beside(folder: Path, job: Job) -> Path:
    """A PNG in another folder, at the result's place, its format in its name."""
    path = folder / job.relative
    path = path.with_name(f"{path.stem}{path.suffix.replace('.', '_')}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def one_line(error: Exception, source: Path) -> str:
    """What to tell of an error, without a line break, the file in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "memory is exhausted. Use a smaller scale, or cut the picture."
    elif not isinstance(error, GendrError):
        text = f"{text}. Check the path, permissions and space."
    return text if str(source) in text else f"{source}: {text}"
