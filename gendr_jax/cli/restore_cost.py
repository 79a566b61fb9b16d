"""`gendr restore --dry-run`: estimate memory and time without reading weights."""

from collections.abc import Callable
from typing import Any

from gendr_jax import image_io
from gendr_jax.cli.restore_devices import dtype_of, mesh_of, weights_are_configuration
from gendr_jax.image_io import resize
from gendr_jax.restore import estimate, memory
from gendr_jax.restore.estimate import Estimate
from gendr_jax.restore.folders.naming import PicturePaths
from gendr_jax.restore.folders.report import printable, say_error
from gendr_jax.restore.folders.run import FAULTS, PictureOptions, look, one_line
from gendr_jax.restore.forward import recipe_of
from gendr_jax.restore.options import DTYPES
from gendr_jax.restore.pipeline import MAX_PIXELS
from gendr_jax.weights import blend, one_file

GIB, TERA = 2**30, 1e12


def show(
    todo: list[PicturePaths],
    total: int,
    flags: Any,
    options: PictureOptions,
    report: Callable[[dict], None],
) -> int:
    """Print a line for each image and a total; how many cannot be restored.

    Args:
        todo: images without an output file (with --skip-existing).
        total: number of all images of the command.

    Raises:
        UsageError: no weights folder, or weights of another kind.
    """
    plan, failed, flops, seconds = _planner(flags), 0, 0, 0.0
    for paths in todo:
        names = {"input": str(paths.source), "output": str(paths.target)}
        try:
            reader, scale = look(paths, options)
            head = reader.header
            size = resize.output_size(head.height, head.width, scale)
            # Only the pixels tell whether alpha is opaque.
            image_io.require_fit(paths.target, reader.like, *size, alpha=False)
            estimated = plan(*size)
        except FAULTS as error:
            failed += 1
            why = one_line(error, paths.source)
            say_error(why)
            report({**names, "status": "failed", "error": why})
            continue
        flops += estimated.flops
        seconds += estimated.seconds or 0.0
        line = f"{paths.source} {head.width}x{head.height} -> {paths.target} "
        print(printable(line) + _text(estimated))
        report({**names, "status": "planned", **_entry(estimated)})
    count = len(todo) - failed
    print(
        f"{count} of {total} to do: {flops / TERA:.3g} TFLOP, "
        f"about {seconds:.3g} s on {_device()}, without compiling and file access"
    )
    return failed


def _planner(flags: Any) -> Callable[[int, int], Estimate]:
    """(height, width) of an output -> its estimate."""
    with weights_are_configuration():
        settings = one_file.settings(flags.weights)
        blend.check(flags.fidelity, flags.faithful)
        if flags.faithful is not None:
            one_file.settings(flags.faithful)
    dtype, mesh = DTYPES[dtype_of(flags)], mesh_of(flags)
    recipe = recipe_of(settings, dtype, flags.pad_cfg)
    rate = estimate.measured_rate(dtype)
    devices = 1 if mesh is None else mesh.size
    space = 1 if mesh is None else mesh.shape["space"]
    free = memory.share(_devices()[:devices])

    def plan(height: int, width: int) -> Estimate:
        return estimate.estimate(
            recipe,
            height,
            width,
            tile=flags.tile,
            tile_overlap=flags.tile_overlap,
            devices=devices // space,
            space=space,
            free_bytes=free,
            rate=rate,
            max_pixels=flags.max_pixels or MAX_PIXELS,
        )

    return plan


def _text(estimated: Estimate) -> str:
    tiles = f"{estimated.tiles} tile{'s' * (estimated.tiles > 1)}"
    shape = f"{estimated.pass_hw[1]}x{estimated.pass_hw[0]}"
    return (
        f"{estimated.width}x{estimated.height}, {tiles} of {shape}, "
        f"{estimated.flops / TERA:.3g} TFLOP, {estimated.peak_bytes / GIB:.3g} GiB, "
        f"about {estimated.seconds:.3g} s"
    )


def _entry(estimated: Estimate) -> dict[str, Any]:
    return {
        "width": estimated.width,
        "height": estimated.height,
        "tiles": estimated.tiles,
        "flops": estimated.flops,
        "peak_bytes": estimated.peak_bytes,
        "expected_seconds": round(estimated.seconds or 0.0, 3),
    }


def _devices() -> list[Any]:
    import jax

    return jax.devices()


def _device() -> str:
    return _devices()[0].device_kind
