"""One run to which everything happens that a run of days meets, told as a table.

    python -m tools.eventful_run [--steps 2000] [--folder DIR]

A small stage vae (two roles, the photographs of scikit-image) is killed, fills its
disk, is stopped, diverges, goes back to an older checkpoint, is forked, and goes on
with other learning rates, batches and meshes. What every start adds to the first
command is what the manual or the error message before it says. Workdirs are on a tmpfs
of 64 MB, which is really filled; mounting it takes root, or `unshare --user
--map-root-user --mount` before the command. Exit status 0: every start ended as it
should.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gendr_jax.checkpoints import manager
from tools.micro_run import VAE, committed, finish, prepare, run_file, start

DISK_MB = 64
TAIL = 1 << 16  # bytes; a line has far fewer
BAD_STEPS = 5  # so many skipped updates end the run
PHOTOS = {"path": "builtin:photographs", "crop": 16, "preset": "bicubic"}
HEADS = ("start", "adds to the command", "resumed from", "steps lost")
HEADS += ("then", "last step", "exit", "last words")


@dataclasses.dataclass(frozen=True)
class Row:
    """One start: from where it went on, and how it ended."""

    adds: str
    resumed: int | None
    lost: int
    then: str
    step: int
    status: int
    words: str

    def cells(self, number: int) -> list[str]:
        came = "" if self.resumed is None else str(self.resumed)
        told = [str(number), self.adds, came, str(self.lost) if came else ""]
        told += [self.then, str(self.step), str(self.status), self.words]
        return [cell.replace("|", "\\|") for cell in told]


class Story:
    """The starts of one run, in the workdir that is current."""

    def __init__(self, folder: Path, disk: Path, steps: int):
        self.disk, self.steps, self.rows = disk, steps, list[Row]()
        every = max(steps // 40, 2)
        own = {"checkpoint": {"every": every, "keep": 3}, "steps": steps}
        own |= {"data": PHOTOS, "max_bad_steps": BAD_STEPS}
        self.config = prepare(folder, "vae", VAE | own)
        self.every, self.workdir, self.problems = every, disk / "run", list[str]()

    def at(self, share: float) -> int:
        """The step at this share of the run."""
        return round(share * self.steps)

    def go(
        self,
        then: str,
        *adds: str,
        status: int,
        until: int | None = None,
        act: Callable[[subprocess.Popen], None] = lambda run: None,
        devices: int = 1,
    ) -> Row:
        """Start, `act` once step `until` is logged, and note how it ends."""
        before, known = self.logged(), run_file(self.workdir).get("started")
        run = start(
            self.config,
            self.workdir,
            *adds,
            devices=devices,
        )
        with ThreadPoolExecutor(1) as reader:  # a pipe that nobody reads fills up
            end = reader.submit(finish, run, seconds=7200)
            if until is not None:
                while run.poll() is None and self.logged() < until:
                    time.sleep(0.02)
                act(run)
        ((ended, printed),) = end.result()
        record = run_file(self.workdir)
        trained = record.get("started") != known
        resumed = (record.get("resumed_from") or 0) if trained else None
        lost = max(before - resumed, 0) if resumed is not None else 0
        row = Row(
            adds=" ".join(f"`{self.shown(flag(text))}`" for text in adds),
            resumed=resumed,
            lost=lost,
            then=then,
            step=self.logged(),
            status=ended,
            words=self.shown(last_words(printed)),
        )
        self.rows.append(row)
        print(f"{then}: exit {ended}, step {row.step}", file=sys.stderr, flush=True)
        if ended != status:
            self.problems.append(f"{then}: exit {ended}, not {status}:\n{printed}")
        return row

    def shown(self, text: str) -> str:
        """Without the path of the disk."""
        return text.replace(f"{self.disk}/", "")

    def logged(self) -> int:
        """The newest step in metrics.jsonl; asked again and again, so read in part."""
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL, 0))
            lines = file.read().split(b"\n")[:-1]  # the last one is being written
        return json.loads(lines[-1])["step"] if lines else 0

    def expect(self, fact: bool, what: str) -> None:
        if not fact:
            self.problems.append(what)


def flag(text: str) -> str:
    """What `start` makes of it."""
    return text if text.startswith("--") else f"--config.{text}"


def logged_steps(workdir: Path) -> list[int]:
    """The steps in metrics.jsonl, without a last line that is being written."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [
        json.loads(line)["step"]
        for line in text[: text.rfind("\n") + 1].split("\n")
        if line
    ]


def last_words(printed: str) -> str:
    """The error, or the line with which a run ends."""
    lines = [line.strip() for line in printed.splitlines()]
    for mark in ("gendr: error: ", "stopped at step"):
        found = [line for line in lines if mark in line]
        if found:
            return found[-1]
    return ""


def terminate(run: subprocess.Popen) -> None:
    run.send_signal(signal.SIGTERM)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of DISK_MB, mounted below `folder`."""
    disk = folder / "disk"
    disk.mkdir()
    size = f"size={DISK_MB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits; the file that takes the room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def interrupted(story: Story) -> None:
    """Killed, starved of disk, stopped: the same command goes on each time."""
    at, ballast = story.at, story.disk / "ballast"
    story.go("SIGKILL", status=-9, until=at(0.15), act=lambda run: run.kill())
    story.go("disk full", status=1, until=at(0.3), act=lambda run: fill(story.disk))
    ballast.unlink()  # "make room, then start the same command again"
    story.go("SIGTERM", status=75, until=at(0.4), act=terminate)


def diverged(story: Story) -> None:
    """A learning rate far too high, a launcher that insists, and the way back."""
    rates = ["optim.lr=1e30"]
    for again in ("diverges", "a launcher's restart", "the next restart"):
        story.go(again, *rates, status=1)
    story.go("refused", *rates, status=2)
    kept = sorted(
        int(p.name)
        for p in (story.workdir / manager.FOLDER).iterdir()
        if p.name.isdigit()
    )
    back = story.go(
        "SIGTERM",
        f"--from-step={kept[-2]}",
        status=75,
        until=story.at(0.5),
        act=terminate,
    )
    story.expect(back.resumed == kept[-2], f"not back at step {kept[-2]}: {back}")


def forked(story: Story) -> None:
    """Another weight of a loss, from the moments and roles of this run."""
    old, end = story.workdir, committed(story.workdir)
    before = manager.describe(old)["fingerprint"]
    steps = logged_steps(old)
    story.expect(steps == list(range(1, len(steps) + 1)), f"steps of {old}: {steps}")
    story.workdir = story.disk / "forked"
    fork = [f"--fork={old}/{manager.FOLDER}/{end}", "kl_weight=1e-4"]
    row = story.go("SIGTERM", *fork, status=75, until=story.at(0.6), act=terminate)
    story.expect(row.resumed == end, f"the fork began at {row.resumed}, not {end}")
    story.expect(
        manager.describe(old)["fingerprint"] == before, "the fork changed its origin"
    )


def steered(story: Story) -> None:
    """Another rate, another batch, another mesh; what is changed once stays."""
    kept = ["kl_weight=1e-4", "optim.lr=1e-3", "optim.schedule=cosine"]
    story.go("SIGTERM", *kept, status=75, until=story.at(0.7), act=terminate)
    kept += ["batch_size=16", "accumulate=2"]
    story.go("refused", *kept, status=2)
    accept = "--accept-changes"
    story.go("SIGTERM", *kept, accept, status=75, until=story.at(0.85), act=terminate)
    last = story.go("done", *kept, "mesh=data=2,fsdp=4", status=0, devices=8)
    story.expect(last.step == story.steps, f"it ended at step {last.step}")
    weights = story.workdir / "weights" / "gendr.json"
    story.expect(weights.exists(), "no weights were written")
    steps = logged_steps(story.workdir)
    begun = committed(story.disk / "run") + 1
    story.expect(steps == list(range(begun, story.steps + 1)), f"steps: {steps}")


def table(rows: list[Row]) -> Iterator[str]:
    yield "| " + " | ".join(HEADS) + " |"
    yield "|" + "---|" * len(HEADS)
    for number, row in enumerate(rows, 1):
        yield "| " + " | ".join(row.cells(number)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    folder = flags.folder or Path(tempfile.mkdtemp(prefix="gendr_events_"))
    folder.mkdir(parents=True, exist_ok=True)
    with small_disk(folder) as disk:
        story = Story(folder, disk, flags.steps)
        for chapter in (interrupted, diverged, forked, steered):
            chapter(story)
            if story.problems:
                break
    print(*table(story.rows), sep="\n")
    print(*story.problems, sep="\n", file=sys.stderr)
    return int(bool(story.problems))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
