"""tools/eventful_run.py in short: every start of it ends as the manual says."""

import shutil
import subprocess
import sys

import pytest

from tests.helpers.tool_run import run_tool

APART = ["unshare", "--user", "--map-root-user", "--mount"]


def mounts() -> list[str]:
    """What to put before a command that mounts a file system, where it may."""
    if not shutil.which("unshare"):
        pytest.skip("needs a Linux that can mount a small disk")
    for before in (APART, APART[:1] + APART[3:]):  # as a user, as root
        tried = [*before, "mount", "-t", "tmpfs", "none", "/mnt"]
        if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            return before
    pytest.skip("mounting a small disk is not allowed here")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_survives_everything(tmp_path):
    command = [sys.executable, "-m", "tools.eventful_run", "--steps=80"]
    ended = run_tool([*mounts(), *command, f"--folder={tmp_path}"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.split("|")[1:-1] for line in ended.stdout.splitlines()]
    statuses = [int(row[6]) for row in rows[2:]]
    assert statuses == [-9, 1, 75, 1, 1, 1, 2, 75, 75, 75, 2, 75, 0]
    assert int(rows[-1][5]) == 80
