"""The package as a user meets it: version, names, declared dependencies, `gendr`."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import gendr_jax

ROOT = Path(__file__).resolve().parents[1]
# Distribution -> what it is imported as, where the two differ.
IMPORTED_AS = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "scikit-image": "skimage",
}


def run(*command):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120
    )


def declared():
    """Import name -> extra ("" for always), from setup.py as installed."""
    found = {}
    for requirement in metadata.requires("gendr_jax"):
        name = re.match(r"[\w.-]+", requirement).group()
        extra = re.search(r"extra == ['\"](\w+)", requirement)
        extras = found.setdefault(IMPORTED_AS.get(name, name.replace("-", "_")), set())
        extras.add(extra.group(1) if extra else "")
    return found


def test_version_is_one():
    assert gendr_jax.__version__ == metadata.version("gendr_jax")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d\S*)\]", changelog, re.MULTILINE).group(1)
    assert newest == gendr_jax.__version__


def test_import_is_light():
    done = run("-c", "import sys, gendr_jax; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "gendr_jax" in loaded, done.stderr
    assert not loaded & {"jax", "flax", "numpy", "PIL", "optax", "grain", "torch"}


@pytest.mark.parametrize("name", gendr_jax.__all__)
def test_public_names_arrive_at_first_use(name):
    # A fresh interpreter: here other tests may have imported the module already.
    code = f"import gendr_jax as g; assert {name!r} in dir(g); print(g.{name}.__name__)"
    code += f"; from gendr_jax import {name}; assert {name} is g.{name}"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().rpartition(".")[2] == name


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'gendr_jax'.*'Restore'"):
        gendr_jax.Restore  # noqa: B018


def test_every_import_is_declared():
    """What our files import is in setup.py: in install_requires, or in an extra.

    Two are neither: huggingface_hub, since hub ids are accepted only where it happens
    to be, and pyiqa, for its licence.
    """
    known = declared()
    unknown = set()
    for path in (ROOT / "gendr_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            unknown.update(name.split(".")[0] for name in names)
    unknown -= sys.stdlib_module_names | known.keys()
    assert unknown <= {"gendr_jax", "huggingface_hub", "pyiqa"}


def test_references_of_the_parity_tests_are_not_required():
    known = declared()
    for name in ("torch", "diffusers", "transformers", "peft", "skimage", "pytest"):
        assert "" not in known[name], name
        assert "dev" in known[name], name


def test_files_that_are_no_python_are_installed():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "package_data"
    )
    listed = {
        path
        for package, patterns in ast.literal_eval(value).items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
        if path.is_file()
    }
    present = {
        path
        for path in (ROOT / "gendr_jax").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert present == listed


def test_gendr_help():
    """The installed console script, in a process of its own."""
    script = Path(sys.executable).with_name("gendr")
    assert script.is_file(), "no gendr beside the interpreter: pip install -e ."
    done = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("quickstart", "train", "restore"):
        assert command in done.stdout


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_pages_name_files_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    named = re.findall(r"\b(?:configs|tools|tests|docs)/[\w/]+\.(?:py|md|png)\b", text)
    missing = {name for name in links + named if not (ROOT / name).exists()}
    assert links + named and not missing
