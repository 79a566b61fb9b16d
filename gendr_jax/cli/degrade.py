"""`gendr degrade`: a folder of good pictures to pairs, DIR/LR and DIR/HR.

What lives here: flags. What does not: the loop over files (data/degrade_folder.py).
Heavy imports wait until there is something to do.
"""

import argparse
import sys
from pathlib import Path

from gendr_jax.errors import UsageError


def main(args: list[str]) -> int:
    """Run the command; 0 when all pictures were done, 1 when some failed.

    Raises:
      UsageError: the settings cannot be run.
    """
    flags = _parser().parse_args(args)
    if not 1 <= flags.scale <= 8:
        raise UsageError(f"scale {flags.scale} is not in 1..8. Give another with -s.")
    if not 0 <= flags.seed < 2**31:
        raise UsageError(f"seed {flags.seed} is not in 0..2147483647. Give another.")
    from tqdm import tqdm

    from gendr_jax.cli.common import cache_programs, tidy_when_terminated
    from gendr_jax.data import degrade_folder
    from gendr_jax.data.degrade import recipe

    settings = degrade_folder.Settings(
        Path(flags.input),
        Path(flags.output),
        recipe(flags.preset),
        flags.scale,
        flags.seed,
        flags.resume,
    )
    cache_programs()
    with tidy_when_terminated():
        summary = degrade_folder.run(
            settings,
            progress=lambda n: tqdm(n, unit="image", disable=not sys.stderr.isatty()),
            report=lambda line: tqdm.write(f"gendr: error: {line}", file=sys.stderr),
        )
    kept = f" ({summary.kept} were there)" if summary.kept else ""
    total = summary.pairs + len(summary.problems)
    print(f"{summary.pairs} of {total} pictures -> {settings.out / 'LR'}{kept}")
    return 1 if summary.problems else 0


def _parser() -> argparse.ArgumentParser:
    from gendr_jax.data.degrade.recipe import DEFAULT, PRESETS
    from gendr_jax.data.pairs_manifest import NAME

    parser = argparse.ArgumentParser(
        prog="gendr degrade",
        description="Make training pairs: low-quality copies of photographs in "
        f"DIR/LR, the originals in DIR/HR, what was done to each in DIR/{NAME}.",
    )
    add = parser.add_argument
    add("-i", "--input", required=True, metavar="HQ_DIR", help="folder of photographs")
    add(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder for LR, HR and manifest.jsonl",
    )
    add("-s", "--scale", type=int, default=4, help="reduction factor (default: 4)")
    known = ", ".join(PRESETS)
    add("--preset", default=DEFAULT, help=f"{known} (default: {DEFAULT})")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add("--resume", action="store_true", help="continue an interrupted run")
    return parser
