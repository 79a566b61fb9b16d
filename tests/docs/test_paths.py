"""Files that the pages for people name exist; the three lists of checks are one."""

import re
from pathlib import Path

import pytest

from tests.helpers.mentions import MENTION, ROOT, defined, missing

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# `a/b.py`, `b.py` and `a/b.py:name` in code, and the targets of links
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?<![\w/.*<>{}-])((?:[\w.-]+/)*[\w-]+\.(?:py|sh|toml|sbatch))\b")
LINK = re.compile(r"\]\((?!http)([^)#\s]+)")
EXAMPLES = {"cli/NAME.py"}
PACKAGE = ROOT / "gendr_jax"
NAMES = {
    path.name
    for folder in ("gendr_jax", "configs", "tests", "tools", "launch")
    for path in (ROOT / folder).rglob("*.*")
}


def absent(text: str) -> list[str]:
    """Files in code spans that do not exist; a bare name may be in any folder."""
    named = {file for code in CODE.findall(text) for file in FILE.findall(code)}
    return [
        file
        for file in sorted(named - EXAMPLES)
        if not ((ROOT / file).exists() or (PACKAGE / file).exists())
        and not ("/" not in file and file in NAMES)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    assert absent(text) == []
    links = LINK.findall(text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    if page.name != "CONTRIBUTING.md":  # its paths are below gendr_jax/
        assert missing("".join(f"`{m}`" for m in full_mentions(text))) == []


def full_mentions(text: str) -> list[str]:
    """`gendr_jax/file.py:name` and the like, the name included."""
    return re.findall(
        r"`((?:gendr_jax|tools|tests|configs)/[\w/]+\.py(?::[\w.]+)?)`", text
    )


def test_a_file_that_is_not_there_is_seen():
    text = "`image_io/reading.py` and `gendr restore`, `image_io/nothing.py`, `gone.py`"
    assert absent(text) == ["gone.py", "image_io/nothing.py"]


def test_the_walk_through_the_house_has_ten_steps_with_full_paths():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    walk = page[page.index("## A walk") : page.index("## Where is")]
    assert re.findall(r"^(\d+)\.", walk, re.MULTILINE) == [str(n) for n in range(1, 11)]
    files = FILE.findall(walk)
    assert len(files) > 15 and not [f for f in files if not (PACKAGE / f).is_file()]


def test_where_is_answers_with_files_and_names_that_exist():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page[page.index("## Where is") : page.index("## Glossary")]
    answers = [line.split("|")[2] for line in section.splitlines() if "? |" in line]
    assert len(answers) >= 20
    for answer in answers:
        mentions = MENTION.findall(answer)
        assert mentions, answer
        for file, name in mentions:
            assert (PACKAGE / file).is_file(), file
            assert not name or name in defined(PACKAGE / file), f"{file}:{name}"


def commands(path: Path, pattern: str) -> set[tuple[str, ...]]:
    found = re.findall(pattern, path.read_text(), re.MULTILINE)
    return {tuple(line.split()[:2]) for line in found}


def test_pre_commit_runs_what_ci_runs():
    """The same programs, of the same installation: versions cannot differ."""
    config = ROOT / ".pre-commit-config.yaml"
    in_ci = commands(ROOT / ".ci" / "run", r"^((?:ruff|ty) .*)$")
    assert in_ci == {("ruff", "check"), ("ruff", "format"), ("ty", "check")}
    assert commands(config, r"entry: (.*)$") == in_ci
    local = config.read_text().split("- repo: local")[1]
    assert local.count("language: system") == len(in_ci)
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(" ".join(words) in guide for words in in_ci - {("ruff", "format")})
