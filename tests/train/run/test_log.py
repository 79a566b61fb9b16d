"""Records of a run: lines, numbers between lines, sheets, and the terminal."""

import json
import math
import time

import jax
import numpy as np
from PIL import Image

from gendr_jax.image_io.sheets import contact_sheet
from gendr_jax.train.run.log import (
    Guard,
    Log,
    Meter,
    duration,
    tag,
    truncate_metrics,
)
from gendr_jax.train.run.run_json import RunFile


def test_metrics_lines_are_strict_json(tmp_path):
    log = Log(tmp_path, start=0, steps=9, progress=False)
    log.metrics(1, {"loss": 0.5, "bad": math.nan, "worse": math.inf})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def refuse(name):
        raise AssertionError(name)

    found = json.loads(line, parse_constant=refuse)
    assert found == {"step": 1, "loss": 0.5, "bad": None, "worse": None}


def test_truncation_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1}\nnot json\n{"step": 2}\n[3]\n{"step": 3}\n{"loss": 1}\n{"step": 2'
    )
    truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    # A whole last line without its newline would run into the next one.
    path.write_text('{"step": 1}\n{"step": 2}')
    truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n'
    truncate_metrics(tmp_path / "absent.jsonl", 2)
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_resumed_log_has_no_step_twice(tmp_path):
    for start in (0, 2):
        log = Log(tmp_path, start=start, steps=9, progress=False)
        for step in range(start + 1, start + 4):
            log.metrics(step, {"loss": float(start)})
        log.close()
    lines = [json.loads(x) for x in open(tmp_path / "metrics.jsonl")]
    assert [(x["step"], x["loss"]) for x in lines] == [
        (1, 0.0),
        (2, 0.0),
        (3, 2.0),
        (4, 2.0),
        (5, 2.0),
    ]


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    log = Log(tmp_path, start=0, steps=3, progress=True)
    log.metrics(2, {"loss": 0.125})
    log.say("hello")
    log.close()
    assert capsys.readouterr().out.splitlines() == ["step 2 of 3  loss 0.125", "hello"]


def test_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    log = Log(tmp_path, start=1, steps=3, progress=True)
    log.advance()
    log.metrics(2, {"loss": 0.125})
    log._bar.refresh()
    log.close()
    captured = capsys.readouterr()
    assert "2/3" in captured.err and "loss 0.125" in captured.err
    assert captured.out == ""


def test_silence(tmp_path, capsys):
    log = Log(tmp_path, start=0, steps=3, progress=False)
    log.say("hello")
    log.metrics(1, {"loss": 1.0})
    log.close()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_run_file(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(8, 1), ("data", "fsdp"))
    record = RunFile(tmp_path, {"steps": 3}, mesh)
    record.update(step=2)
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["stopped"], found["step"], found["ended"]) == ("running", 2, None)
    record.end("nan", "why")
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["stopped"], found["message"]) == ("nan", "why")
    assert found["ended"] >= found["started"]
    assert found["mesh"] == {"data": 8}
    assert found["versions"]["jax"] == jax.__version__
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_sheet_layout(tmp_path):
    small = np.linspace(0, 1, 2 * 4 * 4 * 1).reshape(2, 4, 4, 1)
    large = np.full((2, 8, 12, 3), 2.0)  # clipped
    broken = np.full((2, 8, 8, 3), np.nan)
    sheet = contact_sheet({"lq": small, "output": large, "nan": broken}, "step 7")
    assert sheet.dtype == np.uint8 and sheet.shape[0] == 2 * 14 + 2 * (8 + 2)
    for row, image in enumerate(small):
        got = sheet[28 + row * 10 : 36 + row * 10, :8]
        want = np.rint(image * 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(got, want.repeat(3, axis=2))
    white = (sheet[28:36] == 255).all(axis=-1)
    assert white.sum(axis=1).max() >= 12
    assert sheet[:14].any() and sheet[14:28].any()  # caption and titles
    log = Log(tmp_path, start=0, steps=1, progress=False)
    log.sheet(7, sheet)
    log.close()
    written = np.asarray(Image.open(tmp_path / "samples" / "step_000007.png"))
    np.testing.assert_array_equal(written, sheet)
    assert len(list((tmp_path / "samples").iterdir())) == 1


def test_meter_counts_between_lines(monkeypatch):
    now, waited = [0.0], [5.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work(seconds, wait=0.0):
        now[0] += seconds + wait
        waited[0] += wait

    meter = Meter(10, 4, lambda: waited[0])
    work(1.0)
    meter.add({"skipped_fake": 1.0, "broken_fake": 2.0, "loss": 1.0})
    work(0.5, wait=0.5)
    before = waited[0]  # step 12 starts, then waits for the batch of step 13
    work(0.0, wait=7.0)
    values = {"skipped_fake": 0.0, "broken_fake": 1.0, "loss": 3.0}
    meter.add(values)
    line = meter.line(12, values, before)
    assert line == {
        "loss": 3.0,
        "mean/loss": 2.0,
        "skipped_fake": 1.0,
        "broken_fake": 3.0,
        "seconds_per_step": 1.0,
        "images_per_s": 4.0,
        "data_wait": 0.25,
    }
    with meter.paused():
        work(100.0)
    work(1.0)
    meter.add({"skipped_fake": 0.0, "loss": math.nan})
    line = meter.line(13, {"skipped_fake": 0.0, "loss": math.nan}, waited[0])
    assert math.isnan(line.pop("loss"))  # and no mean of nothing
    wanted = {"skipped_fake": 0.0, "images_per_s": 0.5, "data_wait": 7.0}
    assert line == wanted | {"seconds_per_step": 8.0}


def test_lines_say_how_long_it_takes(tmp_path, capsys):
    log = Log(tmp_path, start=0, steps=300, progress=True)
    values = {"loss_fake": 0.5, "mean/loss_fake": 0.75, "seconds_per_step": 2.0}
    log.metrics(100, values | {"eta_seconds": 90000.0, "goodput": 0.5})
    log.close()
    line = "step 100 of 300  2 s/step  left 1 d 01:00:00  loss_fake 0.5 (mean 0.75)"
    assert capsys.readouterr().out.splitlines() == [line]
    assert duration(59.6) == "00:01:00"


def test_tags_are_grouped_by_role(tmp_path):
    wanted = {
        "loss_fake": "fake/loss",
        "mean/grad_norm_generator": "generator/grad_norm_mean",
        "loss_cid": "step/loss_cid",
        "mean/z_bias": "step/z_bias_mean",
        "images_per_s": "run/images_per_s",
        "val_psnr": "val/psnr",
    }
    assert {name: tag(name) for name in wanted} == wanted


def test_the_board_is_on_disk_without_a_close(tmp_path):
    log = Log(tmp_path, start=0, steps=3, progress=False)
    log.metrics(1, {"loss_fake": 0.5})
    (board,) = (tmp_path / "tb").iterdir()
    for _ in range(50):  # a thread of tensorboardX takes the values from its queue
        log.flush()
        if b"fake/loss" in board.read_bytes():
            break
        time.sleep(0.1)
    assert b"fake/loss" in board.read_bytes()
    log.close()


def test_guard_wants_bad_steps_in_a_row():
    guard = Guard(2)
    bad, skipped, good = {"loss": math.nan}, {"skipped_g": 1.0}, {"loss": 1.0}
    assert not guard.check(1, bad)
    assert not guard.check(2, good)
    assert not guard.check(3, skipped)
    message = guard.check(4, bad)
    assert "2 steps (3 to 4" in message and "loss" in message
