"""`gendr restore`: photographs in, larger ones out.

What lives here: flags, the loop over files, the report. What does not: names of files
(jobs.py), pixels (gendr_jax/restore/).
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from gendr_jax.cli.parser import Parser
from gendr_jax.errors import GendrError, InputError, UsageError

DONE, FAILED, SKIPPED = "done", "failed", "skipped"


def main(args: list[str]) -> int:
    """Run the command; 0 when all pictures were done, 1 when some failed.

    Raises:
        UsageError: flags or names that cannot be used.
        InputError: weights that cannot be read.
    """
    flags = _parser().parse_args(args)
    if flags.weights is None:
        raise UsageError("--weights is missing. Name the weights folder.")
    from gendr_jax.cli import jobs

    out = Path(flags.output)
    found, problems = jobs.find(flags.input, recursive=flags.recursive, out=out)
    todo = jobs.assign(found, out, ext=flags.ext, suffix=flags.suffix)
    with ExitStack() as stack:
        report = stack.enter_context(_report(flags.report))
        for path, why in problems.items():
            _say_error(why)
            report(input=path, status=FAILED, error=why)
        failed = len(problems) + _restore_all(todo, flags, report)
    print(f"{len(todo) + len(problems) - failed} of {len(todo) + len(problems)} done")
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser(
        "gendr restore",
        "Enlarge and restore photographs: PNG, JPEG, WebP, TIFF, BMP, GIF, PPM.\n"
        "8 bits a channel in grey or colour with or without transparency, 16 bits in "
        "grey.",
    )
    add = parser.add_argument
    add(
        "-i", "--input", nargs="+", required=True, metavar="PATH", help="files, folders"
    )
    add("-o", "--output", required=True, metavar="OUT", help="folder, or file for one")
    add("--weights", metavar="DIR", help="weights folder (or a Hub id)")
    add("-s", "--outscale", type=float, default=4.0, help="times larger (default: 4)")
    add(
        "--color-fix",
        choices=["adain", "none"],
        default="adain",
        help="(default: adain)",
    )
    add("--dtype", choices=["bf16", "fp32"], help="(default: bf16; fp32 on a CPU)")
    add(
        "--ext",
        choices=["auto", "png", "jpg", "webp", "tiff"],
        default="auto",
        help="format of results (default: auto, that of the input)",
    )
    add("--suffix", default="", metavar="S", help="added to the names of results")
    add("--recursive", action="store_true", help="folders below folders; tree is kept")
    add("--skip-existing", action="store_true", help="leave results that are there")
    add("--report", metavar="FILE.jsonl", help="write one JSON line a picture")
    add("--seed", type=int, default=0, help="no effect: no random numbers are drawn")
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="refuse larger outputs (default: 4194304 = 2048x2048)",
    )
    return parser


def _restore_all(todo: list[Any], flags: Any, report: Any) -> int:
    """Restore the pictures one by one; how many failed."""
    restorer, failed = None, 0
    with _progress(len(todo)) as (advance, say):
        for job in todo:
            entry = {"input": str(job.source), "output": str(job.target)}
            if flags.skip_existing and job.target.exists():
                report(**entry, status=SKIPPED)
                advance(f"{job.target} is there already")
                continue
            # Weights are read for the first picture that needs them, and errors in
            # them end the command.
            restorer = restorer or _restorer(flags)
            try:
                entry |= _restore_one(restorer, job, flags.outscale)
            except (InputError, OSError, MemoryError) as error:
                failed += 1
                why = _one_line(error, job.source)
                say(why)
                report(**entry, status=FAILED, error=why)
                advance("")
            else:
                report(**entry, status=DONE)
                size, seconds = f"{entry['width']}x{entry['height']}", entry["seconds"]
                advance(f"{job.source} -> {job.target} {size} {seconds:.1f} s")
    return failed


def _restorer(flags: Any) -> Any:
    from gendr_jax.cli.quiet import cache_programs, quiet

    quiet()
    cache_programs()
    import jax

    from gendr_jax.restore.pipeline import MAX_PIXELS, Restorer

    # Processors have no bfloat16 arithmetic worth the name.
    dtype = flags.dtype or ("fp32" if jax.default_backend() == "cpu" else "bf16")
    limit = MAX_PIXELS if flags.max_pixels is None else flags.max_pixels
    return Restorer.from_pretrained(
        flags.weights, dtype, color_fix=flags.color_fix, max_pixels=limit
    )


def _restore_one(restorer: Any, job: Any, scale: float) -> dict[str, Any]:
    from gendr_jax.restore import image_io

    begin = time.perf_counter()
    image = image_io.read(job.source)
    compiled = not restorer.is_compiled(restorer.padded_size(image, scale))
    restored = restorer.restore([image], scale)[0]
    job.target.parent.mkdir(parents=True, exist_ok=True)
    image_io.write(job.target, restored)
    height, width = restored.pixels_hwc.shape[:2]
    return {
        "width": width,
        "height": height,
        "seconds": round(time.perf_counter() - begin, 3),
        "tiles": 1,
        "compiled": compiled,
    }


def _one_line(error: Exception, source: Path) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "memory is exhausted. Use a smaller scale, or cut the picture."
    elif not isinstance(error, GendrError):
        text = f"{text}. Check the path, permissions and space."
    return text if str(source) in text else f"{source}: {text}"


def _say_error(text: str) -> None:
    print(f"gendr: error: {text}", file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[tuple[Any, Any]]:
    """(advance(line), say(error)): a bar on a terminal, plain lines otherwise."""
    if not sys.stderr.isatty():
        yield (lambda line: line and print(line, flush=True)), _say_error
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="image") as bar:
        yield (
            lambda line: bar.update(),
            lambda text: bar.write(f"gendr: error: {text}", file=sys.stderr),
        )


@contextmanager
def _report(path: str | None) -> Iterator[Any]:
    """A function that writes one line a picture; absent values are null."""
    if path is None:
        yield lambda **entry: None
        return
    try:
        file: TextIO = open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--report {path} cannot be written ({error.strerror}). Name another file."
        ) from error
    keys = "input output width height seconds tiles compiled status error".split()
    with file:

        def write(**entry: Any) -> None:
            line = json.dumps({key: entry.get(key) for key in keys})
            print(line, file=file, flush=True)

        yield write
