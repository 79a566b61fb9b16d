"""A cache on disk of what the compiler reported, one JSON file a request.

The key hashes the request, the library versions and every source file that shapes the
program or reads it. Times and tables are computed again from the cached facts.
"""

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from gendr_jax.plan.request import Request

SOURCE = Path(__file__).resolve().parents[1]
# Sources that decide what program is compiled, and those that read its text.
SOURCE_PATHS = (
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
    "plan/before_codegen.py",
    "plan/topologies.py",
    "plan/hlo.py",
    "plan/collectives.py",
    "plan/loops.py",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu")


def key(request: Request) -> str:
    """The cache key of a request: 32 hexadecimal digits."""
    digest = hashlib.sha256(request.to_json().encode())
    for package in PACKAGES:
        digest.update(f"{package} {_version(package)}\n".encode())
    for source_path in SOURCE_PATHS:
        path = SOURCE / source_path
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


def load(folder: Path, cache_key: str) -> dict[str, Any] | None:
    """The cached facts of a key, None where there is no readable file."""
    try:
        return json.loads((folder / f"{cache_key}.json").read_text())
    except (OSError, ValueError):
        return None


def store(folder: Path, cache_key: str, facts: dict[str, Any]) -> None:
    """Cache the facts of a request atomically; a disk that is full is ignored."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{cache_key}.{os.getpid()}.partial"
        partial.write_text(json.dumps(facts))
        partial.replace(folder / f"{cache_key}.json")
    except OSError:
        return
