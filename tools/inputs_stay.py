"""Check that no command changes its inputs, on a set of 200 unusual pictures.

    python -m tools.inputs_stay [FOLDER] [--pictures 200]

The set has the layouts of DIV2K, Urban100 and RealSR, links to folders and files, a
link to itself, one to nothing, a name that is not UTF-8, two names that differ in case
and a damaged file. Degrading, shards, training and evaluating run on it, each once with
its output at its input. After each command every input is compared byte for byte with
its original. Prints a table; exit status 0: nothing changed and every command ended
with the expected status.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tools import micro_run

GENDR = "import sys; from gendr_jax.cli.main import main; sys.exit(main())"
ROOT = Path(__file__).resolve().parents[1]
NOT_UTF8 = b"img_\xff.png"


# The set


def make_set(root: Path, pictures: int = 200) -> None:
    """`pictures` of them, pairs of three sets and the unusual ones."""
    rng = np.random.default_rng(0)
    pairs = (pictures - len(UNUSUAL)) // 2
    layouts = list(_names(pairs))
    for high, low in layouts:
        # some truths are no multiple of the scale, as in Urban100 and Set14
        height, width = (int(n) for n in rng.integers(48, 100, 2))
        if "Urban" not in high:
            height, width = height // 4 * 4, width // 4 * 4
        x = _picture(rng, height, width)
        _save(root / high, x)
        _save(root / low, x[: height // 4 * 4, : width // 4 * 4][::4, ::4])
    for name in UNUSUAL:
        _save(root / "odd" / name, _picture(rng, 64, 64))
    damaged = root / "odd" / UNUSUAL[0]
    damaged.write_bytes(damaged.read_bytes()[:-300])
    first = (root / layouts[0][0]).relative_to(root)
    plain = os.fsencode(root / "odd") + b"/"
    os.rename(plain + os.fsencode(UNUSUAL[1]), plain + NOT_UTF8)
    for name, target in {
        "again": ".",
        "odd/up": "..",
        "everything": "DIV2K",
        "odd/best.png": f"../{first}",
        "odd/gone.png": "nothing.png",
    }.items():
        (root / name).symlink_to(target)


UNUSUAL = ("damaged.png", "img_x.png", "Foto.JPG", "foto.png")


def _names(pairs: int) -> Iterator[tuple[str, str]]:
    """(truth, input) of each pair, by thirds."""
    for k in range(pairs):
        n, kind = k // 3 + 1, k % 3
        if kind == 0:
            low = f"DIV2K/DIV2K_valid_LR_bicubic/X4/{n + 800:04d}x4.png"
            yield f"DIV2K/DIV2K_valid_HR/{n + 800:04d}.png", low
        elif kind == 1:
            low = f"Urban100/LR_bicubic/X4/img{n:03d}x4.png"
            yield f"Urban100/HR/img{n:03d}.png", low
        else:
            camera = ("Canon", "Nikon")[n % 2]
            low = f"RealSR/test_LR/{camera}_{n:03d}_LR4.png"
            yield f"RealSR/test_HR/{camera}_{n:03d}_HR.png", low


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def _save(path: Path, pixels_hwc: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels_hwc)).save(path)


# What is compared


def snapshot(root: Path) -> dict[bytes, str]:
    """{path: SHA-256 of a file, target of a link}; links are not followed."""
    contents, folders = {}, [os.fsencode(root)]
    while folders:
        folder = folders.pop()
        for name in os.listdir(folder):
            path = folder + b"/" + name
            if os.path.islink(path):
                contents[path] = f"-> {os.fsdecode(os.readlink(path))}"
            elif os.path.isdir(path):
                folders.append(path)
            else:
                with open(path, "rb") as file:
                    contents[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return contents


def changes(before: dict[bytes, str], after: dict[bytes, str]) -> tuple[int, int]:
    """(inputs that are missing or have other bytes, new names)."""
    changed = sum(after.get(path) != content for path, content in before.items())
    return changed, sum(path not in before for path in after)


# The commands


@dataclass(frozen=True)
class Step:
    """A command, and the status that it should end with."""

    what: str
    status: int
    args: list[str]
    module: str = ""  # of tools, instead of gendr


def steps(work: Path, root: Path) -> list[Step]:
    """In order; FOLDER/pairs and FOLDER/shards are made by earlier ones."""
    photos, pairs, shards = str(root), str(work / "pairs"), str(work / "shards")
    valid = root / "DIV2K/DIV2K_valid_HR"
    plain = ["--preset", "bicubic"]
    config = micro_run.prepare(work / "micro")
    vae = ["train", "--config", str(config), "--config.steps=2"]
    records = f"--config.data.path={shards}/*.array_record"
    real = ["--gt", str(root / "RealSR/test_HR"), "--lr", str(root / "RealSR/test_LR")]
    urban = ["--gt", str(root / "Urban100/HR"), "--sr", "bicubic"]
    urban += ["--lr", str(root / "Urban100/LR_bicubic/X4")]
    first = str(valid / "0801.png")
    shard, tool = "shards", "make_arrayrecord"

    def degrade(out: str, *more: str) -> list[str]:
        return ["degrade", "-i", photos, "-o", out, *plain, *more]

    def evaluate(*more: str) -> list[str]:
        return ["evaluate", *more, "--metrics", "psnr"]

    return [
        Step("degrade into its input", 2, degrade(photos)),
        Step("degrade, HR a link to its input", 2, degrade(str(work / "linked"))),
        Step("degrade", 1, degrade(pairs)),
        Step("degrade --resume", 1, degrade(pairs, "--resume")),
        Step(f"{shard} into their input", 2, [photos, photos], tool),
        Step(f"{shard} below their input", 2, [photos, f"{photos}/new"], tool),
        Step(shard, 0, [photos, shards, "--shards", "7", "--processes", "1"], tool),
        Step("train, workdir its data", 0, [*vae, "--workdir", shards, records]),
        Step("train on shards", 0, [*vae, "--workdir", str(work / "run"), records]),
        Step(
            "evaluate into a truth", 2, evaluate(*real, "--sr", "bicubic", "-o", first)
        ),
        Step(
            "evaluate into a truth, by a link",
            2,
            evaluate(*real, "--sr", "bicubic", "-o", str(work / "link.json")),
        ),
        Step("evaluate RealSR", 0, evaluate(*real, "--sr", "bicubic", "-o", "r.json")),
        Step("evaluate Urban100", 0, evaluate(*urban, "-o", "u.json")),
        Step(
            "evaluate odd names",
            1,
            evaluate(
                "--gt", photos + "/odd", "--sr", photos + "/odd", "--html", "o.html"
            ),
        ),
    ]


def run(step: Step, work: Path) -> tuple[int, list[str]]:
    """(exit status, lines of its output)."""
    start = ["-m", f"tools.{step.module}"] if step.module else ["-c", GENDR]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, *start, *step.args]
    completed = subprocess.run(command, capture_output=True, cwd=work, env=env)
    lines = (completed.stdout + completed.stderr).decode(errors="replace").splitlines()
    return completed.returncode, lines


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: inputs are unchanged, all commands had the expected status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="a new folder, kept")
    parser.add_argument("--pictures", type=int, default=200)
    options = parser.parse_args(argv)
    if options.folder:
        options.folder.mkdir(parents=True)
        return check(options.folder.resolve(), options.pictures)
    with tempfile.TemporaryDirectory(prefix="gendr-inputs-") as folder:
        return check(Path(folder), options.pictures)


def check(work: Path, pictures: int) -> int:
    """Make the set below `work`, run all, print the table."""
    root = work / "set"
    make_set(root, pictures)
    (work / "linked").mkdir()
    (work / "linked/HR").symlink_to("../set")
    (work / "link.json").symlink_to("set/RealSR/test_HR/Nikon_001_HR.png")
    before, failures = snapshot(root), 0
    print(f"{len(before)} files and links, {pictures} pictures\n")
    print("| command | exit | wanted | inputs changed | messages about unusual files |")
    print("|---|---|---|---|---|")
    shards: dict[bytes, str] = {}
    for step in steps(work, root):
        status, lines = run(step, work)
        changed, added = changes(before, snapshot(root))
        records = snapshot(work / "shards") if (work / "shards").exists() else {}
        changed += changes(shards, records)[0]
        if step.what == "shards":
            shards = records
        failures += bool(changed or added or status != step.status)
        columns = (step.what, status, step.status, changed + added, summary(lines))
        print("|", *(f"{column} |" for column in columns))
    return 1 if failures else 0


def summary(output_lines: list[str]) -> str:
    """The lines that name an unusual file, or the last one."""
    names = ("damaged", "UTF-8", "gone.png", "oto.")
    lines = [line for line in output_lines if any(word in line for word in names)]
    lines = lines or [line for line in output_lines if "error:" in line]
    return " / ".join(line[-150:] for line in (lines or output_lines[-1:])[:5])


if __name__ == "__main__":
    raise SystemExit(main())
