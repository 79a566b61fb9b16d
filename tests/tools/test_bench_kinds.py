"""Passes of several networks are timed in one run and printed as a table."""

import sys

import pytest

from tools import bench_kinds


def test_a_row_for_each_network(monkeypatch, capsys):
    argv = ["bench_kinds.py", "a=gendr-tiny", "b=gendr-tiny", "--size", "64"]
    monkeypatch.setattr(sys, "argv", [*argv, "--rounds", "1"])
    bench_kinds.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "|" in line][2:]
    (a, gmac, *_, ratio_a, _), (b, same, *_) = (
        [cell.strip() for cell in row.split("|")[1:]] for row in rows
    )
    assert (a, b) == ("a", "b") and gmac == same and float(gmac) > 0
    assert float(ratio_a) == 1


def test_a_network_without_a_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_kinds.py", "gendr-tiny"])
    with pytest.raises(SystemExit, match="2"):
        bench_kinds.main()
    assert "'gendr-tiny' is not NAME=WEIGHTS" in capsys.readouterr().err
