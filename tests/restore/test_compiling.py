"""What is compiled when: once a shape of pass, and nothing in a second run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax.restore import compiling
from tests.helpers.tiny_commands import save_weights

pytestmark = pytest.mark.usefixtures("no_shared_programs")
ROOT = Path(__file__).resolve().parents[2]


def test_compilations_are_counted_and_programs_at_hand_are_not():
    def double(x):
        return 2 * x

    x = np.ones((3, 5), np.float32)
    program = jax.jit(double)
    with compiling.watch() as seen:
        program(x)
    assert seen.programs == 1
    with compiling.watch() as seen:
        program(x)
    assert seen.programs == 0
    with compiling.watch() as seen:
        jax.jit(lambda x: jnp.cos(x)).lower(x).compile()
    assert seen.programs == 1


@pytest.mark.slow
def test_the_second_picture_and_the_second_run_compile_nothing(tmp_path):
    weights = save_weights(tmp_path / "w")
    sizes = {"a": (16, 15), "b": (13, 16), "c": (24, 20), "d": (20, 40)}
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Pil.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    first, second = (_run(tmp_path, weights, out) for out in ("first", "second"))
    tiles = {name: entry["tiles"] for name, entry in first.items()}
    assert tiles["a"] == tiles["b"] == 1 and tiles["d"] > tiles["c"] > 1
    found = {name: entry["compiled"] for name, entry in first.items()}
    assert found == {"a": True, "b": False, "c": True, "d": False}
    assert not any(entry["compiled"] for entry in second.values())
    for name in sizes:
        one, two = (tmp_path / out / f"{name}.png" for out in ("first", "second"))
        assert one.read_bytes() == two.read_bytes()


def _run(tmp_path, weights, out):
    """The report of `gendr restore` in a process of its own, by the picture's name."""
    report = tmp_path / f"{out}.jsonl"
    args = ["-i", tmp_path / "in", "-o", tmp_path / out, "--weights", weights]
    args += ["--tile", "64", "--report", report]
    environment = {**os.environ, "GENDR_CACHE_DIR": str(tmp_path / "cache")}
    del environment["GENDR_CACHE"]
    subprocess.run(
        [sys.executable, "-m", "gendr_jax.cli.main", "restore", *map(str, args)],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    entries = map(json.loads, report.read_text().splitlines())
    return {Path(entry["input"]).stem: entry for entry in entries}
