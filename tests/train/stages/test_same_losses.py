"""The three stages train alike, to the bit, from a folder, from shards, from TFDS."""

import jax
import pytest

from gendr_jax.data import gendr_photos, shard_writer
from gendr_jax.train.run import loop
from gendr_jax.train.stages import build
from tests.helpers.bad_files import encode, picture
from tests.helpers.metric_lines import without_times
from tests.helpers.tiny_stages import (
    PARTS,
    config,
    fewer_passes,
    one_device,
    same,
    settings,
)

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)
# One level each: this is about data, and it compiles in half of the time.
ONE = {"block_out_channels": (8,)}
SMALL = {
    "vae": PARTS["vae"] | ONE | {"mid_attention": False},
    "unet": PARTS["unet"] | ONE | {"heads": (1,), "attention": (False,)},
}


@pytest.fixture(scope="module", autouse=True)
def other_random_numbers():
    """Weights of chance by a generator that compiles in a fraction of the time."""
    with jax.default_prng_impl("unsafe_rbg"):
        yield


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "photos" / "below").mkdir(parents=True)
    for k in range(7):
        name = f"photos/{'below/' * (k % 2)}{k}.{'jpg' if k % 3 else 'png'}"
        data = encode(picture(seed=k), "JPEG" if k % 3 else "PNG")
        (root / name).write_bytes(data)
    folder = root / "photos"
    shard_writer.write(folder, root / "shards", count=3)
    made = gendr_photos.build(folder, root / "tfds", count=2)
    return {
        "folder": str(folder),
        "shards": f"{root}/shards/*.array_record",
        "tfds": f"tfds:{made}",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("vae", {"vae": SMALL["vae"]}),
        pytest.param("base", SMALL, marks=pytest.mark.slow),
        pytest.param(
            "distill",
            SMALL | {"kind": "vsd", "generator": "lora"},
            marks=pytest.mark.slow,
        ),
        pytest.param("distill", {"kind": "cida"}, marks=pytest.mark.slow),
    ],
)
def test_losses_are_the_same_to_the_bit(stage, own, paths, tmp_path):
    """One stage, so that it is compiled once; only data.path differs."""
    short = {"steps": 3, "batch_size": 2, "seed": 5, **own}
    data = config(stage)["data"]
    mesh, states = one_device(), {}
    setup = build.setup(
        config(stage, **short, data=data | {"path": paths["folder"]}), mesh
    )
    for kind, path in paths.items():
        told = settings(stage, **short, data=data | {"path": path})
        result = loop.run(
            setup.stage,
            build.data_batches(told, mesh, build.data_source(told)),
            build.run_settings(told),
            mesh=mesh,
            workdir=tmp_path / kind,
            progress=False,
        )
        states[kind] = jax.device_get(result.state)
    want = without_times(tmp_path / "folder")
    losses = {v for line in want for k, v in line.items() if "loss" in k}
    assert [line["step"] for line in want] == [1, 2, 3] and len(losses) >= 3
    for kind in ("shards", "tfds"):
        assert without_times(tmp_path / kind) == want, kind
        assert same(states[kind], states["folder"]), kind
