"""`gendr quickstart`: photographs that pip installed, restored, and a picture of it.

Three stages through the same code as `gendr train`, then one picture restored through
the same code as `gendr restore`.
"""

from pathlib import Path

from gendr_jax.cli.common import DEFAULT_WEIGHTS, Parser, tidy_when_terminated


def main(args: list[str]) -> int:
    """Restore and show; the exit status.

    Raises:
        UsageError: unknown flags, scikit-image is not installed, or the folder has
            work that quickstart has not made and would replace.
    """
    flags = _parser().parse_args(args)
    if flags.train:
        from gendr_jax.cli import quickstart_training

        return quickstart_training.run(flags.workdir)
    from gendr_jax.cli.common import cache_programs, silence_libraries

    silence_libraries()
    cache_programs()
    from gendr_jax.cli import comparison

    with tidy_when_terminated():
        comparison.outputs(flags.workdir).refuse_foreign([comparison.PICTURE])
        print(f"restoring with {DEFAULT_WEIGHTS}; the first time compiles", flush=True)
        shown = comparison.shipped()
        target = comparison.save_picture(shown, flags.workdir)
    for one in shown:
        print(f"  {one.name:<10} bicubic {one.bicubic:.2f} dB, GenDR {one.ours:.2f} dB")
    print(f"restored: {target}")
    bicubic, ours = comparison.means(shown)
    print(f"PSNR bicubic {bicubic:.2f} dB, GenDR {ours:.2f} dB")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "gendr quickstart",
        "Restore sample photographs (of scikit-image) with the shipped weights and\n"
        "write a comparison picture.",
    )
    add = parser.add_argument
    add("--workdir", type=Path, default=Path("gendr_quickstart"), metavar="DIR")
    add(
        "--train",
        action="store_true",
        help="train tiny networks first: three stages, about nine minutes",
    )
    return parser
