"""A tool of tools/ run in a process of its own."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_tool(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The ended process, started in the repository; its status is not checked."""
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
