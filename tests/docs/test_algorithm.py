"""docs/algorithm.md names only code that exists, and agrees with the docstrings."""

import re
from pathlib import Path

import pytest

from tests.helpers.mentions import MENTION, missing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "algorithm.md").read_text()
ROW = re.compile(r"^\| (\d+) \|.*$", re.MULTILINE)
CITATION = re.compile(r"\beq\.\s+(\d+)(?:-(\d+))?")


def test_every_named_function_exists():
    assert len(MENTION.findall(PAGE)) > 30
    assert missing(PAGE) == []


@pytest.mark.parametrize(
    "mention", ("gendr_jax/nothing.py", "gendr_jax/diffusion.py:nothing")
)
def test_a_name_that_does_not_exist_is_found(mention):
    assert missing(f"see `{mention}`") == [mention]


def equations() -> dict[int, str]:
    return {int(row[1]): row[0] for row in ROW.finditer(PAGE)}


def test_equations_are_numbered_without_gaps_and_each_has_code():
    rows = [int(number) for number in ROW.findall(PAGE)]
    assert rows == list(range(1, len(rows) + 1)) and len(rows) > 20
    assert [n for n, row in equations().items() if not MENTION.search(row)] == []


def cited(path: Path) -> set[int]:
    ranges = CITATION.findall(path.read_text())
    return {n for a, b in ranges for n in range(int(a), int(b or a) + 1)}


def test_docstrings_cite_equations_that_exist():
    known = set(equations())
    unknown = {
        str(path.relative_to(ROOT)): sorted(cited(path) - known)
        for path in (ROOT / "gendr_jax").rglob("*.py")
        if cited(path) - known
    }
    assert unknown == {}


COMBINED = range(25, 37)  # equations of the stages combine formulas of several files


def test_an_equation_and_its_code_point_at_each_other():
    """Each formula file cites the equations whose row names it, and no others."""
    defining, naming = {}, {}
    for number, row in equations().items():
        for file, _ in MENTION.findall(row):
            naming.setdefault(file, set()).add(number)
            if number not in COMBINED:
                defining.setdefault(file, set()).add(number)
    assert len(defining) > 5
    for file, numbers in defining.items():
        assert numbers <= cited(ROOT / file) <= naming[file], file
