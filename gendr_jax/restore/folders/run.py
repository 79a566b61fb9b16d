"""The loop of `gendr restore`: files are read and written while the device computes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from gendr_jax import files, image_io
from gendr_jax.errors import GendrError, InputError
from gendr_jax.image_io import Image, resize
from gendr_jax.image_io.regions import Reader
from gendr_jax.image_io.resize import Target
from gendr_jax.restore import compiling, huge
from gendr_jax.restore.folders import comparisons
from gendr_jax.restore.folders.naming import PicturePaths
from gendr_jax.restore.folders.report import printable
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.restore.residual import (
    Residual,
    as_picture,
    residual,
    residual_of_files,
)
from gendr_jax.restore.tiled import Progress
from gendr_jax.restore.tiling import Layout

DONE, FAILED, SKIPPED = "done", "failed", "skipped"
FAULTS = (InputError, OSError, MemoryError)
Tiles = Callable[[str, int, int], None]
AHEAD, BEHIND = 2, 2  # pictures that are read ahead, and that wait to be written


@dataclass(frozen=True)
class PictureOptions:
    """Options for each picture.

    Attributes:
        target: size of the result.
        metadata: whether the result keeps EXIF, XMP, IPTC and profile.
        max_input_pixels: limit for an input file.
        compare: folder for before/after pictures, or None.
        layout: of those: "side" by side, or "split".
        residual_map: folder for residual maps, or None.
        max_residual: results above this get a warning, or None.
        refuse: such results are an error instead, and not written.
        stream_above: outputs of more pixels are restored from file to file.
        quality: of JPEG and WebP, 1 to 100; None: 95 for JPEG, lossless for WebP.
        stages: whether stages are timed separately, once for each shape of pass.
    """

    target: Target
    metadata: bool = True
    max_input_pixels: int = image_io.MAX_PIXELS
    compare: Path | None = None
    layout: str = "side"
    residual_map: Path | None = None
    max_residual: float | None = None
    refuse: bool = False
    stream_above: int = 100_000_000
    stages: bool = False
    quality: int | None = None


@dataclass
class PictureState:
    """State of one picture; without `image` it is restored from file to file."""

    paths: PicturePaths
    image: Image | None = None
    scale: float = 0.0
    restored: Image | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def timed(self, stage: str, begin: float) -> None:
        self.took(stage, time.perf_counter() - begin)

    def took(self, stage: str, seconds: float) -> None:
        self.entry.setdefault("stages", {})[stage] = round(seconds, 4)

    def lost(self, metadata: tuple[str, ...]) -> None:
        if metadata:
            self.entry["metadata_lost"] = list(metadata)


def run(
    todo: list[PicturePaths],
    options: PictureOptions,
    open_restorer: Callable[[], Restorer],
    report: Callable[[PictureState], None],
    tiles: Tiles = lambda name, done, total: None,
) -> None:
    """Restore pictures in order; `report` is called when each is done or has failed.

    Weights are read for the first picture that needs them. Errors in weights,
    UsageError and Ctrl-C end the run; results that are being written are finished and
    reported. tiles(picture, done, total) is called after every tile.
    """
    opened: list[Restorer] = []
    written: list[Future[PictureState]] = []
    writer = ThreadPoolExecutor(BEHIND, thread_name_prefix="write")
    try:
        for batch in _batches(_read_ahead(todo, options), opened):
            readable = [state for state in batch if state.error is None]
            if readable and not opened:
                opened.append(open_restorer())
            if readable:
                _restore(opened[0], readable, options, tiles)
            written += [writer.submit(_finish, state, options) for state in batch]
            while len(written) > BEHIND or (written and written[0].done()):
                _report_first(written, report)
        while written:
            _report_first(written, report)
    finally:
        writer.shutdown(cancel_futures=True)
        while written:  # after Ctrl-C: results that were being written
            if written[0].cancelled():
                written.pop(0)
            else:
                _report_first(written, report)


def _report_first(
    written: list[Future[PictureState]], report: Callable[[PictureState], None]
) -> None:
    state = written[0].result()  # waits; Ctrl-C may interrupt
    written.pop(0)
    report(state)


def clear_leftovers(todo: list[PicturePaths], options: PictureOptions) -> None:
    """Remove temporary files of killed runs from all output folders."""
    folders = {paths.target.parent for paths in todo}
    more = [folder for folder in (options.compare, options.residual_map) if folder]
    for folder in sorted({*folders, *more}):
        files.clear_stale(folder)


def _read_ahead(
    todo: list[PicturePaths], options: PictureOptions
) -> Iterator[PictureState]:
    remaining = iter(todo)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        ahead = [
            reader.submit(_read, paths, options) for paths in islice(remaining, AHEAD)
        ]
        while ahead:
            state = ahead.pop(0).result()
            ahead += [
                reader.submit(_read, paths, options) for paths in islice(remaining, 1)
            ]
            yield state


def _batches(
    states: Iterator[PictureState], opened: list[Restorer]
) -> Iterator[list[PictureState]]:
    """Batches of consecutive pictures with one output size."""
    batch: list[PictureState] = []
    for state in states:
        if batch and not _same_batch(batch[0], state):
            yield batch
            batch = []
        batch.append(state)
        if not opened or len(batch) >= opened[0].batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _same_batch(first: PictureState, second: PictureState) -> bool:
    """Whether both can be in one batch; huge and failed ones are batches of one."""
    if first.image is None or second.image is None:
        return False
    sides = ("height", "width")
    return first.scale == second.scale and all(
        first.entry[s] == second.entry[s] for s in sides
    )


def _read(paths: PicturePaths, options: PictureOptions) -> PictureState:
    state, begin = PictureState(paths), time.perf_counter()
    limit = options.max_input_pixels
    try:
        reader, state.scale = look(paths, options)
        header = reader.header
        height, width = resize.output_size(header.height, header.width, state.scale)
        alpha = header.alpha
        if height * width <= options.stream_above:
            image = image_io.read(paths.source, max_pixels=limit)
            state.image = image_io.without_opaque_alpha(paths.target, image)
            alpha = state.image.alpha_hw is not None
        # Checked before the networks run.
        image_io.require_fit(paths.target, reader.like, height, width, alpha=alpha)
    except FAULTS as error:
        state.error = error
        return state
    state.entry |= {"height": height, "width": width}
    state.timed("read", begin)
    return state


def look(paths: PicturePaths, options: PictureOptions) -> tuple[Reader, float]:
    """(reader, scale) of a picture, after checking its output path; header only.

    Raises:
        InputError, OSError: a picture that cannot be restored, or not be written.
    """
    image_io.require_writable(paths.target)
    reader = Reader(paths.source, max_pixels=options.max_input_pixels)
    height, width = reader.header.height, reader.header.width
    return reader, options.target.scale_of(height, width, str(paths.source))


def _restore(
    restorer: Restorer,
    states: list[PictureState],
    options: PictureOptions,
    tiles: Tiles,
) -> None:
    """Restore a batch; results or errors are set in `states`."""
    begin = time.perf_counter()
    images = [state.image for state in states if state.image is not None]
    names = ", ".join(str(state.paths.source) for state in states)

    def progress(done: int, total: int) -> None:
        tiles(names, done, total)

    try:
        with compiling.watch() as compiled:
            if not images:
                plans = [_stream(restorer, states[0], options, progress)]
            else:
                scale = states[0].scale
                results = restorer.restore(images, scale, progress=progress)
                plans = restorer.last
                for state, result in zip(states, results, strict=True):
                    state.restored = result
        seconds_each = (time.perf_counter() - begin) / len(states)
        for state, plan in zip(states, plans, strict=True):
            state.entry |= {"tiles": plan.tiles, "compiled": compiled.programs > 0}
            state.took("restore", seconds_each)
            if options.stages:
                state.entry["stages"] |= _stage_seconds(restorer, plan.pass_hw)
    except FAULTS as error:
        if len(states) == 1:
            states[0].error = error
            return
        for state in states:  # one by one, to know which of them fails
            _restore(restorer, [state], options, tiles)


def _stage_seconds(restorer: Restorer, pass_hw: tuple[int, int]) -> dict[str, float]:
    seconds = restorer.stage_seconds(pass_hw)
    return {f"pass_{name}": round(value, 4) for name, value in seconds.items()}


def _stream(
    restorer: Restorer, state: PictureState, options: PictureOptions, progress: Progress
) -> Layout:
    """Restore a huge picture from file to file; checked before it is renamed."""
    paths, limit = state.paths, options.max_input_pixels
    paths.target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(paths.target) as unfinished:
        plan, lost = huge.restore_file(
            restorer,
            paths.source,
            unfinished,
            state.scale,
            metadata=options.metadata,
            quality=options.quality,
            max_input_pixels=limit,
            folder=paths.target.parent,
            progress=progress,
        )
        file_residual = residual_of_files(unfinished, paths.source, max_pixels=limit)
        _check_residual(state, file_residual, options)
    state.lost(lost)
    if options.compare is not None:
        state.entry["warning"] = f"{paths.source}: too large for --compare"
    return plan


def _finish(state: PictureState, options: PictureOptions) -> PictureState:
    """Check and write a result and its comparison, and complete its entry."""
    begin = time.perf_counter()
    if state.error is None:
        try:
            if state.image is not None:
                _write(state, options)
            state.timed("write", begin)
        except FAULTS as error:
            state.error = error
    stages = state.entry.get("stages", {})
    state.entry["seconds"] = round(sum(stages.values()), 3)
    state.entry |= {"input": str(state.paths.source), "output": str(state.paths.target)}
    state.entry["status"] = DONE if state.error is None else FAILED
    if state.error is not None:
        state.entry["error"] = one_line(state.error, state.paths.source)
    state.image = state.restored = None
    return state


def _write(state: PictureState, options: PictureOptions) -> None:
    assert state.image is not None and state.restored is not None
    _check_residual(state, residual(state.restored, state.image), options)
    state.paths.target.parent.mkdir(parents=True, exist_ok=True)
    state.lost(
        image_io.write(
            state.paths.target,
            state.restored,
            metadata=options.metadata,
            quality=options.quality,
        )
    )
    if options.compare is not None:
        path = comparisons.path(options.compare, state.paths)
        comparisons.compare(state.image, state.restored, path, options.layout)


def _check_residual(
    state: PictureState, picture_residual: Residual, options: PictureOptions
) -> None:
    """Record the residual, write its map, and warn or refuse above the limit."""
    state.entry |= {
        "residual": round(picture_residual.rms, 5),
        "residual_peak": round(picture_residual.peak, 5),
    }
    if options.residual_map is not None:
        path = comparisons.path(options.residual_map, state.paths)
        path.parent.mkdir(parents=True, exist_ok=True)
        image_io.write(path, as_picture(picture_residual.map_hw))
    limit = options.max_residual
    if limit is not None and picture_residual.rms > limit:
        text = (
            f"{state.paths.source}: the result, reduced to the input's size, differs "
            f"from it by {picture_residual.rms:.4f}, above --max-residual {limit:g}"
        )
        if options.refuse:
            raise InputError(f"{text}. Use a smaller --strength, or raise the limit.")
        state.entry["warning"] = text


def is_there(path: Path) -> bool:
    """Whether a result exists; False for a path that cannot be read."""
    try:
        return path.exists()
    except OSError:
        return False


def one_line(error: Exception, source: Path) -> str:
    """The message of an error in one line, with the file's name."""
    name = printable(str(source))
    text = str(error).replace(str(source), name) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "memory is exhausted. Use a smaller scale, or cut the picture."
    elif isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename
        text = f"{where}: {error.strerror}" if where else error.strerror
    if not isinstance(error, GendrError | MemoryError):
        text = f"{text}. Check the path, permissions and space."
    text = " ".join(line.strip() for line in text.splitlines())
    return text if name in text else f"{name}: {text}"
