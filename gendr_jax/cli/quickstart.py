"""`gendr quickstart`: restore photographs of scikit-image, write a comparison image."""

from pathlib import Path

from gendr_jax.cli.common import DEFAULT_WEIGHTS, Parser, tidy_when_terminated


def main(args: list[str]) -> int:
    """Run the command; the exit status.

    Raises:
        UsageError: unknown flags, scikit-image is not installed, or the folder has
            files that quickstart has not made and would replace.
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
        print(f"restoring with {DEFAULT_WEIGHTS}; the first run compiles", flush=True)
        shown = comparison.shipped()
        target = comparison.save_picture(shown, flags.workdir)
    for x in shown:
        print(f"  {x.name:<10} bicubic {x.bicubic:.2f} dB, GenDR {x.ours:.2f} dB")
    print(f"restored: {target}")
    bicubic, ours = comparison.means(shown)
    print(f"PSNR bicubic {bicubic:.2f} dB, GenDR {ours:.2f} dB")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "gendr quickstart",
        "Restore sample photographs (of scikit-image) with the shipped weights and\n"
        "write a comparison image.",
    )
    add = parser.add_argument
    add("--workdir", type=Path, default=Path("gendr_quickstart"), metavar="DIR")
    add(
        "--train",
        action="store_true",
        help="train tiny networks first: three stages, about nine minutes",
    )
    return parser
