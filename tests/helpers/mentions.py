"""Mentions of `file.py:name` in a page that do not exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MENTION = re.compile(r"`([\w/]+\.py)(?::([\w.]+))?`")


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
