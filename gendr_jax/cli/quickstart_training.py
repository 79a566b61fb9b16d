"""`gendr quickstart --train`: train tiny networks on scikit-image's photographs.

The three stages run as in `gendr train`, then one photograph is restored as in
`gendr restore`. The comparison image is made in comparison.py.
"""

import json
from pathlib import Path
from typing import Any

VAE = {
    "latent_channels": 16,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "norm_groups": 8,
    "mid_attention": False,
    "scaling_factor": 1.0,
}
UNET = {
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "heads": (2, 4),
    "attention": (False, True),
    "cross_attention_dim": 64,
    "norm_groups": 16,
}
ALIGNMENT = {
    "dino": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
    },
    "hidden": 128,
}
# Losses whose first and last values are printed.
LOSSES = {
    "vae": ("loss_vae",),
    "base": ("denoising_base", "repa_base"),
    "distill": ("loss_generator", "loss_latent", "loss_pixel", "loss_fake"),
}
# Exit status by reason: 75 (EX_TEMPFAIL of sysexits.h) means "start again".
STOPPED = {"nan": 1, "sigterm": 75, "user": 130}
STEPS = {"vae": 240, "base": 250, "distill": 100}
COMMON = {
    "seed": 0,
    "batch_size": 8,
    "dtype": "float32",
    "remat": "none",
    "data": {"path": "builtin:photographs", "crop": 64},
    "log": {"every": 10, "samples_every": 0},
    "checkpoint": {"every": 100, "keep": 1},
}


def configs(workdir: Path) -> dict[str, dict[str, Any]]:
    """The three stages' configurations, in order; each starts from the previous one."""
    adam = {"clip": 1.0, "warmup": 20}
    tiny = {"vae": VAE, "unet": UNET, "alignment": ALIGNMENT}
    weights = {stage: str(workdir / stage / "weights") for stage in STEPS}
    vae = {
        "vae": VAE,
        "kl_weight": 1e-4,
        "ema": 0.98,
        "optim": {"lr": 1e-3, "b1": 0.9, "b2": 0.99, **adam},
        "init": {"random": True},
    }
    base = {
        **tiny,
        "repa_weight": 0.1,
        "surgery": False,
        "surgery_steps": 0,
        "ema": 0.98,
        "optim_new": {"lr": 1e-3, **adam},
        "optim": {"lr": 1e-3, **adam},
        "init": {"random": True, "vae": weights["vae"]},
    }
    distill = {
        **tiny,
        "kind": "cida",
        "lora": {"rank": 4, "alpha": 8.0},
        "ema": 0.95,
        "score": {"kappa": 1.0, "sequential": False},
        "weights": {"score": 0.1, "adversarial": 0.01, "repa": 0.05}
        | {"latent": 1.0, "pixel": 1.0},
        "optim": {
            "generator": {"lr": 1e-3, **adam},
            "fake": {"lr": 1e-3, "clip": 1.0},
            "real": {"lr": 1e-4, "clip": 1.0},
            "discriminator": {"lr": 3e-4, "clip": 1.0},
        },
        "discriminator_width": 32,
        "warmup_steps": 5,
        "adversarial_start": 40,
        "init": {"random": True, "vae": weights["base"], "unet": weights["base"]},
    }
    stages = {"vae": vae, "base": base, "distill": distill}
    return {
        name: {**COMMON, "stage": name, "steps": STEPS[name], **own}
        for name, own in stages.items()
    }


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
    comparison.collect(workdir, list(STEPS), time.monotonic() - began)
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
