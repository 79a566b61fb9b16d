"""The base model's step: surgery's schedule, alignment, prediction, a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, nets, sharding
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.train.stages import base, samples
from gendr_jax.weights import surgery
from tests.helpers.tiny_stages import (
    PARTS,
    batch,
    fewer_passes,
    gap,
    one_device,
    parts,
    random,
    same,
    settings,
)

KEY = jax.random.key(5)
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


def build(toy=True, mesh=None, **changes):
    """(settings, nets, frozen, state with random weights, step)."""
    s = settings("base", **changes)
    declared, frozen = parts(s, mesh, toy=toy)
    begin = {
        "unet": random(declared.unet, 3),
        "projector": random(declared.projector, 4),
    }
    state = base.make_init(s, declared)(jax.random.key(0), begin)
    return s, declared, frozen, state, base.make_step(s, declared)


def parts_that_changed(old, new):
    """Names of the first two levels whose weights differ by a bit."""
    found = set()
    for path, leaf in nets.flatten(old).items():
        if not np.array_equal(leaf, nets.flatten(new)[path]):
            found.add(".".join(path[:2]) if path[0] == "unet" else path[0])
    return found


@pytest.fixture(scope="module")
def real():
    """The real networks on surgery's weights, compiled once."""
    unet = PARTS["unet"] | {"in_channels": 8, "out_channels": 8}
    changes = {
        "vae": PARTS["vae"] | {"latent_channels": 8},
        "unet": unet,
        "surgery": True,
        "surgery_steps": 2,
        "optim": {"lr": 1e-3, "weight_decay": 1e-2},
    }
    s, declared, frozen, _, step = build(False, **changes)
    narrow = nets.build(UNet, UNetConfig(**PARTS["unet"]))
    params = surgery.widen(random(narrow, 3), channels_in=8, channels_out=8)
    begin = {"unet": params, "projector": random(declared.projector, 4)}
    state = base.make_init(s, declared)(jax.random.key(0), begin)
    return s, declared, frozen, state, jax.jit(step)


@pytest.mark.slow
def test_a_widened_unet_starts_at_loss_one_and_trains_new_layers_first(real):
    _, _, frozen, start, step = real
    data, new = batch(4), {"unet.conv_in", "unet.conv_out", "projector"}
    states, found = [start], []
    for _ in range(4):
        state, metrics = step(states[-1], frozen, data, KEY)
        states.append(state)
        found.append(metrics)
    # conv_out is zero, so is the predicted noise: E eps^2 = 1.
    assert abs(float(found[0]["denoising_base"]) - 1) < 0.1
    assert -1 <= float(found[0]["repa_base"]) <= 1
    expected = found[0]["denoising_base"] + 0.5 * found[0]["repa_base"]
    np.testing.assert_allclose(found[0]["loss_base"], expected, rtol=1e-5)
    held = [s.base.params for s in states]
    # Bit for bit: a held layer's moments grow, its weights do not move. conv_in gets
    # its first gradient from the alignment term alone, for conv_out is still zero.
    assert parts_that_changed(held[0], held[1]) == new
    assert parts_that_changed(held[1], held[2]) == new
    assert parts_that_changed(held[0], held[2]) == new
    rest = parts_that_changed(held[2], held[3])
    assert rest == {f"unet.{name}" for name in held[0]["unet"]} | {"projector"}
    assert [float(m["skipped_base"]) for m in found] == [0] * 4


@pytest.mark.slow
def test_a_sheet_of_samples_is_in_range(real):
    s, declared, frozen, state, _ = real
    data = batch(2)
    columns = jax.jit(base.make_sample(s, declared))(state, frozen, data, KEY)
    assert set(columns) >= {"photograph", "denoised", "drawn from noise"}
    for name, picture in columns.items():
        assert picture.shape == data["hq"].shape, name
        assert float(picture.min()) >= 0 and float(picture.max()) <= 1, name
    np.testing.assert_allclose(columns["photograph"], data["hq"] / 255.0, atol=1e-6)


@pytest.mark.slow
def test_the_alignment_gradient_reaches_conv_in_alone():
    """With conv_out zero the denoising loss cannot: what arrives is the alignment's."""
    found = {}
    for weight in (0.0, 0.5):
        _, _, frozen, state, step = build(repa_weight=weight)
        zero = jax.tree.map(jnp.zeros_like, state.base.params["unet"]["conv_out"])
        unet = state.base.params["unet"] | {"conv_out": zero}
        params = state.base.params | {"unet": unet}
        state = dataclasses.replace(
            state, base=dataclasses.replace(state.base, params=params)
        )
        new, metrics = jax.jit(step)(state, frozen, batch(4), KEY)
        found[weight] = parts_that_changed(params, new.base.params)
        assert ("repa_base" in metrics) == (weight > 0)
    assert found[0.0] == {"unet.conv_out"}
    assert found[0.5] >= {"unet.conv_in", "unet.conv_out", "unet.conv1", "projector"}
    # Nothing flows from the map after the first down block to later layers.
    assert "unet.conv2" not in found[0.5]


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_loss_is_the_error_of_eps_or_v(prediction):
    s, declared, frozen, state, step = build(prediction=prediction, prompt_dropout=1.0)
    data = batch(4)
    _, metrics = jax.jit(step)(state, frozen, data, KEY)
    keys = samples.draws(
        jax.random.fold_in(KEY, 0), data["index"], ("t", "eps", "prompt")
    )
    x = samples.high_quality(data)
    z = samples.encoder(declared.vae, s.vae)(frozen["vae"], x)
    t = samples.timesteps(keys["t"], 0, 999)
    eps = samples.normal_like(keys["eps"], z)
    bar = jnp.asarray(diffusion.ALPHA_BAR, jnp.float32)[t][:, None, None, None]
    a, sigma = jnp.sqrt(bar), jnp.sqrt(1 - bar)
    context = samples.prompt(frozen["prompt"]["negative"], 4)  # all dropped
    unet = declared.unet.bind(state.base.params["unet"])
    out, _ = unet(a * z + sigma * eps, t, context)
    target = eps if prediction == "eps" else a * eps - sigma * z
    expected = jnp.mean(jnp.square(out - target))
    np.testing.assert_allclose(metrics["denoising_base"], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_prediction_of_v_learns_and_samples():
    s, declared, frozen, state, step = build(
        prediction="v", optim={"lr": 1e-2}, optim_new={"lr": 1e-2}, repa_weight=0.0
    )
    step, data, found = jax.jit(step), batch(8), []
    for _ in range(30):
        state, metrics = step(state, frozen, data, KEY)
        found.append(float(metrics["denoising_base"]))
    assert np.mean(found[-5:]) < 0.8 * np.mean(found[:5]), found
    columns = base.make_sample(s, declared)(state, frozen, batch(2), KEY)
    assert all(np.isfinite(c).all() for c in columns.values())


def test_frozen_weights_that_are_not_finite_skip_everything():
    _, _, frozen, state, step = build()
    bad = frozen | {"vae": jax.tree.map(lambda x: x * jnp.nan, frozen["vae"])}
    new, metrics = jax.jit(step)(state, bad, batch(4), KEY)
    assert float(metrics["skipped_base"]) == 1
    assert same(new.base, state.base) and same(new.ema, state.ema)
    assert int(new.step) == 1


def test_random_start_is_complete_and_depends_on_the_key():
    s = settings("base")
    declared, _ = parts(s)
    init = base.make_init(s, declared)
    one, two = (init(jax.random.key(i), {}) for i in range(2))
    nets.check_like(one.base.params["unet"], declared.unet.abstract)
    nets.check_like(one.base.params["projector"], declared.projector.abstract)
    assert not same(one.base.params, two.base.params)
    assert same(one.ema, one.base.params)


# How far one step on a mesh may be from the step on one device: sums over a batch and
# over split weights are taken in another order.
LOSS_TOLERANCE, UPDATE_TOLERANCE = 1e-5, 1e-4
# As users compile; without optimisation rounding alone is above the tolerance.
OPTIMISED = {"xla_backend_optimization_level": 3}


@pytest.mark.slow  # the distillation's stands for it in the default run
@pytest.mark.parametrize("toy", [True, False])
def test_a_mesh_gives_the_step_of_one_device(toy):
    """data=2, fsdp=4, placed as the loop places it. Adam's first step is lr sign(g)
    wherever |g| > eps, which would hide or blow up differences: eps is raised."""
    unet = PARTS["unet"] | {"block_out_channels": (16, 32)}
    adam = {"lr": 1e-3, "eps": 1e-2}
    changes = {"unet": unet, "optim": adam, "optim_new": adam}
    _, _, frozen, state, step = build(toy, one_device(), **changes)
    data = batch(8)
    single, expected = jax.jit(step, compiler_options=OPTIMISED)(
        state, frozen, data, KEY
    )
    mesh = sharding.make_mesh("data=2,fsdp=4")
    _, _, _, _, step = build(toy, mesh, **changes)
    placement = sharding.tree_shardings(state, mesh)
    specs = [s.spec for s in jax.tree.leaves(placement)]
    assert any("fsdp" in spec for spec in specs)
    frozen_placement = sharding.tree_shardings(frozen, mesh)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    jitted = jax.jit(
        step,
        in_shardings=(placement, frozen_placement, rows, whole),
        out_shardings=(placement, whole),
        compiler_options=OPTIMISED,
    )
    with jax.set_mesh(mesh):
        many, metrics = jitted(
            sharding.place(state, placement),
            sharding.place(frozen, frozen_placement),
            sharding.place(data, rows),
            sharding.place(KEY, whole),
        )
    for name in ("loss_base", "denoising_base", "repa_base", "latent_std_base"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=LOSS_TOLERANCE)
    moved = lambda new: jax.tree.map(  # noqa: E731
        np.subtract, jax.device_get(new.base.params), jax.device_get(state.base.params)
    )
    assert gap(moved(many), moved(single)) < UPDATE_TOLERANCE
    assert jax.tree.map(lambda x: x.sharding.spec, many) == jax.tree.map(
        lambda s: s.spec, placement
    )
