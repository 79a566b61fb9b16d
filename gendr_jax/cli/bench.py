"""`gendr bench`: measure how fast this machine restores and trains."""

from pathlib import Path
from typing import Any

from absl import flags

from gendr_jax import overwriting
from gendr_jax.cli import configs
from gendr_jax.cli.common import size_of
from gendr_jax.errors import UsageError

USAGE = """\
usage: gendr bench [--size 512] [--batch N] [--dtype bf16|fp32] [--json FILE] ...
       gendr bench --config FILE [--config.KEY=VALUE ...] ...

Without --config: encoder, UNet, decoder and the complete pass of gendr-tiny, or of
--weights (full size with random weights: --config configs/distill.py --program
restore). With --config: a training step of its stage, program by program, on its data
(noise if data.path is empty) and its initial weights (random if init is empty). Prints
a table: times are medians, "cpu ms" is processor time of all threads, MFU is relative
to the speed of a matrix product measured first.

  --config FILE         configs/tiny_distill.py or its name, tiny_distill
  --config.KEY=VALUE    change one of its values
  --program train|restore       restore: the restoring pass with the networks of the
                        configuration
  --weights NAME|DIR    weights of a restorer (default: gendr-tiny)
  --size 512            side of the output (of the crop in training), or 768x512, or 4k;
                        above 1024 an image is restored in tiles
  --batch N             default: 1; in training the configuration's
  --dtype bf16|fp32     default: bf16, on a CPU fp32; in training the configuration's
  --stages LIST         encoder,unet,decoder,pass (default all)
  --sweep               double the batch until images per second stop growing
  --peer LIST           compare with PyTorch and diffusers on the same weights:
                        eager, compile, max-autotune, each also as eager+channels_last;
                        no ratio is printed if other programs keep the cores busy
  --rounds 5            number of measurements; the median is printed
  --json FILE           write all results, with machine, versions and this command
  --help                print this text
"""


def main(args: list[str]) -> int:
    """Run the command.

    Raises:
        UsageError: wrong flags or configuration.
        InputError: weights that cannot be read, or too little memory.
    """
    if {"--help", "-h", "-help"} & set(args):
        print(USAGE, end="")
        return 0
    values, config = configs.parse_without(args, _define)
    training = values.program == "train" or (config is not None and not values.program)
    if training and config is None:
        raise UsageError("--program train needs --config. Give a configuration.")
    if training and (values.peer or values.sweep or values.weights):
        raise UsageError(
            "--peer, --sweep and --weights are for --program restore. Leave them out."
        )
    if values.json:
        _check_json(Path(values.json), args, values.weights)
    from gendr_jax.cli.common import silence_libraries

    silence_libraries()
    if training and config is not None:
        result = _train(values, config)
    else:
        result = _restore(values, config)
    _show(result)
    if values.json:
        from gendr_jax.bench import report

        report.write(Path(values.json), result)
    return 0


def _check_json(path: Path, args: list[str], weights: str) -> None:
    """Refuse a --json that is the configuration, a weights file or a folder.

    Raises:
        UsageError: with the remedy.
    """
    if path.is_dir():
        raise UsageError(f"--json {path} is a folder. Give a file.")
    inputs = configs.files_of(args)
    folder = Path(weights).expanduser()
    if weights and folder.exists():
        inputs += [p for p in folder.rglob("*") if p.is_file()] or [folder]
    overwriting.refuse([path], inputs, "Give another file with --json.")


def _define(values: flags.FlagValues) -> None:
    for name in ("weights", "size", "json", "peer", "stages"):
        flags.DEFINE_string(name, "", "", flag_values=values)
    flags.DEFINE_enum("program", None, ("train", "restore"), "", flag_values=values)
    flags.DEFINE_enum("dtype", None, ("bf16", "fp32"), "", flag_values=values)
    flags.DEFINE_integer("batch", None, "", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "", flag_values=values, lower_bound=1)
    flags.DEFINE_bool("sweep", False, "", flag_values=values)


def _train(values: flags.FlagValues, config: configs.ConfigDict) -> dict[str, Any]:
    from gendr_jax.bench import run
    from gendr_jax.restore.options import DTYPES
    from gendr_jax.sharding import make_mesh

    # Worker processes of grain read absl's global flags, which are not parsed here.
    flags.FLAGS.mark_as_parsed()
    settings = config.to_dict()
    if values.batch:
        settings["batch_size"] = values.batch
    if values.dtype:
        settings["dtype"] = DTYPES[values.dtype]
    if values.size:
        height, width = size_of(values.size)
        if height != width:
            raise UsageError(f"--size {values.size}: crops are square. Give one side.")
        settings["data"] = dict(settings.get("data", {})) | {"crop": height}
    return run.train(settings, make_mesh(settings.get("mesh", "")), values.rounds)


def _restore(
    values: flags.FlagValues, config: configs.ConfigDict | None
) -> dict[str, Any]:
    import jax

    from gendr_jax.bench import restoring, run
    from gendr_jax.restore.options import DTYPES
    from gendr_jax.weights.resolve import DEFAULT

    on_cpu = jax.default_backend() == "cpu"
    dtype = DTYPES[values.dtype or ("fp32" if on_cpu else "bf16")]
    if config is not None and not values.weights:
        recipe, params = run.recipe_of(config.to_dict(), dtype), None
    else:
        recipe, params = run.loaded(values.weights or DEFAULT, dtype)
    names = tuple(_words(values.stages)) or restoring.STAGES
    if not set(names) <= set(restoring.STAGES):
        known = ", ".join(restoring.STAGES)
        raise UsageError(f"--stages {values.stages}: known are {known}. Choose some.")
    wish = run.Measurement(
        size=size_of(values.size or "512"),
        batch=values.batch or 1,
        rounds=values.rounds,
        stages=names,
        sweep=values.sweep,
        peers=tuple(_words(values.peer)),
    )
    return run.restore(recipe, params, [wish])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _show(result: dict[str, Any]) -> None:
    from gendr_jax.bench import report

    machine, devices = result["machine"], result["devices"]
    ceiling = result["ceiling"]
    print(
        f"{devices['count']} x {devices['kind']}, {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_gib']} GiB, "
        f"load {result['load']}; matrix products reach "
        f"{ceiling['flops_per_s'] / 1e12:.3g} TFLOP/s in {ceiling['dtype']}\n"
    )
    print(report.table(result["rows"]))
    for line in report.without_ratio(result["rows"]):
        print(f"\n{line}")
    if "throughput" in result:
        print(f"\nbest throughput\n\n{report.table(result['throughput'])}")
    memory = result["memory"]
    lines = [f"{memory['host_peak_bytes'] / 2**30:.3g} GiB of the host"]
    if "device_peak_bytes" in memory:
        lines.append(f"{memory['device_peak_bytes'] / 2**30:.3g} GiB of the device")
    print(f"\npeak memory: {', '.join(lines)}")
