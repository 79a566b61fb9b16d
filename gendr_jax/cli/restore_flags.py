"""The flags of `gendr restore`, and the checks of their values.

Imports nothing heavy, so that --help answers at once.
"""

from argparse import ArgumentTypeError
from typing import Any, NoReturn

from gendr_jax.cli.common import DEFAULT_WEIGHTS, Parser
from gendr_jax.errors import UsageError

# (flag, its default, the flag without which it has no effect)
IDLE_WITHOUT = (
    ("on_residual", "warn", "max_residual"),
    ("compare_layout", "side", "compare"),
    ("stage_times", False, "report"),
)


def parse(args: list[str]) -> Any:
    """The flags, checked without reading files.

    Raises:
        UsageError: unknown flags or wrong values.
    """
    flags = _parser().parse_args(args)
    _check(flags)
    return flags


def _parser() -> Parser:
    parser = Parser(
        "gendr restore",
        "Enlarge and restore photographs: PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, PPM,\n"
        "of 8 or 16 bits a channel, grey or colour, with or without transparency.",
    )
    add = parser.add_argument
    add(
        "-i",
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files or folders",
    )
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder, or a file for one input",
    )
    add(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="NAME|DIR",
        help=f"name, folder or Hub id (default: {DEFAULT_WEIGHTS})",
    )
    _size_flags(parser.add_mutually_exclusive_group())
    _network_flags(parser.add_argument_group("networks"))
    _file_flags(parser.add_argument_group("files"))
    _check_flags(parser.add_argument_group("checks"))
    return parser


def _size_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "-s",
        "--outscale",
        type=float,
        metavar="F",
        help="scale factor, 1 to 16 (default: 4)",
    )
    add("--width", type=int, metavar="W", help="exact width of the output in pixels")
    add("--height", type=int, metavar="H", help="exact height of the output in pixels")
    add(
        "--longest-side",
        type=int,
        metavar="L",
        help="exact longer side of the output in pixels",
    )
    add(
        "--megapixels",
        type=float,
        metavar="M",
        help="size of the output in millions of pixels",
    )


def _network_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "-t",
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|0|N",
        help="tile size in output pixels; 0: no tiles (default: auto)",
    )
    add(
        "--tile-overlap",
        type=int,
        metavar="N",
        help="overlap of tiles in output pixels (default: a quarter)",
    )
    add(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="images of one size per pass",
    )
    add(
        "--mesh", metavar="AXES", help='devices, "data=8,space=1" (default: one device)'
    )
    add(
        "--color-fix",
        choices=["adain", "wavelet", "lab", "none"],
        default="adain",
        help="how colours are matched to those of the input (default: adain)",
    )
    add(
        "--color-fix-strength",
        type=float,
        default=1.0,
        metavar="F",
        help="strength of the colour fix, 0 to 1 (default: 1)",
    )
    add(
        "--strength",
        type=float,
        default=1.0,
        metavar="F",
        help="blend: 1 restored, 0 plain bicubic enlargement (default: 1)",
    )
    add(
        "--fidelity",
        type=float,
        metavar="F",
        help="blend two weights: 0 is --weights, 1 is --faithful, which keeps closer "
        "to the input (default: --weights alone)",
    )
    add(
        "--faithful",
        metavar="NAME|DIR",
        help="the second weights of --fidelity, of the same architecture",
    )
    add(
        "--pad-cfg",
        type=float,
        default=1.0,
        metavar="W",
        help="PadCFG guidance for weights of kind pix, two passes per image; above 1 "
        "sharpens (default: 1, off)",
    )
    add(
        "--dtype",
        choices=["bf16", "fp32"],
        help="compute dtype (default: bf16; fp32 on a CPU)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="no effect: restoring is deterministic",
    )
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="with --tile 0: largest output allowed (default: 4194304 = 2048x2048)",
    )


def _share(text: str) -> tuple[int, int]:
    """(start, step) of the slice of images."""
    first, _, count = text.partition("/")
    if first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count):
        return int(first) - 1, int(count)
    raise ArgumentTypeError(f"{text!r} is not K/N, the first of four is 1/4")


def _tile(text: str) -> str | int:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise ArgumentTypeError(f"{text!r} is not auto, 0 or a number of pixels")


def _file_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "--ext",
        choices=["auto", "png", "jpg", "webp", "tiff"],
        default="auto",
        help="format of the output (default: auto, as the input)",
    )
    add(
        "--quality",
        type=int,
        metavar="N",
        help="1 to 100, for JPEG (default: 95) and WebP (default: lossless)",
    )
    add("--suffix", default="", metavar="S", help="added to file names, such as _x4")
    add(
        "--recursive",
        action="store_true",
        help="search subfolders, and keep them in OUT",
    )
    add("--skip-existing", action="store_true", help="skip inputs whose output exists")
    add(
        "--share",
        type=_share,
        default="1/1",
        metavar="K/N",
        help="every Nth image from the Kth on, to split a folder over machines",
    )
    add(
        "--strip-metadata",
        action="store_true",
        help="write no EXIF, XMP, IPTC or ICC profile (colours become sRGB)",
    )
    add(
        "--max-input-pixels",
        type=int,
        metavar="N",
        help="refuse larger inputs, against decompression bombs (default: 89478485)",
    )
    add("--compare", metavar="DIR", help="write before/after images to this folder")
    add(
        "--compare-layout",
        choices=["side", "split"],
        default="side",
        help="side by side, or one image split in the middle (default: side)",
    )


def _check_flags(group: Any) -> None:
    add = group.add_argument
    add(
        "--dry-run",
        action="store_true",
        help="print sizes, memory and time without restoring",
    )
    add("--report", metavar="FILE.jsonl", help="write one JSON line per image")
    add(
        "--stage-times",
        action="store_true",
        help="time each network for the report; compiles each separately",
    )
    add(
        "--max-residual",
        type=float,
        metavar="F",
        help="warn if an output, reduced again, differs more from the input (0 to 1)",
    )
    add(
        "--on-residual",
        choices=["warn", "refuse"],
        default="warn",
        help="above --max-residual: warn, or write nothing (default: warn)",
    )
    add(
        "--residual-map",
        metavar="DIR",
        help="write maps of that difference to this folder",
    )


def _check(flags: Any) -> None:
    for name in ("output", "weights", "faithful", "compare", "residual_map", "report"):
        if getattr(flags, name) == "":
            raise UsageError(f"--{name.replace('_', '-')} is empty. Give a path.")
    if "" in flags.input:
        raise UsageError("a path of --input is empty. Leave it out, or correct it.")
    if set(flags.suffix) & {"/", "\0"}:
        _refuse("suffix", repr(flags.suffix), "it must not contain a slash")
    for name in ("strength", "color_fix_strength", "fidelity", "max_residual"):
        value = getattr(flags, name)
        if value is not None and not 0 <= value <= 1:
            _refuse(name, value, "it must be from 0 to 1")
    for name in ("max_input_pixels", "max_pixels", "batch"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            _refuse(name, value, "it must be above 0")
    if flags.quality is not None and not 1 <= flags.quality <= 100:
        _refuse("quality", flags.quality, "it must be from 1 to 100")
    if flags.tile_overlap is not None and flags.tile_overlap < 0:
        _refuse("tile_overlap", flags.tile_overlap, "it must be 0 or more")
    for name, default, needed in IDLE_WITHOUT:
        if getattr(flags, name) != default and getattr(flags, needed) in (None, False):
            flag, other = (f"--{x.replace('_', '-')}" for x in (name, needed))
            raise UsageError(f"{flag} has no effect without {other}. Add {other}.")


def _refuse(name: str, value: Any, why: str) -> NoReturn:
    raise UsageError(f"--{name.replace('_', '-')} is {value}, {why}. Change it.")
