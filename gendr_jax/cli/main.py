"""The entry point `gendr`: find the subcommand, run it, turn errors into one line.

Exit status: 0 all done; 1 some inputs failed; 2 usage or configuration error; 75 not
finished, start the same command again.
"""

import io
import os
import sys
from collections.abc import Callable

from gendr_jax.errors import TRY_AGAIN, GendrError, TryAgainError, UsageError


def _quickstart(args: list[str]) -> int:
    from gendr_jax.cli import quickstart

    return quickstart.main(args)


def _restore(args: list[str]) -> int:
    from gendr_jax.cli import restore

    return restore.main(args)


def _train(args: list[str]) -> int:
    from gendr_jax.cli import train

    return train.main(args)


def _degrade(args: list[str]) -> int:
    from gendr_jax.cli import degrade

    return degrade.main(args)


def _convert(args: list[str]) -> int:
    from gendr_jax.cli import convert

    return convert.main(args)


def _inspect(args: list[str]) -> int:
    from gendr_jax.cli import inspect

    return inspect.main(args)


def _plan(args: list[str]) -> int:
    from gendr_jax.cli import plan

    return plan.main(args)


def _evaluate(args: list[str]) -> int:
    from gendr_jax.cli import evaluate

    return evaluate.main(args)


def _bench(args: list[str]) -> int:
    from gendr_jax.cli import bench

    return bench.main(args)


def _demo(args: list[str]) -> int:
    from gendr_jax.cli import demo

    return demo.main(args)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "quickstart": (
        _quickstart,
        "restore sample photographs, write a comparison image",
    ),
    "restore": (_restore, "enlarge and restore photographs"),
    "train": (_train, "train one stage: vae, base, distill, adc or pix"),
    "evaluate": (
        _evaluate,
        "measure restored images, compare methods, write a report",
    ),
    "plan": (_plan, "memory and time of a training step on a TPU pod, without the pod"),
    "bench": (_bench, "time a restoring pass or a training step on this machine"),
    "degrade": (_degrade, "make low-quality copies of photographs (training pairs)"),
    "convert": (_convert, "convert weights from PyTorch to JAX and back"),
    "demo": (_demo, "web page: restore an image, before/after slider"),
    "inspect": (
        _inspect,
        "show what a weights file, folder or training workdir contains",
    ),
}


def usage() -> str:
    """The text of `gendr --help`."""
    lines = [
        "usage: gendr [--debug] COMMAND ...",
        "",
        "One-step diffusion super-resolution of real photographs.",
        "",
        "commands (details: gendr COMMAND --help):",
        *(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()),
        "",
        "options:",
        "  --help      print this text",
        "  --version   print the version",
        "  --debug     show the traceback of an error, and the logs of libraries",
        "",
        "exit status: 0 all done; 1 some inputs failed; 2 wrong usage or configuration",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run `gendr` with these arguments (default: the process's); the exit status."""
    args = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if debug:
        os.environ["GENDR_DEBUG"] = "1"
    else:
        # XLA reads this when it is loaded: its warnings are not for users.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape characters that the terminal cannot encode, instead of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(args)
    except (GendrError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        status, text = _explain(error)
        if text:
            print(f"gendr: error: {text}", file=sys.stderr)
        return status


def _dispatch(args: list[str]) -> int:
    if not args:
        raise UsageError("no command is given. See gendr --help.")
    if args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        from gendr_jax.version import __version__

        print(f"gendr {__version__}")
        return 0
    if args[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}" if near else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"{args[0]!r} is not a command, {hint}. See gendr --help.")
    return COMMANDS[args[0]][0](args[1:])


def _explain(error: BaseException) -> tuple[int, str]:
    """(exit status, one line without our prefix; empty: print nothing)."""
    if isinstance(error, KeyboardInterrupt):
        text = str(error) or "stopped by Ctrl-C. Start the same command again."
        return 130, text
    if isinstance(error, BrokenPipeError):  # `gendr ... | head`
        # Otherwise Python reports it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    text = " ".join(str(error).split())
    if isinstance(error, TryAgainError):
        return TRY_AGAIN, text
    if isinstance(error, GendrError):
        return (2 if isinstance(error, UsageError) else 1), text
    return 1, f"{text or type(error).__name__}. Check the path, permissions and space."


if __name__ == "__main__":
    sys.exit(main())
