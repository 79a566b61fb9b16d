"""`gendr evaluate`: how good restored pictures are, by the protocol of the field."""

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
ON_DEMAND = ("seam",)  # only when asked for: says nothing without tiles
EVERY = 10.0  # seconds between lines of progress


def main(args: list[str]) -> int:
    """Run the command; 0 when all was measured, 1 when some pictures were not.

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
    alone = [name for name in names if name not in OF_SETS]
    metrics = open_metrics(alone, _settings(flags, pairs.scale))
    sets = open_set_metrics([name for name in names if name in OF_SETS])
    _require_folders([*metrics, *sets], folders)
    for line in pairs.problems:
        say_error(line)
    gallery = Gallery(flags.crops)
    see = gallery.add if flags.html else lambda seen: None
    figures, whole = _figures(pairs, metrics, sets, see)
    for line in figures.problems + whole.problems:
        say_error(line)
    problems = pairs.problems + figures.problems + whole.problems
    about = dataclasses.replace(about, pairing=pairs.protocol)
    found = results.collect(
        about, pairs.methods, metrics, figures, problems, sets, whole
    )
    if flags.output:
        results.write(Path(flags.output), results.dumps(found))
    if flags.csv:
        results.write(Path(flags.csv), results.to_csv(found))
    if flags.html:
        from gendr_jax.evaluate import page

        results.write(Path(flags.html), page.render(found, metrics, gallery, sets))
    print(results.table(found, metrics, sets))
    return 1 if problems else 0


def _figures(pairs: Any, metrics: Any, sets: Any, see: Any) -> tuple[Any, Any]:
    """(those of pictures, those of methods as a whole); `see` is shown each item."""
    from gendr_jax.evaluate import measuring
    from gendr_jax.evaluate.set_metrics import SetFigures, collecting

    with _progress(len(pairs.items)) as advance:
        if not sets:
            return measuring.run(
                pairs, metrics, on_item=see, advance=advance
            ), SetFigures()
        with collecting() as collection:

            def keep(seen: Any) -> None:
                see(seen)
                collection.add(seen)

            figures = measuring.run(pairs, metrics, on_item=keep, advance=advance)
            names = [method.name for method in pairs.methods]
            return figures, collection.measure(names, sets)


def _check_outputs(flags: Any) -> None:
    """What would come to light after all the work."""
    from gendr_jax.evaluate import results
    from gendr_jax.image_io import PICTURE_SUFFIXES

    named = [Path(name) for name in (flags.output, flags.csv, flags.html) if name]
    whole = [path.resolve() for path in named]
    for path, own in zip(named, whole, strict=True):
        if path.is_dir() or whole.count(own) > 1:
            raise UsageError(f"{path} cannot be the one file of results. Name another.")
        if path.suffix.lower() in PICTURE_SUFFIXES:
            raise UsageError(f"{path} is the name of a picture. Name another file.")
        results.require_writable(path)


def _check_apart(flags: Any, pairs: Any) -> None:
    """No file of results is a picture, a file of parameters or of weights."""
    read = [path for item in pairs.items for path in (item.gt, item.lr) if path]
    read += [path for method in pairs.methods for path in method.files.values()]
    given = [flags.niqe, flags.lpips, flags.dists, flags.dino, *flags.restore]
    for path in (Path(text) for text in given if text):
        read += list(path.rglob("*")) if path.is_dir() else [path]
    outputs = [Path(name) for name in (flags.output, flags.csv, flags.html) if name]
    overwriting.refuse(outputs, read, "Name another file.")


def _folders(flags: Any) -> tuple[Any, Any]:
    """(folders to pair, what results say of them)."""
    from gendr_jax.evaluate import test_sets
    from gendr_jax.evaluate.pairing import Folders
    from gendr_jax.evaluate.results import About

    gt: Path | None = Path(flags.gt) if flags.gt else None
    lr: Path | None = Path(flags.lr) if flags.lr else None
    test_set = None
    if flags.set:
        located = test_sets.locate(flags.set, Path(flags.root))
        gt, lr = located.gt, located.lr
        how = "checked by SHA-256" if located.verified else "number of pictures checked"
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
    """Of --sr-template or --sr-suffix, or of --lr-...; empty where neither is given."""
    from gendr_jax.evaluate.files import MARK

    suffix = getattr(flags, f"{which}_suffix")
    template = getattr(flags, f"{which}_template")
    if suffix and template:
        raise UsageError(
            f"--{which}-suffix {suffix} and --{which}-template {template} say the same "
            "thing. Give one of them."
        )
    if template and template.count(MARK) != 1:
        raise UsageError(
            f"--{which}-template {template!r} has {template.count(MARK)} times {MARK}, "
            f"the name of the truth. Write it once, as in SR_{MARK}_x4."
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
    """Names of metrics: those asked for, or all that can be had."""
    from gendr_jax.metrics.table import METRICS

    given = {"nothing": True, "gt": folders.gt, "lr": folders.lr}
    if flags.metrics is None:
        return [
            metric.name
            for metric in METRICS
            if given[metric.against]
            and _has_parameters(flags, metric.name)
            and metric.name not in ON_DEMAND
        ]
    names = list(
        dict.fromkeys(n.strip() for n in flags.metrics.split(",") if n.strip())
    )
    if not names:
        raise UsageError("--metrics names none. Write it as psnr,ssim.")
    return names


def _has_parameters(flags: Any, name: str) -> bool:
    """Whether the metric needs none, or a flag names them; dino-mean needs --dino."""
    family = name.partition("-")[0]
    return family not in PARAMETERS or getattr(flags, family) is not None


def _require_folders(metrics: list[Any], folders: Any) -> None:
    what = {"gt": "truths", "lr": "inputs"}
    for opened in metrics:
        second = opened.metric.against
        if second != "nothing" and getattr(folders, second) is None:
            raise UsageError(
                f"{opened.metric.name} compares with {what[second]}. Name their folder "
                f"with --{second}."
            )


def _methods(flags: Any) -> list[tuple[Any, Path | None]]:
    """(method, its folder, or None where its pictures are made)."""
    from gendr_jax.evaluate import methods

    found: list[tuple[Any, Path | None]] = []
    for text in flags.sr:
        name, source = _named(text)
        if source == BICUBIC:
            found.append((methods.bicubic(name or BICUBIC), None))
        else:
            folder = Path(source)
            name = name or folder.resolve().name
            found.append((methods.Method(name, source, {}), folder))
    for text in flags.restore:
        name, source = _named(text)
        found.append((methods.restored(name or "gendr", source, flags.dtype), None))
    _check_names([method.name for method, _ in found])
    return found


def _named(text: str) -> tuple[str, str]:
    """(name or nothing, the rest) of NAME=REST; a folder with = in it is a folder."""
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
                f"two methods are called {name}. Name them, as in --sr ours={name}."
            )
        if name != (shown := name.encode(errors="replace").decode()):
            raise UsageError(f"the name {shown} is not UTF-8. Give another name.")
        if name in (INPUT, TRUTH):
            raise UsageError(f"a method cannot be called {name}. Give another name.")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; otherwise a line now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit="image") as bar:
            yield lambda count: bar.update(count) and None
        return
    done, told = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told > EVERY:
            told = time.monotonic()
            print(f"{done} of {total} pictures", flush=True)

    yield advance
