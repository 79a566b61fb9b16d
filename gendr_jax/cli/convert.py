"""`gendr convert`: convert weights from PyTorch files to weights folders, and back."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from gendr_jax import overwriting
from gendr_jax.cli.common import Parser
from gendr_jax.errors import UsageError

EXAMPLES = """examples:
  gendr convert sd21-base/unet -o base --latent-channels 16 --prediction eps
  gendr convert v2-1_768-ema-pruned.safetensors -o base --prediction v
  gendr convert base my_lora.safetensors -o merged --merge
  gendr convert run/weights -o student --to diffusers --verify
  gendr convert run --step 2000 -o weights_2000
  gendr convert run/weights -o student.safetensors --to safetensors
"""


LABELS = {  # of entries of the report
    "prediction": "predicts",
    "ema": "EMA",
    "scaling_factor": "scaling",
    "shift_factor": "shift",
    "surgery": "surgery",
}


def main(args: list[str]) -> int:
    """Run the command.

    Raises:
        InputError, UsageError: as gendr_jax.weights.convert.
    """
    flags = _parser().parse_args(args)
    if flags.latent_channels < 0:
        raise UsageError(
            f"--latent-channels is {flags.latent_channels}. Give a positive number."
        )
    if flags.verify and flags.to in ("peft", "kohya"):  # before anything is written
        raise UsageError("--verify runs networks, not adapters. Verify with --merge.")
    _check_apart(flags)
    from gendr_jax.cli.common import silence_libraries

    silence_libraries()
    if flags.verify:  # before a long conversion, not after it
        from gendr_jax.weights import verify

        verify.require()
    from gendr_jax.weights import convert
    from gendr_jax.weights.foreign.single_files import Hints

    dtype = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}.get(
        flags.dtype, flags.dtype
    )
    if dtype and dtype not in convert.DTYPES:
        raise UsageError(
            f"--dtype is {flags.dtype!r}, known are {', '.join(convert.DTYPES)}. "
            "Choose one."
        )
    options = convert.Options(
        to=flags.to,
        dtype=dtype,
        latent_channels=flags.latent_channels,
        merge=flags.merge,
        force=flags.force,
        prompt=flags.prompt,
        lora_strength=flags.lora_strength,
        lora_alpha=flags.lora_alpha,
        sha256=tuple(flags.sha256),
        hints=Hints(
            ema=flags.ema,
            prediction=flags.prediction,
            scaling_factor=flags.scaling_factor,
            shift_factor=flags.shift_factor,
            variant=flags.variant,
        ),
    )
    with tempfile.TemporaryDirectory(prefix="gendr-") as scratch:
        sources, run = _of_runs(flags.sources, flags.step, Path(scratch))
        options = dataclasses.replace(options, run=run)
        report = convert.convert(sources, flags.output, options)
    verified = None
    if flags.verify:
        verified = report["verify"] = verify.run(
            Path(flags.output).expanduser(), flags.to
        )
    print(json.dumps(report, indent=2) if flags.json else as_text(report))
    return 0 if verified is None or verified["agrees"] else 1


def _check_apart(flags: Any) -> None:
    """Refuse, also with --force, an output that is or contains a source.

    Raises:
        UsageError: with the remedy.
    """
    output = Path(flags.output).expanduser()
    inputs = [Path(text).expanduser() for text in flags.sources]
    inputs += [flags.prompt] if flags.prompt is not None else []
    for path in inputs:
        if path.exists():  # otherwise a URL, the name of weights or a Hub id
            overwriting.refuse_holding(output, path, "Give another path with -o.")


def _of_runs(
    sources: list[str], step: int | None, scratch: Path
) -> tuple[list[str], dict[str, Any]]:
    """Export checkpoints of training runs to weights folders; keep other sources.

    If a workdir has weights/, that folder is read, unless a step is given.
    """
    paths, notes = [], {}
    for number, source in enumerate(sources):
        name = source.rstrip("/")
        run = _run(name)
        if run is None or (step is None and (run / "weights").is_dir()):
            paths.append(source)
            continue
        from gendr_jax.train import checkpoint_weights

        target = scratch / str(number)
        notes["step"] = checkpoint_weights.write(name, step, target)
        paths.append(str(target))
    if step is not None and not notes:
        raise UsageError(
            f"--step {step} needs a training workdir, {sources[0]} is not one. "
            "Leave --step out."
        )
    return paths, notes


def _run(source: str) -> Any:
    """The workdir or checkpoint of a training run; None for other sources.

    This does not import the checkpoint library, which takes seconds.
    """
    from gendr_jax.weights.remote_paths import as_epath

    folder = as_epath(source)
    is_checkpoint = folder.name.isdigit() and folder.parent.name == "checkpoints"
    try:
        marker = folder if is_checkpoint else folder / "checkpoints"
        return folder if marker.is_dir() else None
    except Exception:  # of an object store; reading the source will report it
        return None


def as_text(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"read     {', '.join(report['formats'])}"]
    lines += [
        f"file     {f['name']}  {f['bytes']:,} bytes  sha256 {f['sha256']}"
        for f in report["files"]
    ]
    lines += [f"skipped  {n} tensors: {what}" for what, n in report["left_out"].items()]
    lines += [f"{name:<8} {n:,} parameters" for name, n in report["parameters"].items()]
    lines += [
        f"{label:<8} {report[key]}"
        for key, label in LABELS.items()
        if key in report and report[key] not in (False, 0.0)
    ]
    if report.get("step") is not None:
        lines.append(f"step     {report['step']} of a training run")
    lines.append(
        f"wrote    {report['output']} ({report['to']}, kind {report['kind']}) in "
        f"{report['seconds']} s"
    )
    if "verify" in report:
        from gendr_jax.weights import verify

        lines += verify.as_lines(report["verify"])
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser("gendr convert", "Convert weights from PyTorch to JAX and back.")
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("sources", metavar="SRC", nargs="+", help="file, folder, gs:// or s3:// URL")
    add("-o", "--output", metavar="DST", required=True, help="new folder, file or URL")
    add(
        "--to",
        choices=("orbax", "diffusers", "peft", "safetensors", "ldm", "kohya"),
        default="orbax",
        help="a folder: orbax (weights folder, default), diffusers, peft (adapters); "
        "one file: safetensors (our names), ldm, kohya (adapters)",
    )
    add("--step", type=int, metavar="N", help="checkpoint of a training workdir")
    add("--dtype", default="", help="float32, bfloat16 or float16; default: as stored")
    add(
        "--latent-channels",
        type=int,
        default=0,
        metavar="N",
        help="widen the UNet's input and output, 4 to 16",
    )
    add("--merge", action="store_true", help="merge LoRA adapters into the UNet")
    add(
        "--lora-strength",
        type=float,
        default=1.0,
        metavar="F",
        help="factor on LoRA adapters (default: 1)",
    )
    add(
        "--lora-alpha",
        type=float,
        metavar="F",
        help="alpha of a LoRA file that does not store it",
    )
    add("--prompt", type=Path, metavar="FILE", help="prompt embeddings for a restorer")
    add("--verify", action="store_true", help="compare the result in PyTorch and JAX")
    add(
        "--force",
        action="store_true",
        help="replace an existing weights folder or export at DST",
    )
    add(
        "--prediction",
        choices=("eps", "v"),
        help="prediction type of the UNet, if its files do not state it",
    )
    add(
        "--ema",
        choices=("auto", "yes", "no"),
        default="auto",
        help="use EMA weights (auto: if the source has them)",
    )
    add("--scaling-factor", type=float, metavar="F", help="of the VAE latents")
    add("--shift-factor", type=float, metavar="F", help="of the VAE latents")
    add(
        "--variant",
        default="",
        metavar="NAME",
        help="variant of the files in a component folder, such as fp16",
    )
    add(
        "--sha256",
        action="append",
        default=[],
        metavar="HEX",
        help="expected sha256 of a weights file; repeat for each file",
    )
    add("--json", action="store_true", help="print the report as JSON")
    return parser
