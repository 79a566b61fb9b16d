"""`gendr quickstart --train`: train tiny networks on scikit-image's photographs.

The three stages run as in `gendr train`, then one photograph is restored as in
`gendr restore`. The comparison image is made in comparison.py.
"""

import json
from pathlib import Path
from typing import Any

from gendr_jax.cli.configs import shipped_config

# Losses whose first and last values are printed.
LOSSES = {
    "vae": ("loss_vae",),
    "base": ("denoising_base", "repa_base"),
    "distill": ("loss_generator", "loss_latent", "loss_pixel", "loss_fake"),
}
# Exit status by reason: 75 (EX_TEMPFAIL of sysexits.h) means "start again".
STOPPED = {"nan": 1, "sigterm": 75, "user": 130}
# What differs from configs/tiny_STAGE.py: fewer steps, a smaller UNet.
UNET = {
    "block_out_channels": (64, 128),
    "heads": (2, 4),
    "attention": (False, True),
}
SHORT = {
    "log": {"every": 10, "samples_every": 0},
    "checkpoint": {"every": 100, "keep": 1},
}
CHANGES: dict[str, dict[str, Any]] = {
    "vae": {
        **SHORT,
        "steps": 240,
        "ema": 0.98,
        "optim": {"warmup": 20},
    },
    "base": {
        **SHORT,
        "steps": 250,
        "ema": 0.98,
        "unet": UNET,
        "optim": {"warmup": 20},
        "optim_new": {"warmup": 20},
    },
    "distill": {
        **SHORT,
        "steps": 100,
        "ema": 0.95,
        "unet": UNET,
        "lora": {"rank": 4, "alpha": 8.0},
        "weights": {"score": 0.1, "adversarial": 0.01, "repa": 0.05},
        "optim": {"generator": {"lr": 1e-3, "warmup": 20}},
        "warmup_steps": 5,
        "adversarial_start": 40,
    },
}


def configs(workdir: Path) -> dict[str, dict[str, Any]]:
    """The three stages' configurations, in order; each starts from the previous one."""
    weights = {stage: str(workdir / stage / "weights") for stage in CHANGES}
    starts = {
        "vae": {},
        "base": {"vae": weights["vae"]},
        "distill": {"vae": weights["base"], "unet": weights["base"]},
    }
    result = {}
    for stage, changes in CHANGES.items():
        config = shipped_config(f"tiny_{stage}")
        config.update({**changes, "init": starts[stage]})
        result[stage] = config.to_dict()
    return result


def run(workdir: Path) -> int:
    """Train, distil, restore; the exit status. Started again, it resumes.

    Raises:
        UsageError: the folder has files that quickstart has not made and would replace.
    """
    import time

    from absl import flags

    from gendr_jax.cli import comparison
    from gendr_jax.cli.common import cache_programs, silence_libraries
    from gendr_jax.sharding import make_mesh
    from gendr_jax.train.run import loop
    from gendr_jax.train.stages import build

    comparison.outputs(workdir).refuse_foreign(
        (*comparison.COLLECTED, comparison.PICTURE)
    )
    # Worker processes of grain read absl's global flags, which are not parsed here.
    flags.FLAGS.mark_as_parsed()
    silence_libraries()
    cache_programs()
    began = time.monotonic()
    mesh = make_mesh("")
    for name, config in configs(workdir).items():
        print(f"stage {name}: {config['steps']} steps", flush=True)
        setup = build.setup(config, mesh)
        result = loop.run(
            setup.hand_over(),
            setup.batches,
            setup.settings,
            mesh=mesh,
            workdir=workdir / name,
        )
        if result.reason != "done":
            print(
                f"stopped in stage {name}: {result.reason}. The same command resumes."
            )
            return STOPPED[result.reason]
        for loss in LOSSES[name]:
            first, last = fall(_lines(workdir / name), loss)
            print(f"  {loss}: {first:.4f} -> {last:.4f}")
    comparison.collect(workdir, list(CHANGES), time.monotonic() - began)
    bicubic, ours = comparison.draw(workdir)
    print(f"restored: {workdir / 'comparison.png'}  weights: {workdir / 'weights'}")
    print(f"PSNR bicubic {bicubic:.2f} dB, GenDR {ours:.2f} dB")
    return 0


def fall(lines: list[dict[str, Any]], loss: str) -> tuple[float, float]:
    """Means of a loss over the first and the last fifth of the logged steps."""
    values = [line[loss] for line in lines if loss in line]
    fifth = max(1, len(values) // 5)
    return sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
