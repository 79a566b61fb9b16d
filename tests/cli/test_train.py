"""`gendr train` from the outside: flags, overrides, messages, exit status."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gendr_jax.cli import configs, train
from gendr_jax.errors import UsageError
from gendr_jax.train.run_settings import Start

ROOT = Path(__file__).resolve().parents[2]
FILE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "steps": 3, "lr": 0.1, "mesh": "", "log": {"every": 1}, "widths": (1, 2),
        "flag": True, "none": None,
    })
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return f"--config={path}"


def parsed(*args):
    values, config = configs.parse(list(args), train._define)
    return values, config.to_dict()


def test_overrides_of_every_type(config):
    values, found = parsed(
        config,
        "--config.steps=5",
        "--config.log.every=7",
        "--config.lr=1",
        "--config.mesh=data=2,fsdp=4",
        "--config.widths=(3, 4, 5)",
        "--noconfig.flag",
        "--workdir=x",
    )
    assert values.workdir == "x" and values.distributed is False
    assert found == {
        "steps": 5,
        "lr": 1.0,
        "mesh": "data=2,fsdp=4",
        "log": {"every": 7},
        "widths": (3, 4, 5),
        "flag": False,
        "none": None,
    }
    assert isinstance(found["lr"], float)


def test_two_word_flags_and_a_second_run_in_the_same_process(config):
    words = config.split("=")
    assert parsed(*words, "--config.steps", "7")[1]["steps"] == 7
    assert parsed(*words, "--workdir", "y")[1]["steps"] == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.stps=5"], "no --config.stps, did you mean --config.steps"),
        (["--config.log.evry=5"], "did you mean --config.log.every"),
        (["--config.steps=abc"], "invalid literal for int.. with base 10: 'abc'"),
        (["--config.steps=1.5"], "--config.steps=1.5"),
        (["--config.log=3"], "is not a dict"),
        (["--config.none=3"], "field config.none is not supported"),
        (["--config.steps"], "Missing value for flag --config.steps"),
        (["--worxdir=3"], "Did you mean: workdir"),
        (["extra"], "'extra' is not a flag"),
    ],
)
def test_mistakes_are_one_line(config, args, message):
    with pytest.raises(UsageError, match=message) as caught:
        parsed(config, *args)
    assert "\n" not in str(caught.value)


def test_all_misspelt_names_at_once(config):
    with pytest.raises(UsageError) as caught:
        parsed(config, "--config.stps=5", "--config.log.evry=1")
    assert "stps" in str(caught.value) and "evry" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .*No such file"),
        ("def get_config(:", "SyntaxError: broken.py line 1"),
        ("def get_config(): return unknown", "NameError: name 'unknown'"),
        ("x = 1", "has no attribute 'get_config'"),
    ],
)
def test_broken_configuration_files(tmp_path, text, message):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        parsed(f"--config={path}", "--config.steps=3")
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(config):
    with pytest.raises(UsageError, match="^--config is missing"):
        train.main(["--workdir=x"])
    with pytest.raises(UsageError, match="^--workdir is missing"):
        train.main([config])


def test_help_needs_nothing(capsys):
    assert train.main(["--help"]) == 0
    assert "usage: gendr train --config" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reason", "status"), [("done", 0), ("sigterm", 75), ("user", 75), ("nan", 1)]
)
def test_the_loop_is_called_and_its_end_is_the_exit_status(
    tmp_path, config, monkeypatch, capsys, reason, status
):
    calls = []

    def setup(config, mesh):
        made = {"hand_over": lambda: "stage", "batches": "batches"}
        return SimpleNamespace(**made, held_out="held out", settings=config.steps)

    def run(*args, mesh, workdir, begun, start, held_out):
        assert start == Start() and held_out == "held out"
        assert begun <= time.perf_counter()
        calls.append((*args, dict(mesh.shape), workdir))
        return SimpleNamespace(reason=reason, message="no usable update")

    stages = SimpleNamespace(setup=setup)
    monkeypatch.setitem(sys.modules, "gendr_jax.train.stages.build", stages)
    monkeypatch.setattr("gendr_jax.train.stages.build", stages, raising=False)
    monkeypatch.setattr("gendr_jax.train.run.loop.run", run)
    args = [config, "--workdir", str(tmp_path / "w"), "--config.mesh=fsdp=8"]
    assert train.main(args) == status
    where = {"dcn": 1, "data": 1, "fsdp_outer": 1, "fsdp": 8, "space": 1, "model": 1}
    assert calls == [("stage", "batches", 3, where, str(tmp_path / "w"))]
    told = "gendr: error: training stopped" in capsys.readouterr().err
    assert told == (reason == "nan")


def test_a_workdir_that_is_a_file(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        train.main([config, f"--workdir={tmp_path / 'file'}"])


@pytest.mark.parametrize("inside", ["", "run/7"])
@pytest.mark.parametrize("key", ["data", "val"])
def test_a_workdir_in_its_photographs_is_refused(tmp_path, key, inside):
    """Its sample sheets would be read as photographs."""
    photos = tmp_path / "photos"
    photos.mkdir()
    other = "builtin:photographs"
    paths = {"data": other, "val": other} | {key: f"{other}@0.5,{photos}@0.5"}
    with pytest.raises(UsageError, match="the input .*photos. Give a --workdir out"):
        train.main(
            [
                f"--config={ROOT}/configs/tiny_vae.py",
                f"--config.data.path={paths['data']}",
                f"--config.val.path={paths['val']}",
                f"--workdir={photos / inside}",
            ]
        )
    assert not list(photos.iterdir())
