"""A few rounds of tools/kill_test.py, which kills real runs at random moments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_kills_lose_nothing(tmp_path):
    ended = subprocess.run(
        [sys.executable, "tools/kill_test.py", "--kills=3", f"--folder={tmp_path}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "committed steps lost 0, checkpoints set aside 0" in ended.stdout
    assert "equal fingerprint and losses" in ended.stdout
