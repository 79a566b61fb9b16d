"""Time the restoring passes of several networks in turn, in one run.

    python tools/bench_kinds.py GenDR=configs/distill.py GenDR-Pix=configs/pix.py
    python tools/bench_kinds.py gendr-tiny=gendr-tiny pix=DIR \\
        --ncnn Real-ESRGAN=realesrgan-x4plus.param            # needs the package ncnn

NAME=FILE.py takes a configuration's networks with random weights, NAME=WEIGHTS a
restorer's. "ratio" is the time relative to that of the first. A network of --ncnn gets
a picture of a quarter of the size (x4), its .bin file stands beside .param.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from gendr_jax.bench import restoring, run, timing  # noqa: E402
from gendr_jax.cli import configs  # noqa: E402
from gendr_jax.cli.common import size_of  # noqa: E402
from gendr_jax.restore.options import DTYPES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", type=_named, metavar="NAME=WEIGHTS")
    parser.add_argument("--ncnn", nargs="*", default=[], type=_named)
    parser.add_argument("--size", default="512")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of ncnn")
    options = parser.parse_args()
    size = size_of(options.size)
    calls, gmac = {}, {}
    for name, source in options.networks:
        calls[name], flops = _pass(source, size, DTYPES[options.dtype])
        gmac[name] = f"{flops / 2e9:.1f}"
    for name, source in options.ncnn:
        calls[name] = _ncnn(Path(source), size, options.threads)
    seconds = timing.in_turn(calls, options.rounds)
    first = seconds[options.networks[0][0]].wall
    print(f"{size[1]}x{size[0]}, {options.dtype}, medians of {options.rounds}\n")
    print("| | GMAC | s | cpu s | ratio |\n|---|---:|---:|---:|---:|")
    for name, taken in seconds.items():
        figures = f"{taken.wall:.3f} | {taken.processor:.3f} | {taken.wall / first:.2f}"
        print(f"| {name} | {gmac.get(name, '')} | {figures} |")


def _named(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not (name and equals and source):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=WEIGHTS")
    return name, source


def _pass(source: str, size: tuple[int, int], dtype: str) -> tuple[timing.Call, float]:
    """(call, its FLOPs) of a configuration's or a weights folder's pass."""
    if source.endswith(".py"):
        config = configs.parse(["--config", source], lambda _: None)[1]
        recipe = run.recipe_of(config.to_dict(), dtype)
        host_params = restoring.random_params(recipe)
    else:
        recipe, host_params = run.loaded(source, dtype)
    return restoring.pass_call(recipe, jax.device_put(host_params), size)


def _ncnn(param: Path, size: tuple[int, int], threads: int) -> timing.Call:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise SystemExit(f"{param}: ncnn cannot read this network or its .bin file.")
    x_chw = np.random.default_rng(1).random((3, size[0] // 4, size[1] // 4), np.float32)

    def call() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(x_chw).clone())
        return np.array(extractor.extract(net.output_names()[0])[1])

    return call


if __name__ == "__main__":
    main()
