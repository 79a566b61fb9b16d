"""Kill a real training run with SIGKILL at random moments; the result must be exact.

    python tools/kill_test.py [--kills 50] [--seed 0] [--folder DIR]

A small `gendr train` that saves every second step is killed while it starts, compiles,
steps and saves, and started again each time. At the end fingerprint and losses are
compared with those of an uninterrupted run. Exit status 0: they are the same.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gendr_jax.checkpoints import manager  # noqa: E402
from tools.micro_run import committed, finish, losses, prepare, run_file, start  # noqa: E402


def kill_once(rng, config, workdir):
    """(newest committed step, in a save?, step it went on from if it got so far)."""
    before = run_file(workdir).get("started")
    run = start(config, workdir, "steps=1000000")

    def compiled(record):
        return record.get("started") != before and "compile_seconds" in record

    saves = rng.choice([None, 0, 1, 1, 2, 2])  # None: at any moment of the start
    target_step = committed(workdir) + 2 * (saves or 0)
    while saves is not None and run.poll() is None:
        if compiled(run_file(workdir)) and committed(workdir) >= target_step:
            break
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 10.0 if saves is None else 1.0))
    run.kill()
    (status, printed), *_ = finish(run)
    assert status == -9, f"it ended by itself:\n{printed}"
    if not compiled(record := run_file(workdir)):
        return committed(workdir), False, None
    # What an earlier kill had left was removed by this start.
    in_save = any((workdir / manager.FOLDER).glob("*checkpoint-tmp*"))
    return committed(workdir), in_save, record["resumed_from"] or 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    folder = flags.folder or Path(tempfile.mkdtemp(prefix="gendr_kills_"))
    rng, config, cut = random.Random(flags.seed), prepare(folder), folder / "killed"
    saves = training = lost = before = 0
    for number in range(1, flags.kills + 1):
        newest, in_save, resumed = kill_once(rng, config, cut)
        saves, training = saves + in_save, training + (resumed is not None)
        lost += max(before - newest, 0) + max(before - (resumed or before), 0)
        print(f"kill {number}: committed {before} -> {newest}, in a save: {in_save}")
        before = newest
    steps, unbroken = before + 4, folder / "unbroken"
    ends = [finish(start(config, w, f"steps={steps}"))[0] for w in (cut, unbroken)]
    assert [status for status, _ in ends] == [0, 0], ends
    lost += before - (run_file(cut)["resumed_from"] or 0)
    prints = [manager.describe(w)["fingerprint"] for w in (cut, unbroken)]
    aside = len(list((cut / manager.FOLDER).glob("*.damaged-*")))
    same = prints[0] == prints[1] and losses(cut) == losses(unbroken)
    print(f"kills {flags.kills}, after compiling {training}, in a save {saves}")
    print(f"committed steps lost {lost}, checkpoints set aside {aside}")
    print(f"{steps} steps: {'equal' if same else 'DIFFERENT'} fingerprint and losses")
    return 0 if same and not lost and not aside else 1


if __name__ == "__main__":
    sys.exit(main())
