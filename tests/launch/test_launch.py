"""launch/: the scripts are run with stand-ins for the programs of their engine.

These note how they were called; the command of `gendr train` in every file goes through
our own flags. The JobSet: test_launch_jobset.py.
"""

import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from tests.helpers.launch_runs import (
    LAUNCH,
    ROOT,
    accept,
    calls,
    environment,
    run,
    stand_in,
)

SCRIPTS = sorted(LAUNCH.glob("*.sh")) + sorted(LAUNCH.glob("*.sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_bash_reads_it(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = script.read_text().splitlines()[0]
    assert first == "#!/usr/bin/env bash"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is absent")
def test_shellcheck():
    done = subprocess.run(
        ["shellcheck", "--severity=warning", *SCRIPTS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# --- train.sh


@pytest.mark.parametrize("status", [0, 1, 2, 134])
def test_train_sh_hands_on_arguments_and_status(tmp_path, status):
    stand_in(tmp_path, "gendr", f"exit {status}")
    done = run(LAUNCH / "train.sh", tmp_path, "--workdir=a b", "--x='*'")
    assert done.returncode == status
    assert calls(tmp_path, "gendr") == [["train", "--workdir=a b", "--x='*'"]]


@pytest.mark.parametrize("status", [75, 0, 1], ids=["saved", "done", "failed"])
def test_train_sh_told_to_stop(tmp_path, status):
    """The first SIGTERM is handed on, the second is not."""
    stand_in(
        tmp_path,
        "gendr",
        f"""count=0
trap 'count=$((count + 1)); echo $count > {tmp_path}/signals' TERM
touch {tmp_path}/ready
until [ -e {tmp_path}/finish ]; do sleep 0.05; done
exit {status}""",
    )
    process = subprocess.Popen(
        ["bash", LAUNCH / "train.sh"], env=environment(tmp_path), cwd=ROOT
    )
    try:
        wait_for(tmp_path / "ready")
        process.send_signal(signal.SIGTERM)
        wait_for(tmp_path / "signals")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # for a second signal that must not come
        (tmp_path / "finish").touch()
        assert process.wait(timeout=30) == status
        assert (tmp_path / "signals").read_text() == "1\n"
    finally:
        (tmp_path / "finish").touch()
        process.kill()


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path.name} did not appear")


def chips_of(kind):
    """The chips that the name of a slice says; v5p would count cores."""
    return int(re.fullmatch(r"(?:v6e|v5litepod)-([0-9]+)", kind)[1])


# --- xpk.sh


def test_xpk_command(tmp_path, monkeypatch):
    stand_in(tmp_path, "xpk", "")
    done = run(LAUNCH / "xpk.sh", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    ((*words, dry),) = calls(tmp_path, "xpk")
    assert words[:2] == ["workload", "create"] and dry == "--dry-run"
    flags = dict(word.split("=", 1) for word in words[2:])
    # A usage error is in neither list: the ones here and XPK's own, 42 and 127 to 255.
    assert flags["--restart-on-exit-codes"] == "1,75"
    assert int(flags["--max-restarts"]) > 0
    command = shlex.split(flags["--command"])
    assert command[:2] == ["exec", "launch/train.sh"]
    chips = chips_of(flags["--tpu-type"]) * int(flags["--num-slices"])
    values, _ = accept(command[2:], monkeypatch, chips=chips)
    assert values.workdir.startswith("gs://")


# --- slurm.sbatch


def test_sbatch_directives():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and line[0] != "#")
    assert not [n for n in lines[first:] if n.startswith("#SBATCH")]  # sbatch ignores
    found = {}
    for line in lines[:first]:
        if line.startswith("#SBATCH"):
            name, value = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups()
            assert name not in found
            found[name] = value
    assert found["ntasks-per-node"] == found["gpus-per-node"]  # one process a GPU
    assert "gpus-per-task" not in found  # each process has to see all of them
    assert re.fullmatch(r"TERM@[0-9]+", found["signal"])
    assert found["requeue"] is None and found["open-mode"] == "append"
    assert re.fullmatch(r"[0-9]{1,3}:[0-9]{2}:[0-9]{2}", found["time"])


def slurm(folder, *, status, reason, restarts):
    """Run the job with paths in `folder`; (exit status, was it queued again?)."""
    (folder / "runs/distill").mkdir(parents=True)
    if reason:
        text = json.dumps({"stopped": reason})
        (folder / "runs/distill/run.json").write_text(text)
    script = (LAUNCH / "slurm.sbatch").read_text()
    script, count = re.subn(r"(?m)^RUN=\S+", f"RUN={folder}", script)
    assert count == 1
    (folder / "job").write_text(script)
    stand_in(folder, "srun", f"exit {status}")
    stand_in(folder, "scontrol", "")
    more = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts)}
    done = run(folder / "job", folder, **more)
    asked = calls(folder, "scontrol")
    assert asked in ([], [["requeue", "77"]])
    return done.returncode, bool(asked)


@pytest.mark.parametrize(
    ("status", "reason", "restarts", "again"),
    [
        (0, "done", 0, False),
        (0, "sigterm", 0, False),  # run.json is of an earlier start
        (75, "sigterm", 500, True),  # however often
        (75, "hang", 0, True),
        (75, "hang", 20, False),
        (2, "sigterm", 0, False),  # a usage error; run.json is of an earlier start
        (2, "", 0, False),
        (1, "nan", 0, False),
        (134, "running", 0, True),
        (1, "error", 19, True),
        (1, "error", 20, False),
    ],
)
def test_sbatch_queues_itself_again(tmp_path, status, reason, restarts, again):
    found = slurm(tmp_path, status=status, reason=reason, restarts=restarts)
    assert found == (status, again)


def test_sbatch_command(tmp_path, monkeypatch):
    slurm(tmp_path, status=0, reason="done", restarts=0)
    (words,) = calls(tmp_path, "srun")
    assert words[:3] == ["--kill-on-bad-exit=0", "gendr", "train"]
    text = (LAUNCH / "slurm.sbatch").read_text()
    sizes = re.findall(r"--(?:nodes|ntasks-per-node)=([0-9]+)", text)
    chips = math.prod(map(int, sizes))
    values, config = accept(words[3:], monkeypatch, chips=chips)
    assert values.workdir == f"{tmp_path}/runs/distill"
    assert config.data.workers == 4


# --- gcloud-ssh.sh

# Keeps the state of the slice in a file; the third word says what is asked for.
GCLOUD = """
cd "$(dirname "$0")"
case "$4" in
  describe) cat state 2>/dev/null || exit 1 ;;
  create) echo ACTIVE > state ;;
  delete) rm state ;;
  ssh)
    case "$*" in *train.sh*) ;; *) exit "$(cat install 2>/dev/null || echo 0)" ;; esac
    echo run >> runs
    n=$(wc -l < runs)
    read -r status after < <(sed -n "${n}p" plan)
    echo "$after" > state
    exit "$status"
    ;;
esac
"""


def gcloud(folder, *plan):
    """Run the loop; each line of `plan`: exit status of a training, state after it."""
    stand_in(folder, "gcloud", GCLOUD)
    (folder / "plan").write_text("\n".join(plan) + "\n")
    done = run(LAUNCH / "gcloud-ssh.sh", folder, PAUSE="0")
    return done.returncode, [words[3] for words in calls(folder, "gcloud")]


def test_gcloud_loop_goes_on_until_done(tmp_path):
    plan = ["255 SUSPENDED", "255 ACTIVE", "0 ACTIVE"]
    status, asked = gcloud(tmp_path, *plan)
    assert status == 0
    asked = [word for word in asked if word != "describe"]
    preempted = ["create", "ssh", "ssh", "delete"]
    assert asked == preempted + ["create", "ssh", "ssh", "ssh", "ssh", "delete"]


def test_gcloud_loop_ends_at_a_usage_error(tmp_path):
    status, asked = gcloud(tmp_path, "2 ACTIVE")
    assert status == 2
    assert asked.count("create") == 1 and "delete" not in asked


def test_gcloud_loop_gives_up(tmp_path):
    status, asked = gcloud(tmp_path, *["1 ACTIVE"] * 30)
    assert status == 1
    assert asked.count("ssh") == 2 * 21  # RETRIES and the first, install and train


def test_gcloud_loop_takes_no_status_of_the_installation_for_a_usage_error(tmp_path):
    (tmp_path / "install").write_text("2")
    status, asked = gcloud(tmp_path, "0 ACTIVE")
    assert status == 1 and asked.count("ssh") == 21


def test_gcloud_command(tmp_path, monkeypatch):
    gcloud(tmp_path, "0 ACTIVE")
    made = [words for words in calls(tmp_path, "gcloud") if words[3] == "create"]
    assert {"--spot", "--runtime-version=v2-alpha-tpuv6e"} <= set(made[0])
    (command,) = [
        word.removeprefix("--command=")
        for words in calls(tmp_path, "gcloud")
        for word in words
        if word.startswith("--command=") and "train.sh" in word
    ]
    assert "--worker=all" in calls(tmp_path, "gcloud")[-2]
    # What the shell of the host makes of it, with a stand-in for the script.
    home = tmp_path / "home"
    (home / "gendr_jax/launch").mkdir(parents=True)
    stand_in(home / "gendr_jax/launch", "train.sh", "")
    stand_in(tmp_path, "flock", 'shift; exec "$@"')
    subprocess.run(
        ["bash", "-c", command],
        env=environment(tmp_path, HOME=str(home)),
        cwd=home,
        check=True,
    )
    (args,) = calls(home / "gendr_jax/launch", "train.sh")
    (kind,) = [w for w in made[0] if w.startswith("--accelerator-type=")]
    chips = chips_of(kind.partition("=")[2])
    values, config = accept(args, monkeypatch, chips=chips)
    assert values.workdir.startswith("gs://")
    assert config.data.path == f"{home}/inputs/shards/*.array_record"


# --- Dockerfile


def test_dockerfile():
    text = (LAUNCH / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    assert lines[0] == "FROM python:3.12-slim"
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    extras = (ROOT / "setup.py").read_text()
    for extra in ("tpu", "cuda"):
        assert f'"{extra}": [' in extras and f"EXTRA={extra}" in text
    assert "ARG RUN_AS=gendr" in lines  # not root, unless asked for
    assert lines.index("USER ${RUN_AS}") > max(
        i for i, line in enumerate(lines) if line.startswith("RUN ")
    )
