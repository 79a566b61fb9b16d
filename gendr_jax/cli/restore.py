"""`gendr restore`: photographs in, larger ones out."""

from pathlib import Path
from typing import Any

from gendr_jax.cli import restore_flags
from gendr_jax.cli.common import tidy_when_terminated
from gendr_jax.cli.restore_devices import (
    dtype_of,
    mesh_of,
    weights_are_configuration,
)
from gendr_jax.restore.folders import report as report_lib

SIZES = ("outscale", "width", "height", "longest_side", "megapixels")


def main(args: list[str]) -> int:
    """Run the command; 0 when all pictures were done, 1 when some failed.

    Raises:
        UsageError: flags or names that cannot be used, weights that cannot be read.
    """
    flags = restore_flags.parse(args)
    from gendr_jax.restore.folders import comparisons, naming

    out = Path(flags.output)
    more = [Path(p) for p in (flags.compare, flags.residual_map) if p is not None]
    found, problems = naming.find(
        flags.input, recursive=flags.recursive, outs=[out, *more]
    )
    todo = naming.assign(
        found, out, ext=flags.ext, suffix=flags.suffix, resume=flags.skip_existing
    )
    comparisons.require_apart(todo, more, flags.report)
    # Of names that are settled: all machines agree on them.
    first, step = flags.share
    todo, problems = todo[first::step], dict([*problems.items()][first::step])
    wished = wishes(flags)
    with report_lib.lines(flags.report) as report, tidy_when_terminated():
        for path, why in problems.items():
            report_lib.say_error(why)
            report({"input": path, "status": "failed", "error": why})
        if flags.dry_run:
            from gendr_jax.cli import restore_cost

            failed = len(problems) + restore_cost.show(todo, flags, wished, report)
            return 1 if failed else 0
        failed = [*problems, *_restore_all(todo, flags, wished, report)]
    count = len(todo) + len(problems)
    if count > 1:  # their reasons have scrolled away
        for name in failed:
            print(f"failed: {report_lib.printable(name)}")
    print(f"{count - len(failed)} of {count} done")
    return 1 if failed else 0


def wishes(flags: Any) -> Any:
    """What flags say of each picture.

    Raises:
        UsageError: a size that is none.
    """
    from gendr_jax import image_io
    from gendr_jax.image_io.resize import Target
    from gendr_jax.restore.folders.run import Wishes

    sizes = {name: getattr(flags, name) for name in SIZES}
    if all(value is None for value in sizes.values()):
        sizes["outscale"] = 4.0
    folders = {
        name: None if value is None else Path(value)
        for name, value in (
            ("compare", flags.compare),
            ("residual_map", flags.residual_map),
        )
    }
    limit = flags.max_input_pixels
    return Wishes(
        Target(sizes.pop("outscale"), **sizes),
        metadata=not flags.strip_metadata,
        max_input_pixels=image_io.MAX_PIXELS if limit is None else limit,
        layout=flags.compare_layout,
        max_residual=flags.max_residual,
        refuse=flags.on_residual == "refuse",
        stages=flags.stage_times,
        **folders,
    )


def _restore_all(todo: list[Any], flags: Any, wished: Any, report: Any) -> list[str]:
    """Restore the pictures one by one; those that failed."""
    from gendr_jax.restore.folders import run

    failed = []
    with report_lib.progress(len(todo)) as (advance, say):

        def tell(work: Any) -> None:
            entry, job = work.entry, work.job
            report(entry)
            if warning := entry.get("warning"):
                say(f"gendr: warning: {warning}")
            if entry["status"] == run.FAILED:
                failed.append(str(job.source))
                say(f"gendr: error: {entry['error']}")
                advance("")
                return
            size = f"{entry['width']}x{entry['height']}"
            advance(f"{job.source} -> {job.target} {size} {entry['seconds']:.1f} s")

        left = []
        for job in todo:
            if flags.skip_existing and job.target.exists():
                names = {"input": str(job.source), "output": str(job.target)}
                report({**names, "status": run.SKIPPED})
                advance(f"{job.target} is there already")
            else:
                left.append(job)
        run.run(left, wished, lambda: open_restorer(flags), tell)
    return failed


def open_restorer(flags: Any) -> Any:
    """Read the weights that flags name, ready to restore as they say.

    Raises:
        UsageError: weights that cannot be read, or flags that cannot be used.
    """
    from gendr_jax.cli.common import cache_programs, quiet

    quiet()
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
            tile=flags.tile,
            tile_overlap=flags.tile_overlap,
            batch=flags.batch,
            max_pixels=MAX_PIXELS if flags.max_pixels is None else flags.max_pixels,
        )
