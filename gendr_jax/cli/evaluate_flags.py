"""The flags of `gendr evaluate`, and which of them exclude or need each other."""

from typing import Any

from gendr_jax.cli.common import DEFAULT_WEIGHTS, Parser
from gendr_jax.errors import UsageError

PARAMETERS = ("niqe", "lpips", "dists", "dino")  # metrics with a flag for their files


def parse(args: list[str]) -> Any:
    """The flags, checked.

    Raises:
        UsageError: unknown flags, or flags that exclude each other.
    """
    flags = _parser().parse_args(args)
    _check(flags)
    return flags


def _parser() -> Parser:
    parser = Parser(
        "gendr evaluate",
        "Measure restored images alone, with ground truth or with their inputs, and\n"
        "compare several methods. Images are paired by file name.",
    )
    add = parser.add_argument
    add(
        "--sr",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="restored images, repeat for each method; --sr bicubic enlarges --lr",
    )
    add(
        "--restore",
        action="append",
        default=[],
        metavar="[NAME=]WEIGHTS",
        help="restore --lr with these weights and measure the results; "
        f"{DEFAULT_WEIGHTS} if no method is given",
    )
    add(
        "--dtype",
        choices=["bf16", "fp32"],
        help="compute dtype of --restore (default: as gendr restore)",
    )
    add("--gt", metavar="DIR", help="ground truth (high-quality images)")
    add("--lr", metavar="DIR", help="low-quality inputs")
    add(
        "--set",
        metavar="NAME",
        help="a published test set in --root: RealSR, DRealSR, ...",
    )
    add("--root", metavar="DIR", help="folder of the test sets of --set")
    add(
        "-s",
        "--scale",
        type=float,
        help="scale from inputs to results (default: from --gt; 4 without it)",
    )
    add(
        "--partial",
        action="store_true",
        help="allow methods without some of the images",
    )
    add(
        "--sr-suffix",
        default="",
        metavar="TEXT",
        help="ending of result names: _SwinIR",
    )
    add("--lr-suffix", default="", metavar="TEXT", help="ending of --lr names: x4")
    add(
        "--sr-template",
        default="",
        metavar="TEXT",
        help="names of results, {} is the name of the ground truth: SR_{}_x4",
    )
    add("--lr-template", default="", metavar="TEXT", help="names of --lr: {}-small")
    add(
        "--by-order",
        action="store_true",
        help="pair images in order of names if no names match",
    )
    add("--recursive", action="store_true", help="search subfolders")
    _metric_flags(parser.add_argument_group("metrics"))
    _output_flags(parser.add_argument_group("results"))
    return parser


def _metric_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "--metrics",
        metavar="LIST",
        help="such as psnr,ssim,niqe (default: all that the inputs allow)",
    )
    add(
        "--channel",
        choices=["y", "rgb"],
        default="y",
        help="for psnr and ssim (default: y)",
    )
    add(
        "--crop",
        type=int,
        default=0,
        metavar="N",
        help="pixels cropped at each border (default: 0)",
    )
    add("--niqe", metavar="PATH", help="NIQE parameters, or photographs to fit them to")
    for name, network in (("lpips", "LPIPS"), ("dists", "DISTS"), ("dino", "DINOv2")):
        add(f"--{name}", metavar="PATH", help=f"weights of {network}")
    add(
        "--tile",
        type=int,
        default=512,
        metavar="N",
        help="tile size of the metric seam (default: 512)",
    )
    add(
        "--tile-overlap",
        type=int,
        metavar="N",
        help="overlap of the metric seam (default: a quarter)",
    )


def _output_flags(group: Any) -> None:
    add = group.add_argument
    add("-o", "--output", metavar="FILE.json", help="all results as JSON")
    add("--csv", metavar="FILE.csv", help="one line per image and method")
    add("--html", metavar="FILE.html", help="report with images in one file")
    add(
        "--crops",
        type=int,
        default=24,
        metavar="N",
        help="number of crops in the report (default: 24)",
    )


def _check(flags: Any) -> None:
    if not flags.sr and not flags.restore:
        if not (flags.lr or flags.set):
            raise UsageError("no method is given. Give a folder of results with --sr.")
        flags.restore.append(DEFAULT_WEIGHTS)
    if (flags.set is None) != (flags.root is None):
        raise UsageError("--set and --root need each other. Give both or neither.")
    if flags.set and (flags.gt or flags.lr):
        raise UsageError("--set determines --gt and --lr. Leave these out.")
    for name, least in (("crop", 0), ("crops", 0), ("tile", 1), ("scale", 1)):
        value = getattr(flags, name)
        if value is not None and not value >= least:
            raise UsageError(
                f"--{name} is {value}, it must be {least} or more. Change it."
            )
