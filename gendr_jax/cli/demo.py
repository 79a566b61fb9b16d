"""`gendr demo`: a web page on this machine that restores what is dropped on it."""

import os
from typing import Any

from gendr_jax.cli.parser import Parser
from gendr_jax.errors import UsageError


def main(args: list[str]) -> int:
    """Serve the page until the keyboard stops it.

    Raises:
        UsageError: no weights, no Gradio, or a port that is taken.
        InputError: weights that cannot be read.
    """
    flags = _parser().parse_args(args)
    if flags.weights is None:
        raise UsageError("--weights is missing. Name the weights folder.")
    # Read when Gradio is imported: nothing is sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from gendr_jax.demo import page
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the page needs {error.name}, which is not installed. "
            "pip install 'gendr_jax[demo]'"
        ) from error
    from gendr_jax.demo.engine import Engine

    engine = Engine(lambda tile: _restorer(flags, tile))
    engine.open()
    print(f"http://{flags.host}:{flags.port}  (Ctrl-C stops it)", flush=True)
    try:
        page.serve(
            page.build(engine),
            host=flags.host,
            port=flags.port,
            folder=str(engine.folder),
        )
    except OSError as error:
        raise UsageError(
            f"port {flags.port} cannot be had ({' '.join(str(error).split())}). "
            "Name another --port."
        ) from error
    return 0


def _parser() -> Parser:
    parser = Parser("gendr demo", "A web page with a slider between before and after.")
    add = parser.add_argument
    add("--weights", metavar="DIR", help="weights folder (or a Hub id)")
    add("--port", type=int, default=7860, help="(default: 7860)")
    add("--host", default="127.0.0.1", help="(default: 127.0.0.1, this machine alone)")
    add("--dtype", choices=["bf16", "fp32"], help="(default: bf16; fp32 on a CPU)")
    return parser


def _restorer(flags: Any, tile: Any) -> Any:
    from gendr_jax.cli.quiet import cache_programs, quiet

    quiet()
    cache_programs()
    import jax

    from gendr_jax.restore.pipeline import Restorer

    dtype = flags.dtype or ("fp32" if jax.default_backend() == "cpu" else "bf16")
    return Restorer.from_pretrained(flags.weights, dtype, tile=tile)
