"""`gendr restore`: enlarge and restore photographs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gendr_jax.cli import restore_flags
from gendr_jax.cli.common import tidy_when_terminated
from gendr_jax.cli.restore_devices import (
    dtype_of,
    mesh_of,
    weights_are_configuration,
)
from gendr_jax.errors import UsageError
from gendr_jax.restore.folders import report as report_lib

SIZES = ("outscale", "width", "height", "longest_side", "megapixels")


def main(args: list[str]) -> int:
    """Run the command; 0 if all images were restored, 1 if some failed.

    Raises:
        UsageError: wrong flags or names, or weights that cannot be read.
    """
    flags = restore_flags.parse(args)
    from gendr_jax.restore.folders import comparisons, naming

    out = Path(flags.output)
    other_outputs = [
        Path(p) for p in (flags.compare, flags.residual_map) if p is not None
    ]
    inputs, problems, notes = naming.find(
        flags.input, recursive=flags.recursive, outs=[out, *other_outputs]
    )
    todo = naming.assign(
        inputs, out, ext=flags.ext, suffix=flags.suffix, resume=flags.skip_existing
    )
    comparisons.require_apart(todo, other_outputs, flags.report)
    _require_lossy(todo, flags.quality)
    # After names are assigned, so that all machines assign the same names.
    first, step = flags.share
    todo, problems = todo[first::step], dict([*problems.items()][first::step])
    earlier = report_lib.figures(flags.report if flags.skip_existing else None)
    report = report_lib.Report(flags.report)
    for text in notes:
        print(f"gendr: warning: {report_lib.printable(text)}", file=sys.stderr)
    try:
        with tidy_when_terminated():
            failed = _work(todo, problems, flags, report, earlier)
    except KeyboardInterrupt:
        resume = "" if flags.skip_existing else " with --skip-existing"
        raise KeyboardInterrupt(
            f"stopped by Ctrl-C. Start the same command again{resume}."
        ) from None
    finally:
        unwritten = report.close()
        if unwritten:
            report_lib.say_error(unwritten)
    return 1 if failed or unwritten else 0


def _work(
    todo: list[Any],
    problems: dict[str, str],
    flags: Any,
    report: report_lib.Report,
    earlier: dict[str, dict],
) -> int:
    """Restore, or estimate with --dry-run; how many images failed."""
    options = picture_options(flags)
    for path, why in problems.items():
        report_lib.say_error(why)
        report({"input": path, "status": "failed", "error": why})
    count = len(todo) + len(problems)
    if flags.dry_run:
        from gendr_jax.cli import restore_cost

        remaining = _without_existing(todo, flags, report, earlier, print)
        failed = restore_cost.show(remaining, count, flags, options, report)
        return len(problems) + failed
    failed = [*problems, *_restore_all(todo, flags, options, report, earlier)]
    if count > 1:  # repeated here: their errors have scrolled away
        for name in failed:
            print(f"failed: {report_lib.printable(name)}")
    print(f"{count - len(failed)} of {count} done")
    return len(failed)


def _require_lossy(todo: list[Any], quality: int | None) -> None:
    """Refuse --quality if no output is JPEG or WebP.

    Raises:
        UsageError: with the remedy.
    """
    from gendr_jax.image_io import FORMATS

    kinds = {FORMATS.get(paths.target.suffix.lower()) for paths in todo}
    if quality is not None and todo and kinds.isdisjoint({"JPEG", "WEBP"}):
        raise UsageError(
            f"--quality is {quality}, and no output is JPEG or WebP; other formats are "
            "lossless. Leave it out, or add --ext jpg."
        )


def picture_options(flags: Any) -> Any:
    """The settings for each image by the flags.

    Raises:
        UsageError: a wrong size.
    """
    from gendr_jax import image_io
    from gendr_jax.image_io.resize import Target
    from gendr_jax.restore.folders.run import PictureOptions

    sizes = {name: getattr(flags, name) for name in SIZES}
    if all(value is None for value in sizes.values()):
        sizes["outscale"] = 4.0
    compare, residual_map = (
        None if name is None else Path(name)
        for name in (flags.compare, flags.residual_map)
    )
    limit = flags.max_input_pixels
    return PictureOptions(
        Target(sizes.pop("outscale"), **sizes),
        metadata=not flags.strip_metadata,
        max_input_pixels=image_io.MAX_PIXELS if limit is None else limit,
        layout=flags.compare_layout,
        max_residual=flags.max_residual,
        refuse=flags.on_residual == "refuse",
        stages=flags.stage_times,
        quality=flags.quality,
        compare=compare,
        residual_map=residual_map,
    )


def _restore_all(
    todo: list[Any],
    flags: Any,
    options: Any,
    report: report_lib.Report,
    earlier: dict[str, dict],
) -> list[str]:
    """Restore the images one by one; the names of those that failed."""
    from gendr_jax.restore.folders import run

    run.clear_leftovers(todo, options)
    failed = []
    with report_lib.progress(len(todo)) as reporter:

        def report_work(state: Any) -> None:
            entry, paths = state.entry, state.paths
            report(entry)
            if warning := entry.get("warning"):
                reporter.say(f"gendr: warning: {warning}")
            if lost := entry.get("metadata_lost"):
                reporter.say(f"gendr: warning: {paths.target} lacks {', '.join(lost)}")
            if entry["status"] == run.FAILED:
                failed.append(str(paths.source))
                reporter.say(f"gendr: error: {entry['error']}")
                reporter.advance("")
                return
            size = f"{entry['width']}x{entry['height']}"
            seconds = f"{entry['seconds']:.1f} s"
            reporter.advance(f"{paths.source} -> {paths.target} {size} {seconds}")

        remaining = _without_existing(todo, flags, report, earlier, reporter.advance)
        run.run(
            remaining,
            options,
            lambda: open_restorer(flags),
            report_work,
            reporter.tiles,
        )
    return failed


def _without_existing(
    todo: list[Any],
    flags: Any,
    report: report_lib.Report,
    earlier: dict[str, dict],
    advance: Callable[[str], None],
) -> list[Any]:
    """The images without an output file; for others report the earlier figures."""
    from gendr_jax.restore.folders import run

    remaining = []
    for paths in todo:
        if flags.skip_existing and run.is_there(paths.target):
            names = {"input": str(paths.source), "output": str(paths.target)}
            known = earlier.get(str(paths.target), {})
            report({**known, **names, "status": run.SKIPPED, "error": None})
            advance(report_lib.printable(f"{paths.target} exists already"))
        else:
            remaining.append(paths)
    return remaining


def open_restorer(flags: Any) -> Any:
    """The restorer with the weights and options of the flags.

    Raises:
        UsageError: weights that cannot be read, or wrong flags.
    """
    from gendr_jax.cli.common import cache_programs, silence_libraries

    silence_libraries()
    cache_programs()
    from gendr_jax.restore.pipeline import MAX_PIXELS, Restorer

    with weights_are_configuration():
        return Restorer.from_pretrained(
            flags.weights,
            dtype_of(flags),
            mesh_of(flags),
            color_fix=flags.color_fix,
            color_fix_strength=flags.color_fix_strength,
            strength=flags.strength,
            pad_cfg=flags.pad_cfg,
            fidelity=flags.fidelity,
            faithful=flags.faithful,
            tile=flags.tile,
            tile_overlap=flags.tile_overlap,
            batch=flags.batch,
            max_pixels=MAX_PIXELS if flags.max_pixels is None else flags.max_pixels,
        )
