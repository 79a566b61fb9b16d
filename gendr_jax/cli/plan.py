"""`gendr plan`: memory and time of a training step on a TPU pod, without the pod.

Nothing heavy is imported: programs are compiled in separate processes.
"""

import dataclasses
import json
import math
import os
import sys
from pathlib import Path

from absl import flags

from gendr_jax.cli import configs
from gendr_jax.cli.common import cache_folder, size_of
from gendr_jax.errors import UsageError
from gendr_jax.plan.roofline import Efficiency

USAGE = """\
usage: gendr plan --config FILE --topology NAME[,NAME...] [--config.KEY=VALUE ...]

Compiles the training step of a configuration for accelerators that are not attached,
and prints whether it fits in memory, its cost and its best possible speed.
Times, days and chip-hours are lower bounds (every resource at its peak, all at the same
time); further columns give them with the network exposed and with no overlap. A mesh
that does not fit the devices, the batch or the networks is refused before compiling.

  --config FILE         configs/distill.py or its name, distill
  --config.KEY=VALUE    change one of its values
  --topology NAMES      v5e:16x16, v5p:4x4x4, v6e:..., v4:..., tpu7x:...; 2*v5e:16x16
                        (two slices); v5e-256 (usual slice of 256 chips); cpu[:N], gpu
                        (devices present)
  --mesh A[;B...]       meshes to try, as "data=32,fsdp=8;fsdp=256"; default config.mesh
  --batch-per-device N[,N...]   default: config.batch_size over all devices
  --program train|restore       the training step, or the restoring pass of one image
                        size (--size 512, or 768x512) with the configuration's
                        networks
  --effort low|full     of the compiler: low generates code too (default); full
                        optimises as for a run, and on TPU ends before code generation
  --suggest estimate|compile    how to find a change that fits: by arithmetic, or by
                        compiling
  --jobs N              programs compiled at once; at full size each may take 10 GB
  --efficiency compute=.7,hbm=.8,network=.6   measured fractions of the peak rates;
                        the default of each is 1
  --pairs N             training samples for days and chip-hours (default 20e6)
  --json FILE           write all results
  --plot FILE.png       memory and time of every combination (needs matplotlib)
  --no-cache            ignore results of earlier compilations
  --timeout SECONDS     for one compilation (default 10800)
  --help                print this text
"""
DASHED = ("batch-per-device", "no-cache")


def main(args: list[str]) -> int:
    """Run the command; 0 if every combination has a result, 1 if one failed.

    "Does not fit" is a result.

    Raises:
        UsageError: wrong flags or configuration.
    """
    if {"--help", "-h", "-help"} & set(args):
        print(USAGE, end="")
        return 0
    values, config = configs.parse(_spelt(args), _define)
    if not values.topology:
        raise UsageError("--topology is missing. Give one, as in --topology v5e:16x16.")
    if values.plot:
        _check_plot(values.plot)
    return _plan(values, config)


def _spelt(args: list[str]) -> list[str]:
    """absl does not allow dashes in names of flags."""
    for name in DASHED:
        plain = name.replace("-", "_")
        args = [
            arg.replace(name, plain, 1) if arg.lstrip("-").startswith(name) else arg
            for arg in args
        ]
    return args


def _define(values: flags.FlagValues) -> None:
    texts = ("topology", "mesh", "batch_per_device", "efficiency", "json", "plot")
    for name in texts:
        flags.DEFINE_string(name, "", "", flag_values=values)
    choices = {
        "program": ("train", "restore"),
        "effort": ("low", "full"),
        "suggest": ("estimate", "compile"),
    }
    for name, known in choices.items():
        flags.DEFINE_enum(name, known[0], known, "", flag_values=values)
    flags.DEFINE_string("size", "512", "", flag_values=values)
    flags.DEFINE_integer("jobs", 1, "", flag_values=values, lower_bound=1)
    flags.DEFINE_float("pairs", 20e6, "", flag_values=values, lower_bound=1)
    flags.DEFINE_float("timeout", 10800, "", flag_values=values, lower_bound=1)
    flags.DEFINE_bool("no_cache", False, "", flag_values=values)


def _plan(values: flags.FlagValues, config: configs.ConfigDict) -> int:
    from gendr_jax.plan import possible, report, sweep, topologies
    from gendr_jax.plan.request import Request

    base = Request(
        config=json.loads(config.to_json()),
        topology="",
        mesh="",
        program=values.program,
        size=size_of(values.size),
        effort=values.effort,
    )
    requests = sweep.requests(
        base,
        [name for name in values.topology.split(",") if name.strip()],
        _meshes(values.mesh) or [config.get("mesh", "")],
        _batches(values.batch_per_device),
    )
    for request in requests:
        topologies.check_compiler(topologies.parse(request.topology))
    options = sweep.Options(
        folder=cache_folder("plan"),
        reread=not values.no_cache,
        timeout=values.timeout,
        suggest=values.suggest,
        jobs=values.jobs,
        efficiency=_efficiency(values.efficiency),
        refuse=possible.require,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    rows = []
    for row in sweep.run(requests, values.pairs, options):
        rows.append(row)
        if values.json:  # written after every row: a stopped command keeps its rows
            _write(Path(values.json), json.dumps(rows, indent=1) + "\n")
    print(report.table(rows))
    if values.plot:
        from gendr_jax.plan.plot import draw

        draw(rows, Path(values.plot))
    return 1 if any("error" in row for row in rows) else 0


def _meshes(text: str) -> list[str]:
    return [mesh.strip() for mesh in text.split(";") if mesh.strip()]


def _batches(text: str) -> list[int | None]:
    sizes = [size.strip() for size in text.split(",") if size.strip()]
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise UsageError(
            f"--batch-per-device is {text!r}. Give positive numbers, as in 1,2,4."
        )
    return [int(size) for size in sizes] or [None]


def _efficiency(text: str) -> Efficiency:
    """`compute=.7,hbm=.8` as fractions of the peak rates."""
    fractions: dict[str, float] = {}
    for entry in filter(None, (e.strip() for e in text.split(","))):
        name, _, value = (word.strip() for word in entry.partition("="))
        known = [field.name for field in dataclasses.fields(Efficiency)]
        fraction = _number(value)
        if name not in known or name in fractions or not 0 < fraction <= 1:
            raise UsageError(
                f"--efficiency {text}: {entry!r} is not one of {', '.join(known)} with "
                "a fraction in (0, 1], once each. Write it as "
                "compute=.7,hbm=.8,network=.6."
            )
        fractions[name] = fraction
    return Efficiency(**fractions)


def _number(text: str) -> float:
    """The number; NaN if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_plot(name: str) -> None:
    """Refuse a plot that cannot be drawn before compiling for an hour."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed. "
            "pip install 'gendr_jax[plan]'."
        )
    if Path(name).suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(
            f"--plot {name} is not an image. Give a name such as plan.png."
        )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)
