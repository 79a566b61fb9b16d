"""Running what lies in launch/ without its engine: stand-ins, and our own flags.

Not a test.
"""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gendr_jax import sharding
from gendr_jax.cli import configs, train

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"


def stand_in(folder: Path, name: str, body: str) -> None:
    """A program `name` that notes its arguments in NAME.calls and then runs `body`."""
    path = folder / name
    path.write_text(
        "#!/usr/bin/env bash\n"
        f"{{ printf '%s\\x1f' \"$@\"; printf '\\x1e'; }} >> {folder}/{name}.calls\n"
        f"{body}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def calls(folder: Path, name: str) -> list[list[str]]:
    """The arguments of every call of a stand-in; none is an empty list."""
    path = folder / f"{name}.calls"
    noted = path.read_text() if path.exists() else ""
    return [line.split("\x1f")[:-1] for line in noted.split("\x1e")[:-1]]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours, with the stand-ins before everything else."""
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **more}


def run(
    script: Path, folder: Path, *args: str, **more: str
) -> subprocess.CompletedProcess:
    """Run a script of launch/ with the stand-ins of `folder`."""
    return subprocess.run(
        ["bash", script, *args],
        env=environment(folder, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def accept(
    args: list[str], monkeypatch: pytest.MonkeyPatch, *, chips: int
) -> tuple[Any, Any]:
    """What our command makes of the arguments after `gendr train`, or an error."""
    monkeypatch.chdir(ROOT)
    values, config = configs.parse(args, train._define)
    assert values.distributed and values.workdir
    assert config.stage == "distill"
    for name in ("vae", "unet", "dino", "prompt"):
        assert config.init[name], name
    assert config.data.path.endswith("*.array_record")
    assert config.batch_size % chips == 0 and chips % 8 == 0
    assert sharding.make_mesh(config.mesh).shape[sharding.FSDP] == 8
    return values, config
