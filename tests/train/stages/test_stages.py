"""From a configuration to a run: checks, wiring, and the three stages as a chain."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

import gendr_jax
from gendr_jax import nets, sharding
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.train.run import loop
from gendr_jax.train.stages import build, size_checks
from gendr_jax.weights import folder
from tests.helpers.tiny_stages import (
    PARTS,
    config,
    fewer_passes,
    one_device,
    random,
    same,
    settings,
)

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


@pytest.fixture(scope="module", autouse=True)
def other_random_numbers():
    """Weights of chance by a generator that compiles in a fraction of the time."""
    with jax.default_prng_impl("unsafe_rbg"):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48)).save(path / f"{i}.png")
    return str(path)


def changed(stage, photos, **sections):
    """A tiny configuration with some fields of its sections replaced."""
    made = config(stage)
    made["data"] = made["data"] | {"path": photos}
    for name, value in sections.items():
        old = made.get(name)
        made[name] = old | value if isinstance(old, dict) else value
    return made


# Checks before anything is read.


@pytest.mark.parametrize(
    ("stage", "sections", "words"),
    [
        ("distil", {}, "config.stage is 'distil', known are vae, base, distill"),
        ("vae", {"data": {"crop": 18}}, "data.crop=18 is no multiple of 4"),
        ("distill", {"data": {"scale": 3}}, "data.crop=16 is no.*data.scale=3"),
        ("vae", {"data": {"path": ""}}, "config.data.path is empty"),
        (
            "distill",
            {"kind": "paired", "weights": {"latent": 0.0, "pixel": 0.0}},
            "weights.latent=0, weights.pixel=0 .* trains nothing.*Set weights.pixel=1",
        ),
        (
            "distill",
            {"weights": {"perceptual": 0.5}},
            "weights.perceptual=0.5 needs weights of LPIPS, and init.lpips is empty",
        ),
        (
            "base",
            {"prompt_droput": 0.1},
            "prompt_droput: unknown, did you mean prompt_",
        ),
        (
            "base",
            {"vae": {"latent_channels": 8}},
            "UNet takes 4 channels.*latents have 8",
        ),
        (
            "distill",
            {"unet": {"in_channels": 8}},
            "UNet takes 8 channels and gives 4, the VAE's latents have 4",
        ),
        ("distill", {"score": {"literal": True}}, "literal CiD diverges"),
        (
            "distill",
            {"discriminator_width": 9},
            "discriminator_width=9 does not divide into unet.norm_groups=",
        ),
        (
            "distill",
            {"unet": {"norm_groups": 7}},
            "unet.block_out_channels has 8, which does not .* unet.norm_groups=7",
        ),
        (
            "vae",
            {"vae": {"norm_groups": 3}},
            "vae.block_out_channels has 8, which does not .* vae.norm_groups=3",
        ),
        (
            "vae",
            {"vae": {"norm_groups": 3, "norm_channels": True}},  # of the attention
            "vae.block_out_channels has 8, which does not .* vae.norm_groups=3",
        ),
        (
            "vae",
            {"discriminator": {"widths": (8, 8), "norm_groups": 3}},
            "discriminator.widths has 8, which does not .*discriminator.norm_groups=3",
        ),
        ("base", {"init": {"random": False}}, r"config\.init\.vae is empty"),
    ],
)
def test_impossible_settings_are_one_line(photos, stage, sections, words):
    made = changed(stage if stage != "distil" else "vae", photos, **sections)
    if stage == "distil":
        made["stage"] = stage
    with pytest.raises(UsageError, match=words) as caught:
        build.setup(made, one_device())
    assert "\n" not in str(caught.value)


def test_a_batch_has_to_divide_over_the_devices(photos):
    made = changed("vae", photos, batch_size=12)
    with pytest.raises(UsageError, match="batch_size=12 does not divide over 8"):
        build.setup(made, sharding.make_mesh("data=2,fsdp=4"))
    size_checks.check(
        settings("vae", batch_size=16), sharding.make_mesh("data=2,fsdp=4")
    )


def test_what_the_loop_is_told():
    s = settings(
        "vae",
        steps=7,
        seed=3,
        max_bad_steps=2,
        checkpoint={"every": 5, "keep": 1},
        log={"every": 2, "samples_every": 6, "samples": 1},
    )
    told = build.run_settings(s)
    assert (told.steps, told.batch_size, told.seed, told.max_bad_steps) == (7, 4, 3, 2)
    assert (told.checkpoint_every, told.keep) == (5, 1)
    assert (told.log_every, told.samples_every, told.samples) == (2, 6, 1)
    assert told.config is s


def test_whole_brings_weights_in_dtype_to_every_device():
    mesh = sharding.make_mesh("fsdp=8")
    tree = {"kernel": np.ones((64, 128), np.float32), "bias": np.ones(3, np.float32)}
    placed = sharding.place(tree, sharding.tree_shardings(tree, mesh))
    assert not placed["kernel"].is_fully_replicated
    gather = functools.partial(
        build.gather_weights,
        path="frozen/unet",
        placement=sharding.Placement(mesh),
        dtype="bfloat16",
    )
    with jax.set_mesh(mesh):
        found = jax.jit(gather)(placed)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(found))
    assert {str(x.dtype) for x in jax.tree.leaves(found)} == {"bfloat16"}


# Wiring.


def test_photographs_become_batches(photos):
    setup = build.setup(changed("vae", photos), one_device())
    first, second = (next(setup.batches(i)) for i in (0, 1))
    assert first["hq"].shape == (4, 16, 16, 3) and first["hq"].dtype == np.uint8
    assert list(first["index"]) == [0, 1, 2, 3] and list(second["index"]) == [
        4,
        5,
        6,
        7,
    ]
    assert same(next(setup.batches(1)), second)
    assert setup.stage.frozen == {} and setup.stage.start == {}


@pytest.mark.slow
def test_a_four_channel_unet_is_widened_for_the_base(photos, tmp_path):
    unet = nets.build(UNet, UNetConfig(**PARTS["unet"]))
    narrow = random(unet, 0)
    folder.save(tmp_path / "w", kind="base", unet=(unet.config, narrow))
    wide = {"in_channels": 8, "out_channels": 8}
    made = changed(
        "base",
        photos,
        vae={"latent_channels": 8},
        unet=wide,
        init={"unet": str(tmp_path / "w")},
    )
    begin = build.setup(made, one_device()).stage.start["unet"]
    assert begin["conv_in"]["kernel"].shape == (3, 3, 8, 8)
    assert not np.any(begin["conv_out"]["kernel"])
    assert same(begin["mid_block"], narrow["mid_block"])
    # A distillation has to start from a UNet that knows the latents.
    made = changed(
        "distill",
        photos,
        vae={"latent_channels": 8},
        unet=wide,
        init={"unet": str(tmp_path / "w")},
    )
    with pytest.raises(UsageError, match="takes 4 channels.*latents have 8"):
        build.setup(made, one_device())


# The chain.


def run(made, workdir, mesh):
    setup = build.setup(made, mesh)
    result = loop.run(
        setup.stage,
        setup.batches,
        setup.settings,
        mesh=mesh,
        workdir=workdir,
        progress=False,
    )
    assert (result.reason, result.step) == ("done", made["steps"])
    text = (workdir / "metrics.jsonl").read_text()
    return setup, result, [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("kind", "generator"),
    [
        pytest.param("vsd", "lora", marks=pytest.mark.slow),
        pytest.param("cida", "full", marks=pytest.mark.slow),
    ],
)
def test_three_stages_and_a_restored_picture(photos, tmp_path, kind, generator):
    """Each stage starts from the folder that the one before has left."""
    mesh, steps = one_device(), {"steps": 2, "batch_size": 2}
    _, result, lines = run(changed("vae", photos, **steps), tmp_path / "vae", mesh)
    assert lines[-1]["step"] == 2 and np.isfinite(lines[-1]["loss_vae"])
    vae = folder.load(tmp_path / "vae/weights")
    assert vae.kind == "vae" and same(vae.params["vae"], result.state.ema)
    # Latents are scaled by what was measured, here and in all that follows.
    factor = vae.configs["vae"].scaling_factor
    np.testing.assert_allclose(factor, result.state.latent_var**-0.5, rtol=1e-6)

    init = {"vae": str(tmp_path / "vae/weights")}
    setup, result, lines = run(
        changed("base", photos, init=init, **steps), tmp_path / "base", mesh
    )
    assert np.isfinite(lines[-1]["loss_base"])
    assert same(setup.stage.frozen["vae"], vae.params["vae"])
    base = folder.load(tmp_path / "base/weights")
    assert set(base.params) == {"vae", "unet", "projector"} and base.kind == "base"
    assert base.configs["vae"].scaling_factor == factor
    assert same(base.params["unet"], result.state.ema["unet"])

    init = dict.fromkeys(("vae", "unet"), str(tmp_path / "base/weights"))
    made = changed(
        "distill", photos, init=init, kind=kind, generator=generator, **steps
    )
    setup, result, lines = run(made, tmp_path / "distill", mesh)
    assert np.isfinite(lines[-1]["loss_generator"])
    assert same(setup.stage.frozen["unet"], base.params["unet"])
    shared = setup.stage.frozen["unet"], setup.stage.start["unet"]
    assert jax.tree.all(jax.tree.map(np.shares_memory, *shared))  # one copy for both
    assert same(setup.stage.frozen["prompt"], base.prompt)
    assert same(setup.stage.start["projector"], base.params["projector"])
    last = folder.load(tmp_path / "distill/weights")
    assert last.kind == "restorer" and set(last.params) == {"vae", "unet"}
    nets.check_like(
        last.params["unet"], nets.build(UNet, last.configs["unet"]).abstract
    )
    if generator == "full":
        assert same(last.params["unet"], result.state.ema)
    assert not same(last.params["unet"], base.params["unet"])

    restorer = gendr_jax.Restorer.from_pretrained(
        tmp_path / "distill/weights", dtype="float32"
    )
    low = np.asarray(Image.open(f"{photos}/0.png"))[:9, :13]
    restored = restorer(low, scale=4)
    assert restored.shape == (36, 52, 3) and restored.dtype == np.uint8
    assert len(np.unique(restored)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "base", "distill"])
def test_a_stage_declared_from_shapes_is_the_stage_that_trains(kind, photos):
    """Same trees; nothing is allocated, and weights that are named are not read."""
    known = changed(kind, photos, init={"random": True})
    made = build.setup(known, one_device()).stage
    absent = {"vae": "absent", "unet": "absent", "dino": "absent", "random": False}
    declared = build.declare(changed(kind, "absent", init=absent), one_device())
    trees = declared.frozen, declared.start
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(trees))
    abstract = jax.eval_shape(lambda: (made.frozen, made.start))
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, trees, abstract))
