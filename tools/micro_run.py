"""A small `gendr train` that is started, killed and started again, as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gendr_jax.checkpoints import manager

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """\"\"\"One stage at the smallest size.\"\"\"
from gendr_jax.train import defaults


def get_config():
    return defaults.config({stage!r}, {values!r})
"""
VAE = {  # of stage vae; what compiles in seconds
    "batch_size": 4,
    "dtype": "float32",
    "remat": "none",
    "data": {"crop": 16, "preset": "bicubic"},
    "init": {"random": True},
    "vae": {
        "latent_channels": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_groups": 4,
    },
    "discriminator": {"widths": (8, 8), "norm_groups": 4},
    "optim": {"lr": 3e-3},
}


def prepare(
    folder: Path, stage: str = "vae", settings: Mapping[str, Any] = VAE
) -> Path:
    """Write `STAGE.py` and photographs under `folder`; the path of the configuration.

    `settings` are changes of the defaults, as in a configuration file; how often the
    run saves and how long it waits is set here, unless they say otherwise.
    """
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for k in range(4):
        coarse = np.random.default_rng(k).uniform(0, 255, (6, 6, 3))
        pixels = np.repeat(np.repeat(coarse, 6, 0), 6, 1).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{k}.png")
    values = {
        "steps": 6,
        "checkpoint": {"every": 2, "keep": 2},
        "watchdog": {"seconds": 0.0, "start_seconds": 0.0},
        "processes": {"meet": 60, "heartbeat": 10, "barrier": 60},
        "log": {"every": 1, "samples_every": 0, "samples": 2},
    } | dict(settings)
    values["data"] = {"path": str(photos)} | values.get("data", {})
    path = folder / f"{stage}.py"
    path.write_text(CONFIG.format(stage=stage, values=values))
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
    """Start `gendr train`; overrides as `steps=8`, flags as `--accept-changes`.

    Args:
        devices: fake CPU devices of each process.
        process: (this one, how many, port of the coordinator); None is one process.
        before: Python that runs in the process first, to break something.
        env: more environment variables.
    """
    root = str(ROOT)
    code = f"import sys; sys.path.insert(0, {root!r})\n{before}\n"
    code += "from gendr_jax.cli.main import main; sys.exit(main())"
    args = ["train", "--config", str(config), "--workdir", str(workdir)]
    args += [t if t.startswith("--") else f"--config.{t}" for t in overrides]
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
    folders = (Path(workdir) / manager.FOLDER).glob("*")
    return max((int(p.name) for p in folders if p.name.isdigit()), default=0)


def losses(workdir: Path) -> dict[int, float]:
    """{step: loss} of metrics.jsonl; every step has to be there once."""
    text = (Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    by_step = {line["step"]: line["loss_vae"] for line in lines}
    assert list(by_step) == list(range(1, len(lines) + 1)), list(by_step)
    return by_step
