"""Configuration files on the command line: `--config FILE|NAME --config.name=value`."""

import difflib
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from gendr_jax.errors import UsageError

# In a checkout the configuration files are beside the package, in a wheel inside it.
_PACKAGE = Path(__file__).parents[1]
SHIPPED = _PACKAGE / "configs"
if not SHIPPED.is_dir():
    SHIPPED = _PACKAGE.parent / "configs"
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def parse_without(
    args: list[str], define: Callable[[flags.FlagValues], None]
) -> tuple[flags.FlagValues, ConfigDict | None]:
    """As `parse`, but the configuration is optional (None if it is not given).

    Raises:
        UsageError: as `parse`.
    """
    if any(re.match(r"--?config(=|$)", arg) for arg in args):
        return parse(args, define)
    values = flags.FlagValues()
    define(values)
    try:
        rest = values(["gendr", *args])[1:]
    except flags.Error as error:
        raise UsageError(_one_line(error)) from error
    if rest:
        raise UsageError(f"{rest[0]!r} is not a flag. Write --NAME=VALUE.")
    return values, None


def parse(
    args: list[str], define: Callable[[flags.FlagValues], None]
) -> tuple[flags.FlagValues, ConfigDict]:
    """The flags of a command and the configuration with its overrides.

    Args:
        args: what follows the name of the command.
        define: defines the command's own flags; not on the global FLAGS, so that
            several commands can run in one process.

    Raises:
        UsageError: missing or unreadable configuration, unknown names (each with the
            most similar one), values of the wrong type, arguments that are not flags.
    """
    args = _shipped_paths(args)
    plain = [arg for arg in args if not _OVERRIDE.match(arg)]
    if not any(re.match(r"--?config(=|$)", arg) for arg in plain):
        raise UsageError(
            "--config is missing. Give a file, as in --config configs/tiny_vae.py, "
            "or the name of one that is shipped, as in --config tiny_vae."
        )
    # Parsed first without the overrides, to check their names against the file;
    # values of overrides without "=" are handled by the second parse.
    config = _parse([arg for arg in args if re.match(r"--?config=", arg)] or plain)[1]
    _check_names(args, config)
    values, config = _parse(args, define)
    return values, config


def files_of(args: list[str]) -> list[Path]:
    """The configuration files that the arguments name."""
    files = []
    args = _shipped_paths(args)
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        match = re.match(r"--?config(?:=(.*))?$", arg, re.DOTALL)
        if match:
            # FILE.py:TEXT passes TEXT to get_config
            files.append(Path(re.sub(r"(\.py):.*$", r"\1", match[1] or after)))
    return files


def shipped_config(name: str) -> ConfigDict:
    """The configuration of a file of configs/, named without `.py`."""
    return runpy.run_path(str(SHIPPED / f"{name}.py"))["get_config"]()


def _shipped_paths(args: list[str]) -> list[str]:
    """`args` with --config=NAME as the file of that name in configs/.

    A file of that name in the current folder is what the user means.
    """
    result = list(args)
    for i, arg in enumerate(args):
        match = re.fullmatch(r"(--?config=)?(\w+)(:.*)?", arg, re.DOTALL)
        after = i > 0 and args[i - 1] in ("--config", "-config")
        if match and (match[1] or after) and not Path(match[2]).exists():
            path = SHIPPED / f"{match[2]}.py"
            if path.is_file():
                result[i] = f"{match[1] or ''}{path}{match[3] or ''}"
    return result


def _parse(
    args: list[str], define: Callable[[flags.FlagValues], None] | None = None
) -> tuple[flags.FlagValues, Any]:
    argv = ["gendr", *args]
    # ml_collections loads every file into this module: remove that of an earlier file.
    sys.modules.pop("config_config", None)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    if define is not None:
        define(values)
    known_only = define is None
    try:
        rest = values(argv, known_only=known_only)[1:]
        if rest and not known_only:
            raise UsageError(f"{rest[0]!r} is not a flag. Write --NAME=VALUE.")
        # An unreadable file raises only when the configuration is accessed.
        dict(values.config.items())
        return values, values.config
    except UsageError:
        raise
    except Exception as error:  # a configuration file is code and raises anything
        raise UsageError(_one_line(error)) from error


def _check_names(args: list[str], config: ConfigDict) -> None:
    known = list(_names(config))
    problems = []
    for arg in args:
        match = _OVERRIDE.match(arg)
        if match and match.group(1) not in known:
            near = difflib.get_close_matches(match.group(1), known, n=1, cutoff=0.5)
            hint = f", did you mean --config.{near[0]}" if near else ""
            problems.append(f"--config.{match.group(1)}{hint}")
    if problems:
        raise UsageError(
            f"the configuration has no {'; no '.join(problems)}. "
            "Give the name of a setting."
        )


def _names(config: ConfigDict, prefix: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        names.append(prefix + name)
        if isinstance(value, ConfigDict):
            names += _names(value, f"{prefix}{name}.")
    return names


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OSError):
        return f"the configuration cannot be read ({lines[-1]}). Give a .py file."
    text = " ".join(lines)
    if isinstance(error, flags.Error):
        # ml_collections appends a list of the types that it supports.
        text = text.partition(" Currently supported")[0].rstrip(" .")
        return text if text.endswith("?") else f"{text}. Correct that flag."
    if isinstance(error, SyntaxError) and error.filename:
        text = f"{Path(error.filename).name} line {error.lineno}: {error.msg}"
    return f"the configuration failed with {type(error).__name__}: {text}. Correct it."
