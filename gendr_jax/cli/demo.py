"""`gendr demo`: a web page on this machine that restores images."""

import os
import socket
from typing import Any

from gendr_jax.cli.common import DEFAULT_WEIGHTS, Parser, tidy_when_terminated
from gendr_jax.cli.restore_devices import dtype_of, weights_are_configuration
from gendr_jax.errors import UsageError


def main(args: list[str]) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        UsageError: no weights, Gradio is not installed, or the port is in use.
    """
    flags = _parser().parse_args(args)
    if flags.weights == "":
        raise UsageError("--weights is empty. Give a name or a path.")
    _require_free(flags.host, flags.port)
    from gendr_jax.demo.engine import Engine
    from gendr_jax.weights.resolve import resolve_folder

    with (
        tidy_when_terminated(),
        weights_are_configuration(),
        Engine(lambda tile: _restorer(flags, tile)) as engine,
    ):
        flags.weights = resolve_folder(flags.weights)  # may download a Hub id
        _serve(engine, flags)
    return 0


def _serve(engine: Any, flags: Any) -> None:
    from gendr_jax.demo.engine import DROPPED

    # Gradio reads these when it is imported. No data leaves this machine, and uploaded
    # images are removed when the server ends.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(engine.folder / DROPPED)
    try:
        from gendr_jax.demo import page
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the page needs {error.name}, which is not installed. "
            "pip install 'gendr_jax[demo]'"
        ) from error
    engine.open()
    print(f"http://{flags.host}:{flags.port}  (Ctrl-C stops it)", flush=True)
    built, folder = page.build(engine), str(engine.folder)
    page.serve(built, host=flags.host, port=flags.port, folder=folder)


def _require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be used, before weights are loaded."""
    if not 0 < port < 2**16:
        raise UsageError(f"--port is {port}, not in 1..65535. Change it.")
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise UsageError(
            f"{host}:{port} cannot be used ({reason}). Give another --port or --host."
        ) from error


def _parser() -> Parser:
    parser = Parser(
        "gendr demo", "A web page that restores images, with a before/after slider."
    )
    add = parser.add_argument
    add(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="NAME|DIR",
        help=f"name, folder or Hub id (default: {DEFAULT_WEIGHTS})",
    )
    add("--port", type=int, default=7860, help="(default: 7860)")
    add("--host", default="127.0.0.1", help="(default: 127.0.0.1, this machine only)")
    add("--dtype", choices=["bf16", "fp32"], help="(default: bf16; fp32 on a CPU)")
    return parser


def _restorer(flags: Any, tile: Any) -> Any:
    from gendr_jax.cli.common import cache_programs, silence_libraries

    silence_libraries()
    cache_programs()
    from gendr_jax.restore.pipeline import Restorer

    return Restorer.from_pretrained(flags.weights, dtype_of(flags), tile=tile)
