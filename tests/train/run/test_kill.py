"""A few rounds of tools/kill_test.py, which kills real runs at random moments."""

import sys

import pytest

from tests.helpers.tool_run import run_tool


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_kills_lose_nothing(tmp_path):
    ended = run_tool(
        [sys.executable, "tools/kill_test.py", "--kills=3", f"--folder={tmp_path}"]
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "committed steps lost 0, checkpoints set aside 0" in ended.stdout
    assert "equal fingerprint and losses" in ended.stdout
