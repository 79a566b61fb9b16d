"""`gendr evaluate`: measure restored images and compare methods."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendr_jax import overwriting
from gendr_jax.cli.common import tidy_when_terminated
from gendr_jax.cli.evaluate_flags import PARAMETERS, parse
from gendr_jax.errors import UsageError
from gendr_jax.restore.folders.report import say_error

BICUBIC = "bicubic"
ON_DEMAND = ("seam",)  # only if requested: meaningful for tiled results only
EVERY = 10.0  # seconds between lines of progress


def main(args: list[str]) -> int:
    """Run the command; 0 if all images were measured, 1 if some were not.

    Raises:
        UsageError: flags, folders or names that cannot be used.
        InputError: weights that cannot be read.
    """
    flags = parse(args)
    from gendr_jax.cli.common import cache_programs, silence_libraries

    silence_libraries()
    cache_programs()
    with tidy_when_terminated():
        return _run(flags)


def _run(flags: Any) -> int:
    from gendr_jax.evaluate import pairing, results
    from gendr_jax.evaluate.gallery import Gallery
    from gendr_jax.metrics.kinds import OF_SETS
    from gendr_jax.metrics.table import open_metrics, open_set_metrics

    folders, about = _folders(flags)
    names = _metrics(flags, folders)
    _check_outputs(flags)
    pairs = pairing.pair(folders, _methods(flags))
    _check_apart(flags, pairs)
    per_image = [name for name in names if name not in OF_SETS]
    metrics = open_metrics(per_image, _settings(flags, pairs.scale))
    sets = open_set_metrics([name for name in names if name in OF_SETS])
    _require_folders([*metrics, *sets], folders)
    for line in pairs.problems:
        say_error(line)
    gallery = Gallery(flags.crops)
    on_images = gallery.add if flags.html else lambda images: None
    figures, set_figures = _figures(pairs, metrics, sets, on_images)
    for line in figures.problems + set_figures.problems:
        say_error(line)
    problems = pairs.problems + figures.problems + set_figures.problems
    about = dataclasses.replace(about, pairing=pairs.protocol)
    collected = results.collect(
        about, pairs.methods, metrics, figures, problems, sets, set_figures
    )
    if flags.output:
        results.write(Path(flags.output), results.dumps(collected))
    if flags.csv:
        results.write(Path(flags.csv), results.to_csv(collected))
    if flags.html:
        from gendr_jax.evaluate import page

        html = page.render(collected, metrics, gallery, sets)
        results.write(Path(flags.html), html)
    print(results.table(collected, metrics, sets))
    return 1 if problems else 0


def _figures(pairs: Any, metrics: Any, sets: Any, on_images: Any) -> tuple[Any, Any]:
    """(figures of images, figures of sets); `on_images` is called for each item."""
    from gendr_jax.evaluate import measuring
    from gendr_jax.evaluate.set_metrics import SetFigures, collecting

    with _progress(len(pairs.items)) as advance:
        if not sets:
            figures = measuring.run(pairs, metrics, on_item=on_images, advance=advance)
            return figures, SetFigures()
        with collecting() as collection:

            def keep(images: Any) -> None:
                on_images(images)
                collection.add(images)

            figures = measuring.run(pairs, metrics, on_item=keep, advance=advance)
            names = [method.name for method in pairs.methods]
            return figures, collection.measure(names, sets)


def _check_outputs(flags: Any) -> None:
    """Refuse output paths that cannot be written, before measuring starts."""
    from gendr_jax.evaluate import results
    from gendr_jax.image_io import PICTURE_SUFFIXES

    outputs = [Path(name) for name in (flags.output, flags.csv, flags.html) if name]
    resolved = [path.resolve() for path in outputs]
    for path, real_path in zip(outputs, resolved, strict=True):
        if path.is_dir() or resolved.count(real_path) > 1:
            raise UsageError(
                f"{path} is a folder or is named twice. Give each output its own file."
            )
        if path.suffix.lower() in PICTURE_SUFFIXES:
            raise UsageError(f"{path} has the suffix of an image. Give another file.")
        results.require_writable(path)


def _check_apart(flags: Any, pairs: Any) -> None:
    """Refuse an output that is an input image, a parameter file or a weights file."""
    inputs = [path for item in pairs.items for path in (item.gt, item.lr) if path]
    inputs += [path for method in pairs.methods for path in method.files.values()]
    parameters = [flags.niqe, flags.lpips, flags.dists, flags.dino, *flags.restore]
    for path in (Path(text) for text in parameters if text):
        inputs += list(path.rglob("*")) if path.is_dir() else [path]
    outputs = [Path(name) for name in (flags.output, flags.csv, flags.html) if name]
    overwriting.refuse(outputs, inputs, "Give another file.")


def _folders(flags: Any) -> tuple[Any, Any]:
    """(folders to pair, their description for the results)."""
    from gendr_jax.evaluate import test_sets
    from gendr_jax.evaluate.pairing import Folders
    from gendr_jax.evaluate.results import About

    gt: Path | None = Path(flags.gt) if flags.gt else None
    lr: Path | None = Path(flags.lr) if flags.lr else None
    test_set = None
    if flags.set:
        located = test_sets.locate(flags.set, Path(flags.root))
        gt, lr = located.gt, located.lr
        how = "checked by SHA-256" if located.verified else "number of images checked"
        test_set = f"{located.test_set.name} ({how})"
    folders = Folders(
        gt,
        lr,
        scale=flags.scale,
        partial=flags.partial,
        recursive=flags.recursive,
        sr_template=_template(flags, "sr"),
        lr_template=_template(flags, "lr"),
        by_order=flags.by_order,
    )
    return folders, About(_text(gt), _text(lr), test_set)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _template(flags: Any, which: str) -> str:
    """The template by --sr-template or --sr-suffix (or --lr-...); "" without them."""
    from gendr_jax.evaluate.files import MARK

    suffix = getattr(flags, f"{which}_suffix")
    template = getattr(flags, f"{which}_template")
    if suffix and template:
        raise UsageError(
            f"--{which}-suffix {suffix} and --{which}-template {template} exclude each "
            "other. Give one of them."
        )
    if template and template.count(MARK) != 1:
        raise UsageError(
            f"--{which}-template {template!r} has {template.count(MARK)} times {MARK}, "
            f"the name of the ground truth. Write it once, as in SR_{MARK}_x4."
        )
    return template or (MARK + suffix if suffix else "")


def _settings(flags: Any, scale: float) -> Any:
    from gendr_jax.metrics.kinds import Settings

    files = {name: getattr(flags, name) for name in PARAMETERS}
    return Settings(
        channel=flags.channel,
        crop=flags.crop,
        scale=scale,
        tile=flags.tile,
        overlap=flags.tile_overlap,
        **{name: file and Path(file) for name, file in files.items()},
    )


def _metrics(flags: Any, folders: Any) -> list[str]:
    """Names of metrics: those of --metrics, or all that the inputs allow."""
    from gendr_jax.metrics.table import METRICS

    available = {"nothing": True, "gt": folders.gt, "lr": folders.lr}
    if flags.metrics is None:
        return [
            metric.name
            for metric in METRICS
            if available[metric.against]
            and _has_parameters(flags, metric.name)
            and metric.name not in ON_DEMAND
        ]
    names = list(
        dict.fromkeys(n.strip() for n in flags.metrics.split(",") if n.strip())
    )
    if not names:
        raise UsageError("--metrics is empty. Write it as psnr,ssim.")
    return names


def _has_parameters(flags: Any, name: str) -> bool:
    """Whether the files that a metric needs are given; dino-mean needs --dino."""
    family = name.partition("-")[0]
    return family not in PARAMETERS or getattr(flags, family) is not None


def _require_folders(metrics: list[Any], folders: Any) -> None:
    second_images = {"gt": "ground truth", "lr": "inputs"}
    for opened in metrics:
        second = opened.metric.against
        if second != "nothing" and getattr(folders, second) is None:
            raise UsageError(
                f"{opened.metric.name} compares with {second_images[second]}. "
                f"Give their folder with --{second}."
            )


def _methods(flags: Any) -> list[tuple[Any, Path | None]]:
    """(method, its folder; None if its images are computed)."""
    from gendr_jax.evaluate import methods

    named: list[tuple[Any, Path | None]] = []
    for text in flags.sr:
        name, source = _split_name(text)
        if source == BICUBIC:
            named.append((methods.bicubic(name or BICUBIC), None))
        else:
            folder = Path(source)
            name = name or folder.resolve().name
            named.append((methods.Method(name, source, {}), folder))
    for text in flags.restore:
        name, source = _split_name(text)
        named.append((methods.restored(name or "gendr", source, flags.dtype), None))
    _check_names([method.name for method, _ in named])
    return named


def _split_name(text: str) -> tuple[str, str]:
    """(NAME, REST) of NAME=REST; ("", text) without =, or if it is a folder."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists():
        return "", text
    if not name or not rest:
        raise UsageError(f"{text!r} has no name or no folder. Write it as NAME=DIR.")
    return name, rest


def _check_names(names: list[str]) -> None:
    from gendr_jax.evaluate.gallery import INPUT, TRUTH

    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two methods have the name {name}. Name them, as in --sr ours={name}."
            )
        if name != (shown := name.encode(errors="replace").decode()):
            raise UsageError(f"the name {shown} is not UTF-8. Give another name.")
        if name in (INPUT, TRUTH):
            raise UsageError(f"{name} is reserved. Give the method another name.")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, otherwise a line every ten seconds."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit="image") as bar:
            yield lambda count: bar.update(count) and None
        return
    done, last_line = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        if time.monotonic() - last_line > EVERY:
            last_line = time.monotonic()
            print(f"{done} of {total} images", flush=True)

    yield advance
