"""docs/algorithm.md names only code that exists, and agrees with the docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "algorithm.md").read_text()
MENTION = re.compile(r"`([\w/]+\.py)(?::([\w.]+))?`")
ROW = re.compile(r"^\| (\d+) \|.*$", re.MULTILINE)
CITATION = re.compile(r"\beq\.\s+(\d+)(?:-(\d+))?")


def defined(path: Path) -> set[str]:
    """Functions, classes and constants of a module, methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (m for m in node.body if isinstance(m, ast.FunctionDef))
            names |= {f"{node.name}.{m.name}" for m in methods}
        if isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def missing(text: str) -> list[str]:
    """Mentions of `file.py` or `file.py:name` in `text` that do not exist."""
    wrong = []
    for file, name in MENTION.findall(text):
        path = ROOT / file
        if not path.is_file():
            wrong.append(file)
        elif name and name not in defined(path):
            wrong.append(f"{file}:{name}")
    return wrong


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


def test_an_equation_and_its_code_point_at_each_other():
    """Each formula file cites exactly the equations whose row names it."""
    by_file = {}
    for number, row in equations().items():
        if number <= 24:  # the stages combine formulas, they define none
            for file, _ in MENTION.findall(row):
                by_file.setdefault(file, set()).add(number)
    assert by_file == {file: cited(ROOT / file) for file in by_file}
