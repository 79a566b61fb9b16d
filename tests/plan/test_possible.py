"""What cannot be compiled is refused by arithmetic alone."""

import dataclasses
import re

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.plan import compile_process, possible
from gendr_jax.plan.request import Request, from_json
from tests.helpers.tiny_stages import PARTS, config

HEADS = {"block_out_channels": (24, 48), "heads": (3, 6), "attention": (True, True)}


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    def answer(*_, **__):
        raise AssertionError("compiled")

    monkeypatch.setattr(compile_process, "measure_in_subprocess", answer)


def request(mesh="data=4,fsdp=4", stage="distill", topology="v5e:4x4", **changes):
    settings = config(stage, batch_size=16) | changes
    return Request(settings, topology, mesh)


@pytest.mark.parametrize(
    "mesh", ["", "data=16", "data=2,fsdp=8", "data=-1,model=2", "space=2,data=8"]
)
def test_what_fits_passes(mesh):
    possible.require(request(mesh))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (request("data=3"), "needs 3 devices, 16 are"),
        (request("data=32"), "needs 32 devices, 16 are"),
        (request("tensor=2"), "names the axis 'tensor'"),
        (request("dcn=3,data=-1", topology="2*v5e:4x4"), "multiple of 3"),
        (request(batch_size=24), "batch_size=24 does not divide over 16"),
        (request("data=8,space=2", data={"crop": 12}), "crop=12"),
        (request("data=8,model=2", "vae"), "stage vae trains none"),
        (
            request("data=1,model=16", unet=PARTS["unet"] | HEADS),
            "model=16, which does not divide the width 24",
        ),
        (
            request(
                "data=8,model=2", sharding={"rules": (("^frozen/", "replicated"),)}
            ),
            "no rule of sharding.rules splits a weight",
        ),
    ],
)
def test_what_does_not_is_refused_with_both_numbers(asked, says):
    with pytest.raises(UsageError, match=says):
        possible.require(asked)


def test_restoring_has_no_model_axis():
    asked = dataclasses.replace(request("data=8,model=2"), program="restore")
    with pytest.raises(UsageError, match="restoring has the axes data and space"):
        possible.require(asked)
    possible.require(dataclasses.replace(request("data=16"), program="restore"))


def test_sides_of_a_pass_are_refused_with_the_padded_ones():
    asked = dataclasses.replace(request("data=16"), program="restore", size=(2162, 64))
    with pytest.raises(UsageError, match=r"64x2162: .* Give 64x(\d+), to which") as e:
        possible.require(asked)
    height = int(re.search(r"Give 64x(\d+)", str(e.value))[1])
    assert 0 <= height - 2162 < height // 8
    possible.require(dataclasses.replace(asked, size=(height, 64)))


def test_requests_of_both_sizes_cross_a_process_border():
    for size in (512, (2176, 3840)):
        asked = Request(config={}, topology="cpu", mesh="", size=size)
        assert from_json(asked.to_json()) == asked
