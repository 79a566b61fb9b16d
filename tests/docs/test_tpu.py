"""docs/tpu.md: its commands are ours, its files exist, its arithmetic is right."""

import json
import re
import shlex
from pathlib import Path

import pytest

from gendr_jax.cli import configs, main, train
from gendr_jax.sharding import mesh as mesh_lib
from tests.helpers.mentions import missing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tpu.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
]


def test_what_is_named_exists():
    assert missing(PAGE) == []
    assert len(COMMANDS) > 15
    files = re.findall(r"(?<![\w/])(?:launch|configs|tools)/[\w.-]+\w", PAGE)
    assert files and not [name for name in files if not (ROOT / name).exists()]
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    assert links and not [name for name in links if not (ROOT / "docs" / name).exists()]


def test_commands_of_gendr_exist():
    known = {*main.COMMANDS, "plan"}  # the contract names it; a branch may lack it
    assert not {words[1] for words in COMMANDS if words[0] == "gendr"} - known


@pytest.mark.parametrize("stage", ["base", "distill"])
def test_training_commands(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    (words,) = [
        words
        for words in COMMANDS
        if words[:2] == ["gendr", "train"] and f"--config=configs/{stage}.py" in words
    ]
    values, config = configs.parse(words[2:], train._define)
    assert values.distributed and config.stage == stage
    assert values.workdir == f"gs://$BUCKET/runs/{stage}"
    steps = {"base": "200,000 base", "distill": "50,000 distill"}
    assert f"{config.steps:,} {stage}" == steps[stage] and steps[stage] in PAGE


def test_meshes_are_meshes_of_their_slices():
    rows = re.findall(r"(?m)^\| [^|]+ \| ([0-9, ]+) \| `([^`]+)` \|", PAGE)
    assert len(rows) == 4
    for chips, mesh in rows:
        for count in map(int, chips.split(",")):
            sizes = mesh_lib._axis_sizes(mesh)
            fixed = 1
            for size in sizes.values():
                fixed *= max(size, 1)
            assert count % fixed == 0
            assert -1 in sizes.values() or fixed == count, (chips, mesh)


PLANS = sorted((ROOT / "docs" / "plans").glob("*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_rows_of_full_effort_are_those_of_the_plan(path):
    (plan,) = json.loads(path.read_text())
    assert plan["effort"] == "full" and plan["fits"]
    times, sent = plan["roofline_s"], plan["collectives"].values()
    memory = [plan["peak_bytes"] / 2**30, plan["hbm_bytes"] / 2**30]
    seconds = [times["compute"], times["memory"], times["network"]]
    seconds += [plan[f"step{how}_s"] for how in ("", "_exposed", "_serial")]
    mfu = [plan[f"mfu_{how}"] for how in ("bound", "exposed", "serial")]
    cells = [
        {"base": "base", "distill": "CiDA"}[plan["stage"]],
        path.stem.split("-", 1)[1],
        f"`{plan['mesh']}`",
        "{:.1f} of {:.1f}".format(*memory),
        f"{plan['flops'] / 1e12:.1f}",
        f"{plan['hbm_traffic_bytes'] / 1e9:.0f}",
        f"{sum(kind['bytes'] for kind in sent) / 1e9:.1f}",
        *(f"{1e3 * one:.0f}" for one in seconds),
        ", ".join(f"{one:.0%}" for one in mfu),
        f"{plan['images_per_s']:,.0f}",
        f"{plan['chip_hours']:.0f}",
    ]
    assert f"| {' | '.join(cells)} |" in PAGE
    for one in plan["programs"] if plan["stage"] == "distill" else ():
        work = [one["flops"] / 1e12, one["hbm_traffic_bytes"] / 1e9]
        assert "| {:.1f} | {:.0f} |".format(*work) in PAGE, one["name"]


def test_arithmetic_of_the_state():
    """The sum in section 3, from the counts of parameters that it names."""
    unet, adapters = 0.866, 0.0649  # billions
    total = 12 * unet + 4 * unet + 3 * 12 * adapters + 4 * unet
    assert f"about {total:.0f} GB before activations" in PAGE.replace("\n  ", " ")
    assert f"{12 * unet:.1f} GB" in PAGE and f"{4 * unet:.1f} GB" in PAGE
    for parts in (8, 4):
        assert re.search(
            rf"fsdp={parts}` \| {total / parts:.1f} GB of state a chip", PAGE
        )
