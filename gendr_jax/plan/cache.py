"""Answers kept on disk: minutes of compiling are not spent twice on one question.

An answer is found again while the question, the library versions and every source file
that shapes the program or reads it are the same. Times and tables are worked out anew.
"""

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from gendr_jax.plan.request import Request

SOURCE = Path(__file__).resolve().parents[1]
# What a program is made of, and what reads it.
PARTS = (
    "diffusion.py",
    "nets.py",
    "sharding",
    "models",
    "losses",
    "data/degrade",
    "flops.py",
    "restore/forward.py",
    "restore/color.py",
    "image_io/resize.py",
    "train",
    "plan/request.py",
    "plan/programs.py",
    "plan/measure.py",
    "plan/topologies.py",
    "plan/hlo.py",
    "plan/collectives.py",
    "plan/loops.py",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu")


def key(request: Request) -> str:
    """The name of an answer."""
    digest = hashlib.sha256(request.to_json().encode())
    for package in PACKAGES:
        digest.update(f"{package} {_version(package)}\n".encode())
    for part in PARTS:
        path = SOURCE / part
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(str(file.relative_to(SOURCE)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """The answer of that name, None where there is none that can be read."""
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None


def store(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Keep an answer, whole or not at all; without room for it nothing is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.{os.getpid()}.partial"
        partial.write_text(json.dumps(facts))
        partial.replace(folder / f"{name}.json")
    except OSError:
        return
