"""`gendr restore`: photographs in, larger ones out.

What lives here: flags and what they mean. What does not: the loop over files
(restore_files.py), their names (jobs.py), pixels (gendr_jax/restore/).
"""

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, NoReturn

from gendr_jax.cli import report as report_lib
from gendr_jax.cli.parser import Parser
from gendr_jax.errors import UsageError

SIZES = ("outscale", "width", "height", "longest_side", "megapixels")


def main(args: list[str]) -> int:
    """Run the command; 0 when all pictures were done, 1 when some failed.

    Raises:
        UsageError: flags or names that cannot be used.
        InputError: weights that cannot be read.
    """
    flags = _parser().parse_args(args)
    if flags.weights is None:
        raise UsageError("--weights is missing. Name the weights folder.")
    _check(flags)
    from gendr_jax.cli import jobs

    out = Path(flags.output)
    found, problems = jobs.find(flags.input, recursive=flags.recursive, out=out)
    todo = jobs.assign(found, out, ext=flags.ext, suffix=flags.suffix)
    with report_lib.lines(flags.report) as report:
        for path, why in problems.items():
            report_lib.say_error(why)
            report({"input": path, "status": "failed", "error": why})
        if flags.dry_run:
            from gendr_jax.cli import restore_cost

            failed = len(problems) + restore_cost.show(
                todo, flags, wishes(flags), report
            )
            return 1 if failed else 0
        failed = len(problems) + _restore_all(todo, flags, report)
    count = len(todo) + len(problems)
    print(f"{count - failed} of {count} done")
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser(
        "gendr restore",
        "Enlarge and restore photographs: PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, PPM,\n"
        "of 8 or 16 bits a channel, grey or colour, with or without transparency.",
    )
    add = parser.add_argument
    add(
        "-i", "--input", nargs="+", required=True, metavar="PATH", help="files, folders"
    )
    add("-o", "--output", required=True, metavar="OUT", help="folder, or file for one")
    add("--weights", metavar="DIR", help="weights folder (or a Hub id)")
    _size_flags(parser.add_mutually_exclusive_group())
    _network_flags(parser.add_argument_group("networks"))
    _file_flags(parser.add_argument_group("files"))
    _check_flags(parser.add_argument_group("checks"))
    return parser


def _size_flags(group: Any) -> None:
    add = group.add_argument
    add("-s", "--outscale", type=float, help="times larger, 1 to 16 (default: 4)")
    add("--width", type=int, metavar="W", help="exact width of results in pixels")
    add("--height", type=int, metavar="H", help="exact height")
    add("--longest-side", type=int, metavar="L", help="exact longer side")
    add("--megapixels", type=float, metavar="M", help="millions of pixels")


def _network_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "-t",
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|0|N",
        help="side in output pixels of what is done at once; 0: all (default: auto)",
    )
    add("--tile-overlap", type=int, metavar="N", help="(default: a quarter of a tile)")
    add("--batch", type=int, default=1, metavar="N", help="pictures of a size at once")
    add("--mesh", metavar="AXES", help='devices, "data=8,space=1" (default: one)')
    add(
        "--color-fix",
        choices=["adain", "wavelet", "lab", "none"],
        default="adain",
        help="how results get the colours of inputs (default: adain)",
    )
    add(
        "--color-fix-strength",
        type=float,
        default=1.0,
        metavar="F",
        help="how much of it, 0 to 1 (default: 1)",
    )
    add(
        "--strength",
        type=float,
        default=1.0,
        metavar="F",
        help="1 the networks' picture, 0 plain enlargement (default: 1)",
    )
    add("--dtype", choices=["bf16", "fp32"], help="(default: bf16; fp32 on a CPU)")
    add("--seed", type=int, default=0, help="no effect: no random numbers are drawn")
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="with --tile 0: refuse larger outputs (default: 4194304 = 2048x2048)",
    )


def _tile(text: str) -> str | int:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise ArgumentTypeError(f"{text!r} is no tile, there are auto, 0 and pixels")


def _file_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "--ext",
        choices=["auto", "png", "jpg", "webp", "tiff"],
        default="auto",
        help="format of results (default: auto, that of the input)",
    )
    add("--suffix", default="", metavar="S", help="added to the names of results")
    add("--recursive", action="store_true", help="folders below folders; tree is kept")
    add("--skip-existing", action="store_true", help="leave results that are there")
    add(
        "--strip-metadata",
        action="store_true",
        help="no EXIF, XMP, IPTC, profile (colours become sRGB)",
    )
    add(
        "--max-input-pixels",
        type=int,
        metavar="N",
        help="refuse larger files, as bombs (default: 89478485)",
    )
    add("--compare", metavar="DIR", help="write pictures of before and after there")
    add(
        "--compare-layout",
        choices=["side", "split"],
        default="side",
        help="side by side, or one picture split in the middle (default: side)",
    )


def _check_flags(group: Any) -> None:
    add = group.add_argument
    add("--dry-run", action="store_true", help="sizes and costs; reads no weights")
    add("--report", metavar="FILE.jsonl", help="write one JSON line a picture")
    add(
        "--stage-times",
        action="store_true",
        help="time the networks apart for the report, which compiles them once more",
    )
    add(
        "--max-residual",
        type=float,
        metavar="F",
        help="name results that, reduced again, differ by more from the input (0 to 1)",
    )
    add(
        "--on-residual",
        choices=["warn", "refuse"],
        default="warn",
        help="above that: warn, or refuse to write (default: warn)",
    )
    add("--residual-map", metavar="DIR", help="write maps of the difference there")


def _check(flags: Any) -> None:
    for name in ("strength", "color_fix_strength", "max_residual"):
        value = getattr(flags, name)
        if value is not None and not 0 <= value <= 1:
            _refuse(name, value, "it goes from 0 to 1")
    for name in ("max_input_pixels", "max_pixels"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            _refuse(name, value, "it must be above 0")


def _refuse(name: str, value: Any, why: str) -> NoReturn:
    raise UsageError(f"--{name.replace('_', '-')} is {value}, {why}. Change it.")


def wishes(flags: Any) -> Any:
    """What flags say of each picture.

    Raises:
        UsageError: a size that is none.
    """
    from gendr_jax.cli.restore_files import Wishes
    from gendr_jax.restore import image_io
    from gendr_jax.restore.resize import Target

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


def _restore_all(todo: list[Any], flags: Any, report: Any) -> int:
    """Restore the pictures one by one; how many failed."""
    from gendr_jax.cli import restore_files

    failed = 0
    with report_lib.progress(len(todo)) as (advance, say):

        def tell(work: Any) -> None:
            nonlocal failed
            entry, job = work.entry, work.job
            report(entry)
            if warning := entry.get("warning"):
                say(f"gendr: warning: {warning}")
            if entry["status"] == restore_files.FAILED:
                failed += 1
                say(f"gendr: error: {entry['error']}")
                advance("")
                return
            size = f"{entry['width']}x{entry['height']}"
            advance(f"{job.source} -> {job.target} {size} {entry['seconds']:.1f} s")

        left = []
        for job in todo:
            if flags.skip_existing and job.target.exists():
                names = {"input": str(job.source), "output": str(job.target)}
                report({**names, "status": restore_files.SKIPPED})
                advance(f"{job.target} is there already")
            else:
                left.append(job)
        restore_files.run(left, wishes(flags), lambda: open_restorer(flags), tell)
    return failed


def open_restorer(flags: Any) -> Any:
    """Read the weights that flags name, ready to restore as they say."""
    from gendr_jax.cli.quiet import cache_programs, quiet

    quiet()
    cache_programs()
    from gendr_jax.restore.pipeline import MAX_PIXELS, Restorer

    return Restorer.from_pretrained(
        flags.weights,
        dtype_of(flags),
        mesh_of(flags),
        color_fix=flags.color_fix,
        color_fix_strength=flags.color_fix_strength,
        strength=flags.strength,
        tile=flags.tile,
        tile_overlap=flags.tile_overlap,
        batch=flags.batch,
        max_pixels=MAX_PIXELS if flags.max_pixels is None else flags.max_pixels,
    )


def dtype_of(flags: Any) -> str:
    """What --dtype says, or what suits the device."""
    import jax

    # Processors have no bfloat16 arithmetic worth the name.
    return flags.dtype or ("fp32" if jax.default_backend() == "cpu" else "bf16")


def mesh_of(flags: Any) -> Any:
    """The devices of --mesh; None is the first one."""
    from gendr_jax import sharding

    if flags.mesh is None:
        return None
    named = {part.partition("=")[0].strip() for part in flags.mesh.split(",")}
    if named & {sharding.DCN, sharding.FSDP}:
        raise UsageError(
            f"--mesh {flags.mesh}: restoring has the axes data and space. "
            "Write it as data=2,space=4."
        )
    return sharding.make_mesh(flags.mesh)
