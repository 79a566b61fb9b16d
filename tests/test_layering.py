"""Who may import whom: the rule of CONTRIBUTING.md, read from the source with ast.

Imports inside functions count too; those under TYPE_CHECKING as well.
"""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
STDLIB = sys.stdlib_module_names


class Room(NamedTuple):
    """A module or package, its level, and what it may import from outside."""

    level: int
    outside: set[str]
    same_level: set[str] = set()  # rooms of the same level that it may use


# The longest matching name wins, so `gendr_jax.data.degrade` is not `gendr_jax.data`.
ROOMS = {
    "gendr_jax.errors": Room(0, set()),
    "gendr_jax.models": Room(0, {"jax", "numpy", "flax"}),
    "gendr_jax.cpu_compiler": Room(0, {"jax"}),
    "gendr_jax.files": Room(0, set()),
    "gendr_jax.program_cache": Room(0, {"jax"}),
    "gendr_jax.pretrained": Room(0, set()),
    "gendr_jax.overwriting": Room(0, set()),
    "gendr_jax.own_outputs": Room(0, set()),
    "gendr_jax.picture_walk": Room(0, set()),
    "gendr_jax.version": Room(0, set()),
    "gendr_jax.diffusion": Room(0, {"jax", "numpy"}),
    "gendr_jax.flops": Room(0, {"jax", "numpy"}),
    "gendr_jax.losses": Room(0, {"jax", "numpy"}, {"gendr_jax.diffusion"}),
    "gendr_jax.metrics": Room(0, {"jax", "numpy"}),
    "gendr_jax.metrics.niqe_files": Room(2, {"numpy", "scipy"}),
    "gendr_jax.metrics.perceptual": Room(
        2, {"jax", "numpy"}, {"gendr_jax.api", "gendr_jax.restore"}
    ),
    "gendr_jax.metrics.table": Room(
        2,
        {"numpy"},
        {"gendr_jax.restore", "gendr_jax.metrics.niqe_files"}
        | {"gendr_jax.metrics.perceptual", "gendr_jax.metrics.pyiqa_bridge"},
    ),
    "gendr_jax.metrics.pyiqa_bridge": Room(
        2,
        {"numpy", "torch", "pyiqa"},
        {"gendr_jax.restore"},
    ),
    "gendr_jax.data.degrade": Room(0, {"jax", "numpy"}),
    "gendr_jax.restore.color": Room(0, {"jax", "numpy"}),
    "gendr_jax.restore.tiling": Room(0, {"jax", "numpy"}),
    "gendr_jax.nets": Room(1, {"jax", "numpy", "flax"}),
    "gendr_jax.sharding": Room(1, {"jax", "numpy"}),
    "gendr_jax.weights": Room(
        1,
        {"jax", "numpy", "ml_dtypes", "orbax", "safetensors", "etils"}
        | {"torch", "huggingface_hub"},
        {"gendr_jax.nets", "gendr_jax.sharding"},
    ),
    "gendr_jax.weights.verify": Room(
        1,
        {"jax", "numpy", "torch", "diffusers", "transformers"},
        {"gendr_jax.nets", "gendr_jax.weights"},
    ),
    "gendr_jax.checkpoints": Room(
        1,
        {"jax", "numpy", "orbax", "etils"},
        {"gendr_jax.nets", "gendr_jax.sharding", "gendr_jax.weights"},
    ),
    "gendr_jax.data.pairs_manifest": Room(1, {"jax", "numpy", "PIL"}),
    "gendr_jax.data.degrade_folder": Room(
        1, {"jax", "numpy", "PIL"}, {"gendr_jax.data", "gendr_jax.data.pairs_manifest"}
    ),
    "gendr_jax.data": Room(
        1,
        {"numpy", "PIL", "grain", "tensorflow_datasets", "skimage", "absl"}
        | {"array_record"},
        {"gendr_jax.image_io"},
    ),
    "gendr_jax.image_io": Room(1, {"jax", "numpy", "PIL", "pyvips"}),
    "gendr_jax.restore": Room(2, {"jax", "numpy", "PIL", "tqdm"}),
    "gendr_jax.evaluate": Room(
        2, {"jax", "numpy", "PIL"}, {"gendr_jax.metrics.table", "gendr_jax.restore"}
    ),
    "gendr_jax.demo": Room(2, {"numpy", "gradio"}, {"gendr_jax.restore"}),
    "gendr_jax.api": Room(
        2, {"jax", "numpy", "huggingface_hub"}, {"gendr_jax.restore"}
    ),
    "gendr_jax.train": Room(
        2,
        {"jax", "numpy", "optax", "ml_collections", "tqdm", "tensorboardX", "PIL"}
        | {"absl", "orbax"},
        {"gendr_jax.restore", "gendr_jax.api"},
    ),
    "gendr_jax.plan": Room(
        2,
        {"jax", "numpy", "matplotlib"},
        {"gendr_jax.train", "gendr_jax.restore"},
    ),
    "gendr_jax.bench": Room(
        2,
        {"jax", "numpy", "torch", "diffusers"},  # those of the peer, lazily
        {"gendr_jax.train", "gendr_jax.restore", "gendr_jax.plan"},
    ),
    "gendr_jax.cli": Room(
        3,
        {"jax", "numpy", "PIL", "absl", "ml_collections", "tqdm", "skimage"}
        | {"torch", "diffusers", "transformers"},  # convert --verify
    ),
    "gendr_jax": Room(3, set()),  # __init__.py: names, each imported at first use
}
FREE = {"gendr_jax.errors", "gendr_jax.files", "gendr_jax.version"} | {
    "gendr_jax.overwriting",
    "gendr_jax.own_outputs",
    "gendr_jax.picture_walk",
}


class Import(NamedTuple):
    target: str  # dotted name as far as it is a module of ours, else the package
    line: int
    in_function: bool


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    found = {}
    for path in sorted((ROOT / "gendr_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts)] = path
    return found


MODULES = modules()


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file; relative ones are not used here, and fail."""
    found = []

    def walk(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
        found.extend(Import(resolve(n), node.lineno, in_function) for n in names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, in_function or inside)

    walk(ast.parse(path.read_text(encoding="utf-8")), False)
    return tuple(found)


@functools.cache
def resolve(name: str) -> str:
    """`gendr_jax.losses.score.vsd` -> `gendr_jax.losses.score`, `jax.numpy` -> `jax`.

    A lazy public name such as `gendr_jax.Restorer` stays what it is.
    """
    if name.split(".")[0] != "gendr_jax":
        return name.split(".")[0]
    module = name
    while module not in MODULES:
        module = module.rpartition(".")[0]
    return name if module == "gendr_jax" else module


def room_of(module: str) -> str:
    fits = [r for r in ROOMS if module == r or module.startswith(r + ".")]
    return max(fits, key=len)


def test_imports_go_downward():
    wrong = [line for module in MODULES for line in upward(module)]
    assert not wrong, "imports that the rooms do not allow:\n" + "\n".join(wrong)


def upward(module: str) -> list[str]:
    """What a module imports beyond its room (`ROOMS`), inside functions too."""
    name = room_of(module)
    if name == "gendr_jax" and module != "gendr_jax":
        return [f"{module} has no room: give it a line in ROOMS and a level"]
    here = ROOMS[name]
    wrong = []
    for target, line, _ in imports(MODULES[module]):
        if target in STDLIB:
            continue
        if not target.startswith("gendr_jax"):
            fine = target in here.outside
        elif target == "gendr_jax":
            fine = True  # the version; the lazy names are caught as modules
        else:
            other = room_of(target)
            lower = ROOMS[other].level < here.level and here.level > 0
            fine = lower or other in {name, *here.same_level, *FREE}
        if not fine:
            wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line}: {target}")
    return [f"{line}, from {name} (level {here.level})" for line in wrong]


def test_no_import_cycles():
    graph = {}
    for module, path in MODULES.items():
        targets = {i.target for i in imports(path)}
        graph[module] = (targets & MODULES.keys()) - {module, "gendr_jax"}
    graph.pop("gendr_jax")  # lazy: what it names at the top is for type checkers
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize(
    "package",
    ["torch", "transformers", "diffusers", "skimage", "huggingface_hub", "matplotlib"]
    + ["pyiqa", "scipy"],
)
def test_extras_are_never_imported_at_module_level(package):
    eager = [
        f"{path.relative_to(ROOT)}:{i.line}"
        for path in MODULES.values()
        for i in imports(path)
        if i.target == package and not i.in_function
    ]
    assert not eager


def test_config_dicts_stay_above_the_library():
    allowed = ("gendr_jax.cli", "gendr_jax.train")
    users = [
        module
        for module, path in MODULES.items()
        if "ConfigDict" in path.read_text(encoding="utf-8")
        or any(i.target == "ml_collections" for i in imports(path))
    ]
    assert not [module for module in users if not module.startswith(allowed)]


def test_nothing_is_imported_by_a_computed_name():
    """No import_module, __import__, exec or eval: jump-to-definition always works."""
    forbidden = {"import_module", "__import__", "exec", "eval"}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "attr", None)
            assert name not in forbidden, f"{path}:{node.lineno}: {name}"


def test_configs_import_the_defaults_alone():
    files = sorted((ROOT / "configs").glob("*.py"))
    assert files
    for path in files:
        targets = {i.target for i in imports(path)} - STDLIB
        assert targets <= {"ml_collections", "gendr_jax.train.defaults"}, path


def test_tools_import_nothing_of_the_tests():
    files = sorted((ROOT / "tools").glob("*.py"))
    assert files
    for path in files:
        assert not [i for i in imports(path) if i.target == "tests"], path


def test_restoring_loads_no_training_or_data_package():
    code = (
        "import sys, gendr_jax.restore.pipeline, gendr_jax.api\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    unwanted = {"grain", "tensorflow_datasets", "tensorflow", "torch", "ml_collections"}
    assert "gendr_jax.restore.pipeline" in loaded
    assert not loaded & unwanted
    # flax.nnx itself imports optax, so that one is looked for in our own source.
    ours = loaded & MODULES.keys()
    assert not [m for m in ours if room_of(m) in ("gendr_jax.train", "gendr_jax.data")]
    for module in ours:
        assert "optax" not in {i.target for i in imports(MODULES[module])}, module
