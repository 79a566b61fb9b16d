"""Sixty damaged picture files: one line each or a picture, never anything else.

`tools/fuzz.py images` reads any number of them, in a process with limits.
"""

import pytest

from tools import image_mutations as fuzz

CASES = 60


@pytest.fixture(scope="module")
def whole():
    return fuzz.sources()


def test_whole_files_are_read(whole, tmp_path):
    for name, (suffix, data) in whole.items():
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(data)
        kind, said = fuzz.attempt(str(path))
        assert kind == "read", (name, said)


def test_damage_is_one_line_or_harmless(whole, tmp_path, capfd):
    outcomes = []
    for number in range(CASES):
        source, damage, suffix, data = fuzz.case(number, 1, whole)
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(data)
        kind, said = fuzz.attempt(str(path))
        assert kind in ("read", "refused"), (number, source, damage, kind, said)
        outcomes.append(kind)
    assert outcomes.count("refused") > CASES / 4 and "read" in outcomes
    # Libraries in C write past Python.
    printed = capfd.readouterr()
    assert not printed.out and not printed.err


def test_cases_are_made_of_their_number(whole):
    assert fuzz.case(7, 3, whole) == fuzz.case(7, 3, whole)
    assert fuzz.case(7, 3, whole) != fuzz.case(26, 3, whole)
