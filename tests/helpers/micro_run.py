"""A real `gendr train` small enough to be started again and again, in processes.

What lives here: the configuration file, photographs, the command and its environment.
What does not: anything asserted. `tools/kill_test.py` uses it too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gendr_jax.checkpoints import manager
from tests.helpers import tiny_stages

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\"\"\"One stage at the smallest size that has every part.\"\"\"
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({values!r})
"""


def prepare(folder: Path, stage: str = "vae", **changes: Any) -> Path:
    """Write `STAGE.py` and photographs under `folder`; the path of the configuration.

    `changes` are settings as in a configuration file, whole sections at a time.
    """
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for k in range(4):
        coarse = np.random.default_rng(k).uniform(0, 255, (6, 6, 3))
        pixels = np.repeat(np.repeat(coarse, 6, 0), 6, 1).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{k}.png")
    values = tiny_stages.config(stage, steps=6, seed=0, mesh="", profile="")
    values["data"] = {**values["data"], "path": str(photos)}
    values["checkpoint"] = {"every": 2, "keep": 2, "keep_every": 0, "keep_seconds": 0}
    values["watchdog"] = {"seconds": 0.0, "start_seconds": 0.0, "ends": True}
    values["processes"] = {"meet": 60, "heartbeat": 10, "barrier": 60}
    values["log"] = {"every": 1, "samples_every": 0, "samples": 2}
    path = folder / f"{stage}.py"
    path.write_text(CONFIG.format(values=values | changes))
    return path


def start(
    config: Path,
    workdir: Path | str,
    *overrides: str,
    devices: int = 1,
    process: tuple[int, int, int] | None = None,
    before: str = "",
    **env: str,
) -> subprocess.Popen:
    """Start `gendr train`; overrides as `steps=8`.

    Args:
        devices: fake CPU devices of each process.
        process: (this one, how many, port of the coordinator); None is one process.
        before: Python that runs in the process first, to break something.
        env: more environment variables.
    """
    here = str(ROOT)
    code = f"import sys; sys.path.insert(0, {here!r})\n{before}\n"
    code += "from gendr_jax.cli.main import main; sys.exit(main())"
    args = ["train", "--config", str(config), "--workdir", str(workdir)]
    args += [f"--config.{text}" for text in overrides]
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(config.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    if process is not None:
        index, count, port = process
        args.append("--distributed")
        settings["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
        settings["JAX_NUM_PROCESSES"] = str(count)
        settings["JAX_PROCESS_ID"] = str(index)
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={**os.environ, **settings, **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*runs: subprocess.Popen, seconds: float = 240.0) -> list[tuple[int, str]]:
    """[(exit status, what was printed)] of processes that were started."""
    try:
        printed = [run.communicate(timeout=seconds)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    return [(run.returncode, text) for run, text in zip(runs, printed, strict=True)]


def run_file(workdir: Path) -> dict[str, Any]:
    """run.json; {} where there is none yet."""
    path = Path(workdir) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def committed(workdir: Path) -> int:
    """The newest committed step; 0 if there is none."""
    found = (Path(workdir) / manager.FOLDER).glob("*")
    return max((int(p.name) for p in found if p.name.isdigit()), default=0)


def losses(workdir: Path) -> dict[int, float]:
    """{step: loss} of metrics.jsonl; every step has to be there once."""
    text = (Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    found = {line["step"]: line["loss_vae"] for line in lines}
    assert list(found) == list(range(1, len(lines) + 1)), list(found)
    return found
