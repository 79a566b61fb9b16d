"""One iteration of the distillation: who moves, by which gradient, on what devices.

Most tests run on toys with the networks' interface, whose steps compile in seconds;
the real networks, tiny, come at the end.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, losses, nets, sharding
from gendr_jax.errors import UsageError
from gendr_jax.train.stages import distill as stage_distill
from gendr_jax.train.stages import initial_weights, optimisers, samples
from gendr_jax.train.stages.roles import DistillState
from tests.helpers.tiny_stages import (
    PARTS,
    batch,
    fewer_passes,
    gap,
    parts,
    same,
    settings,
)

KEY = jax.random.key(5)
KINDS = ("vsd", "sid", "cid", "cida")
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


def build(kind="cida", generator="full", *, toy=True, dtype="float32", **changes):
    """(Distill, frozen, fresh state): eager, nothing of the step compiled yet."""
    s = settings("distill", kind=kind, generator=generator, **changes)
    declared, frozen = parts(s, toy=toy, dtype=dtype)
    distill = stage_distill.Distill(s, declared)
    state = fresh(distill, frozen)
    return distill, frozen, state


def fresh(distill, frozen):
    s, declared = distill.settings, distill.nets
    init = jax.jit(stage_distill.make_init(s, declared))
    # Another generator of random numbers, which compiles in a fraction of the time.
    key = jax.random.key(0, impl="unsafe_rbg")
    decoder = initial_weights.decoder_params(frozen["vae"])
    return init(key, {"unet": frozen["unet"], "decoder": decoder})


WARM_UP, ADVERSARIAL = 2, 3


@functools.cache
def stepped(kind, generator):
    """(Distill, frozen, state, compiled step), shared by the tests below. The state is
    fresh, its clock past warm-up and the start of the adversarial term."""
    distill, frozen, state = build(
        kind, generator, warmup_steps=WARM_UP, adversarial_start=ADVERSARIAL
    )
    return distill, frozen, at(state, ADVERSARIAL), jax.jit(distill.step)


def at(state, step):
    return dataclasses.replace(state, step=jnp.int32(step))


def cases(*quick):
    """Every kind with every generator; those that are not ``quick`` are slow."""
    every = [(kind, generator) for kind in KINDS for generator in ("full", "lora")]
    marks = {case: [] if case in quick else [pytest.mark.slow] for case in every}
    return pytest.mark.parametrize(
        ("kind", "generator"),
        [pytest.param(*case, marks=marks[case]) for case in every],
    )


def shaken(tree, size=0.3, seed=0):
    """The same tree away from its special start (zero adapters, equal roles)."""
    rng = np.random.default_rng(seed)
    move = lambda x: x + size * rng.standard_normal(x.shape).astype(x.dtype)  # noqa: E731
    return jax.tree.map(move, tree)


def apart(state: DistillState) -> DistillState:
    """A state whose roles differ from each other and from the base."""
    roles = {}
    for i, name in enumerate(("generator", "fake", "real", "disc")):
        role = getattr(state, name)
        if role is not None:
            roles[name] = dataclasses.replace(role, params=shaken(role.params, 0.1, i))
    return dataclasses.replace(state, **roles)


def gradient_of(distill, state, frozen, pair, keys):
    """(gradient, loss, metrics) of the generator: its two halves in turn."""
    params, of = state.generator.params, distill.generator_loss
    z_g, _ = distill.roles.generate(frozen, params, pair.z_low_bhwc)
    grad_z, (loss, metrics), _ = of.on_latent(state, frozen, pair, z_g, keys)
    (grads, more, found), _ = of.on_weights(state, frozen, pair, grad_z)
    return grads, loss + more, metrics | found


def drawn(distill, frozen):
    """(keys, pair of latents) of the usual batch."""

    @jax.jit
    def draw(frozen, data):
        keys = samples.draws(KEY, data["index"], stage_distill.DRAWS)
        return keys, distill.pair(frozen, data, keys)

    return draw(frozen, batch())


# Who exists, who moves.


@cases(("vsd", "lora"))
def test_one_step(kind, generator):
    distill, frozen, state, step = stepped(kind, generator)
    kept = jax.tree.map(np.array, frozen)
    new, metrics = step(state, frozen, batch(), KEY)
    assert all(np.isfinite(float(v)) for v in metrics.values()), metrics
    assert (state.real is not None) == (kind in ("cid", "cida"))
    assert (state.disc is not None) == (kind == "cida")
    for name in ("generator", "fake", "real", "disc"):
        old_role, new_role = getattr(state, name), getattr(new, name)
        assert (old_role is None) == (new_role is None)
        assert (f"skipped_{name}" in metrics) == (new_role is not None)
        if new_role is not None:
            assert float(metrics[f"skipped_{name}"]) == 0
            assert not same(old_role.params, new_role.params), name
    assert int(new.step) == int(state.step) + 1
    assert same(frozen, kept)
    leaves = {path[-1] for path in nets.flatten(state.generator.params["unet"])}
    assert ("lora_a" in leaves) == (generator == "lora")
    assert ("kernel" in leaves) == (generator == "full")
    for role in (state.fake, state.real):
        if role is not None:
            assert {p[-1] for p in nets.flatten(role.params)} == {"lora_a", "lora_b"}
    terms = {
        "score": metrics["loss_cid" if kind == "cida" else f"loss_{kind}"],
        "adversarial": metrics.get("loss_adversarial", 0.0),
        "repa": metrics.get("loss_repa", 0.0),
    }
    weights = distill.settings.weights
    total = sum(getattr(weights, name) * float(v) for name, v in terms.items())
    np.testing.assert_allclose(metrics["loss_generator"], total, rtol=1e-5, atol=1e-7)
    if kind == "cida":  # the head starts at zero
        np.testing.assert_allclose(metrics["loss_disc"], 2 * np.log(2), rtol=1e-6)


@cases(("vsd", "lora"))
def test_projector_moves_only_with_the_alignment_term(kind, generator):
    _, frozen, state, step = stepped(kind, generator)
    new, _ = step(state, frozen, batch(), KEY)
    old, moved = (s.generator.params["projector"] for s in (state, new))
    assert same(old, moved) == (kind != "cida")


@pytest.mark.slow
def test_the_same_step_twice_is_bit_for_bit_the_same():
    _, frozen, state, step = stepped("cida", "full")
    first = step(state, frozen, batch(), KEY)
    assert same(step(state, frozen, batch(), KEY), first)
    assert not same(step(state, frozen, batch(), jax.random.key(6))[0], first[0])
    assert not same(step(at(state, 9), frozen, batch(), KEY)[0].fake, first[0].fake)


@pytest.mark.parametrize(
    ("generator", "moved"),
    [
        ("lora", "fake"),
        pytest.param("lora", "real", marks=pytest.mark.slow),
        pytest.param("full", "disc", marks=pytest.mark.slow),
        pytest.param("full", "fake", marks=pytest.mark.slow),
    ],
)
def test_one_role_does_not_touch_the_others(generator, moved):
    """After an update of one role alone, every other output is the same bits."""
    distill, frozen, state = build("cida", generator)
    state = apart(state)
    keys, pair = drawn(distill, frozen)
    t, _ = samples.noise(keys, "score", pair.z_high_bhwc, 20, 979)

    @jax.jit
    def outputs(state):
        roles, z = distill.roles, pair.z_high_bhwc
        return {
            "generator": roles.generate(frozen, state.generator.params, z),
            "fake": roles.x0(frozen, state.fake.params, z, t, 1.0, "fake/params"),
            "real": roles.x0(frozen, state.real.params, z, t, 2.0, "real/params"),
            "disc": roles.logits(frozen, state.disc.params, z, t),
        }

    z_high, z_low = pair.z_high_bhwc, pair.z_low_bhwc
    latents = {"fake": (z_low,), "real": (z_high,), "disc": (z_high, z_low)}[moved]
    left = stage_distill.Carry(keys, pair, z_low)
    update = jax.jit(lambda r: distill.update(moved, r, frozen, left, *latents)[0])
    before = outputs(state)
    role = update(getattr(state, moved))
    after = outputs(dataclasses.replace(state, **{moved: role}))
    for other in before:
        assert same(before[other], after[other]) == (other != moved), other


def test_warm_up_holds_the_generator_and_its_average_only():
    _, frozen, state, step = stepped("cida", "full")
    for i in range(WARM_UP + 1):
        new, metrics = step(at(state, i), frozen, batch(), KEY)
        held = i < WARM_UP
        assert same(new.generator, state.generator) == held  # moments and count, too
        assert same(new.ema, state.ema) == held
        assert float(metrics["skipped_generator"]) == 0
        for name in ("fake", "real", "disc"):
            old_role, new_role = getattr(state, name), getattr(new, name)
            assert not same(new_role.params, old_role.params), name
        state = new


def test_the_adversarial_term_waits_for_its_step():
    _, frozen, state, step = stepped("cida", "full")
    state = apart(state)
    for clock, weight in ((ADVERSARIAL - 1, 0.0), (ADVERSARIAL, 0.05)):
        _, metrics = step(at(state, clock), frozen, batch(), KEY)
        m = {name: float(value) for name, value in metrics.items()}
        expected = m["loss_cid"] + 0.5 * m["loss_repa"]
        expected += weight * m["loss_adversarial"]
        np.testing.assert_allclose(m["loss_generator"], expected, rtol=1e-5)
        assert (m["adversarial_to_score"] > 0) == (weight > 0)  # ratio of gradients


def test_paired_is_the_paired_terms_and_the_generator_alone():
    """One program, no other role, and the gradient is that of the terms themselves."""
    weights = {"latent": 0.5, "pixel": 1.0}
    distill, frozen, state = build("paired", weights=weights)
    assert (state.fake, state.real, state.disc) == (None, None, None)
    assert [line.name for line in distill.phases] == ["generator"]
    one = batch()
    new, metrics = jax.jit(distill.step)(state, frozen, one, KEY)
    total = 0.5 * metrics["loss_latent_generator"] + metrics["loss_pixel_generator"]
    np.testing.assert_allclose(metrics["loss_generator"], total, rtol=1e-5)
    assert not same(new.generator.params["unet"], state.generator.params["unet"])
    assert same(new.generator.params["projector"], state.generator.params["projector"])
    rate = distill.settings.optim.generator.lr
    np.testing.assert_allclose(metrics["lr_generator"], rate, rtol=1e-6)


def test_the_perceptual_term_compares_pictures_of_unbroken_samples():
    """Value, gradient and a broken sample, by the term's definition."""
    weights = {"perceptual": 0.3}
    init = {"random": True, "lpips": "folder"}
    distill, frozen, _ = build("paired", weights=weights, init=init)
    _, pair = drawn(distill, frozen)
    z_g = shaken(pair.z_high_bhwc)
    broken = z_g.at[1].set(jnp.nan)
    finite_b = jnp.asarray([True, False, True, True])

    @jax.jit
    def terms(z_g):
        terms = distill.generator_loss.paired_terms(frozen, pair, finite_b)
        (loss, values), grad = jax.value_and_grad(terms["pictures"], has_aux=True)(z_g)
        return loss, values["loss_perceptual"], grad

    def by_definition(z_g):
        lpips, vae = (distill.nets.lpips, distill.nets.vae)
        x = vae.bind(frozen["vae"]).decode(z_g / 0.8 + 0.1)
        a, b = (lpips.bind(frozen["lpips"]).features(v) for v in (x, pair.x_high_bhwc))
        return jnp.sum(jnp.mean(jnp.square(a - b), (1, 2, 3)) * finite_b) / 3

    loss, value, grad = terms(z_g)
    expected, expected_grad = jax.jit(jax.value_and_grad(by_definition))(z_g)
    np.testing.assert_allclose(loss, 0.3 * expected, rtol=1e-5)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert gap(grad / 0.3, expected_grad) < 1e-6
    assert float(terms(z_g - 0.1 * grad / jnp.max(jnp.abs(grad)))[1]) < float(value)
    np.testing.assert_allclose(terms(broken)[1], expected, rtol=1e-5)


def test_the_terms_of_pictures_are_l1_and_equation_33_on_the_autoencoders_blocks():
    distill, frozen, _ = build("paired", weights={"pixel": 0.5, "fourier": 2.0})
    _, pair = drawn(distill, frozen)
    s, vae = distill.settings, distill.nets.vae
    z_g = shaken(pair.z_high_bhwc)

    @jax.jit
    def term(z_g):
        finite_b = jnp.ones(len(z_g), bool)
        terms = distill.generator_loss.paired_terms(frozen, pair, finite_b)
        assert list(terms) == ["pictures"]
        x = vae.bind(frozen["vae"]).decode(z_g / 0.8 + 0.1)
        return *jax.value_and_grad(terms["pictures"], has_aux=True)(z_g), x

    (loss, values), grad, x = term(z_g)
    assert float(jnp.max(jnp.abs(grad))) > 0
    fourier = losses.masked_fourier(x, pair.x_high_bhwc, factor=s.vae.factor).mean()
    np.testing.assert_allclose(values["loss_fourier"], fourier, rtol=1e-5)
    pixel = losses.l1(x, pair.x_high_bhwc).mean()
    np.testing.assert_allclose(values["loss_pixel"], pixel, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.5 * pixel + 2.0 * fourier, rtol=1e-5)


def test_a_trained_decoder_learns_with_the_generator_and_its_average_is_exported():
    changes = {"weights": {"pixel": 1.0}, "decoder": "trained"}
    distill, frozen, state = build("paired", **changes)
    decoder = state.generator.params["decoder"]
    assert set(decoder) == {"decoder"}  # nothing of the encoder
    assert same(nets.overlay(frozen["vae"], decoder), frozen["vae"])
    shifted = shaken(state.decoder_ema)
    state = at(dataclasses.replace(state, decoder_ema=shifted), 5)
    new, metrics = jax.jit(distill.step)(state, frozen, batch(), KEY)
    trained = new.generator.params["decoder"]
    # As AdamW's first update: the gradient's sign times the rate.
    rate = float(metrics["lr_generator"])
    bias = ("decoder", "bias")
    moved = nets.flatten(trained)[bias] - nets.flatten(decoder)[bias]
    np.testing.assert_allclose(jnp.abs(moved), rate, rtol=1e-2)
    keep = min(distill.settings.ema, 6 / 15)
    expected = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, shifted, trained)
    assert gap(new.decoder_ema, expected) < 1e-6
    exported = stage_distill.autoencoder_weights(new, frozen["vae"])
    assert same(initial_weights.decoder_params(exported), new.decoder_ema)
    assert same(exported["encoder"], frozen["vae"]["encoder"])
    # Samples, and so the validation, are decoded by the average.
    pictures = jax.jit(distill.sample)(new, frozen, batch(), KEY)
    other = jax.jit(distill.sample)(state, frozen, batch(), KEY)
    assert not same(pictures["autoencoder"], other["autoencoder"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cid"}, "decoder=trained with kind=cid.*Set kind=paired"),
        (
            {"kind": "paired", "weights": {"latent": 1.0}},
            "no term compares pictures. Set weights.pixel=1",
        ),
    ],
)
def test_a_decoder_that_no_term_reaches_is_not_trained(changes, message):
    with pytest.raises(UsageError, match=message):
        settings("distill", decoder="trained", **changes)


def test_the_average_follows_the_generator():
    distill, frozen, state, step = stepped("cida", "full")
    state = at(state, 5)
    state = dataclasses.replace(state, ema=shaken(state.ema))
    new, _ = step(state, frozen, batch(), KEY)
    keep = min(distill.settings.ema, 6 / 15)
    expected = jax.tree.map(
        lambda a, p: keep * a + (1 - keep) * p, state.ema, new.generator.params["unet"]
    )
    assert gap(new.ema, expected) < 1e-6


# The generator's gradient.


def objective(distill, state, frozen, pair, keys, params):
    """Eq. 28 written out for plain autodiff: no code of the stage but draws."""
    s, declared = distill.settings, distill.nets
    prompt, z_low, z_high = frozen["prompt"], pair.z_low_bhwc, pair.z_high_bhwc
    count = len(z_low)
    stop = jax.lax.stop_gradient
    context = {k: jnp.stack([v] * count) for k, v in prompt.items()}
    bar = jnp.asarray(diffusion.ALPHA_BAR, z_low.dtype)

    def unet(adapters):
        if adapters is None:
            return declared.unet.bind(frozen["unet"])
        both = nets.flatten(frozen["unet"]) | nets.flatten(adapters)
        return declared.adapted.bind(nets.unflatten(both))

    def noised(name, z):
        t, eps = samples.noise(keys, name, z, s.score.t_min, s.score.t_max)
        a = jnp.sqrt(bar[t])[:, None, None, None]
        sigma = jnp.sqrt(1 - bar[t])[:, None, None, None]
        return t, a, sigma, a * z + sigma * eps

    def x0(adapters, z_t, t, a, sigma, kappa):
        call = lambda words: unet(adapters)(z_t, t, context[words])[0]  # noqa: E731
        out = call("positive")
        if kappa != 1:
            empty = call("negative")
            out = empty + kappa * (out - empty)
        return (
            (z_t - sigma * out) / a if s.prediction == "eps" else a * z_t - sigma * out
        )

    full = s.generator == "full"
    net = declared.unet.bind(params["unet"]) if full else unet(params["unet"])
    out, features = net(z_low, jnp.full((count,), 354), context["positive"])
    root = np.sqrt(2.0)
    z_g = root * z_low - out if s.prediction == "eps" else (z_low - out) / root
    t, a, sigma, z_t = noised("score", z_g)
    real = None if state.real is None else state.real.params
    p = x0(real, z_t, t, a, sigma, s.score.kappa)
    q = x0(state.fake.params, z_t, t, a, sigma, 1.0)
    w = stop(jnp.maximum(jnp.mean(jnp.abs(z_g - p), (1, 2, 3), keepdims=True), 1e-5))
    d = p - q
    if s.kind == "vsd":
        g = stop((q - p) / w)
        score = jnp.mean(0.5 * jnp.square(z_g - stop(z_g - g)))
    elif s.kind == "sid":
        score = jnp.mean(d * (p - z_g - s.score.alpha * d) / w)
    else:
        target = z_g + s.score.rho * stop(z_high - z_g)
        target = stop(z_high) if s.score.literal else target
        score = jnp.mean(d * (p - target - s.score.xi * d) / w)
    total = s.weights.score * score
    if s.kind == "cida":
        t, _, _, z_t = noised("adversarial", z_g)
        mid = unet(state.disc.params["unet"]).encode(z_t, t, context["positive"])["mid"]
        logits = declared.head.bind(state.disc.params["head"])(mid)
        total += s.weights.adversarial * jnp.mean(jnp.log1p(jnp.exp(-logits)))
        rows = features["down0"]
        tokens = declared.projector.bind(params["projector"])(
            rows.reshape(count, -1, rows.shape[-1])
        )
        dino = declared.dino.bind(frozen["dino"])
        target = dino(losses.dino_input(pair.x_high_bhwc, rows.shape[1:3]))
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
        cosine = jnp.sum(unit(tokens) * unit(target), -1)
        total -= s.weights.repa * jnp.mean(cosine)
    total += s.weights.latent * jnp.mean(jnp.square(z_g - z_high))
    if s.weights.pixel:
        x = declared.vae.bind(frozen["vae"]).decode(z_g / 0.8 + 0.1)
        total += s.weights.pixel * jnp.mean(jnp.abs(x - pair.x_high_bhwc))
    return total


def gradients(dtype, *, kappa=2.0, **changes):
    """(loss, gradient) of the stage, sequential and not, and of the objective above."""
    score = {"kappa": kappa} | changes.pop("score", {})
    distill, frozen, state = build(score=score, dtype=dtype, **changes)
    s, declared = distill.settings, distill.nets
    state, frozen = nets.cast((apart(state), frozen), dtype)
    found = []
    for sequential in (True, False):
        score = dataclasses.replace(s.score, sequential=sequential)
        distill = stage_distill.Distill(dataclasses.replace(s, score=score), declared)
        keys, pair = drawn(distill, frozen)
        pair = nets.cast(pair, dtype)
        gradient = jax.jit(functools.partial(gradient_of, distill))
        grads, loss, _ = gradient(state, frozen, pair, keys)
        assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}
        found.append((loss, grads))
    plain = functools.partial(objective, distill, state, frozen, pair, keys)
    found.append(jax.jit(jax.value_and_grad(plain))(state.generator.params))
    assert optimisers.optax.tree.norm(found[-1][1]) > 1e-3
    return found


ALL = {"weights": {"adversarial": 0.75, "repa": 0.5, "latent": 0.3, "pixel": 0.2}}
SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kind": "vsd"}, **SLOW),
        pytest.param({"kind": "sid", "kappa": 1.0}, **SLOW),
        pytest.param({"kind": "cid", "generator": "lora", "prediction": "v"}, **SLOW),
        {"kind": "cida"} | ALL,
        pytest.param(
            {"kind": "cida", "generator": "lora", "score": {"literal": True}} | ALL,
            **SLOW,
        ),
    ],
    ids=lambda c: "-".join(str(v) for v in c.values() if isinstance(v, str)),
)
def test_gradient_is_that_of_plain_autodiff_in_float64(changes):
    with jax.enable_x64(True):
        *ours, (expected, wanted) = gradients("float64", **changes)
        for loss, grads in ours:
            np.testing.assert_allclose(loss, expected, rtol=1e-10)
            assert gap(grads, wanted) < 1e-10


@pytest.mark.slow
def test_gradient_is_that_of_plain_autodiff_in_float32():
    *ours, (expected, wanted) = gradients("float32", kind="cida", **ALL)
    for loss, grads in ours:
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        assert gap(grads, wanted) < 1e-5


@cases()
def test_equal_roles_give_no_loss_and_no_gradient(kind, generator):
    """I1, all the way through networks: at step 0 every role is the base."""
    only = {"adversarial": 0.0, "repa": 0.0}
    distill, frozen, state = build(kind, generator, score={"kappa": 1.0}, weights=only)
    keys, pair = drawn(distill, frozen)
    assert gap(pair.z_low_bhwc, pair.z_high_bhwc) > 0.1
    gradient = jax.jit(functools.partial(gradient_of, distill))
    grads, loss, metrics = gradient(state, frozen, pair, keys)
    assert abs(float(loss)) < 1e-9 and float(metrics["gap"]) < 1e-6
    fake = dataclasses.replace(state.fake, params=shaken(state.fake.params))
    other, loss, metrics = gradient(
        dataclasses.replace(state, fake=fake), frozen, pair, keys
    )
    norm = optimisers.optax.tree.norm
    assert float(metrics["gap"]) > 0.01 and abs(float(loss)) > 1e-4
    assert float(norm(grads)) < 1e-5 * float(norm(other))


# Numbers that are not finite.


@pytest.mark.parametrize(
    "sequential", [pytest.param(True, **SLOW), pytest.param(False, **SLOW)]
)
def test_a_broken_sample_is_left_out(sequential):
    """The gradient is that of the batch without the sample."""
    distill, frozen, state = build(
        "cid", score={"sequential": sequential}, weights={"latent": 0.5}
    )
    state = apart(state)
    keys, pair = drawn(distill, frozen)
    broken = dataclasses.replace(
        pair, z_high_bhwc=pair.z_high_bhwc.at[2, 1, 1, 0].set(jnp.nan)
    )
    rest = np.array([0, 1, 3])
    fewer, fewer_keys = jax.tree.map(lambda x: x[rest], (pair, keys))
    gradient = jax.jit(functools.partial(gradient_of, distill))
    grads, loss, _ = gradient(state, frozen, broken, keys)
    wanted, expected, _ = gradient(state, frozen, fewer, fewer_keys)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert gap(grads, wanted) < 1e-5
    assert gap(gradient(state, frozen, pair, keys)[0], wanted) > 1e-2


@pytest.mark.parametrize("network", ["unet", "vae"])
@pytest.mark.parametrize(("kind", "generator"), [("cida", "full"), ("vsd", "lora")])
def test_frozen_weights_that_are_not_finite_stop_every_role(kind, generator, network):
    """A generator with its own weights would answer; there is nothing to learn."""
    _, frozen, state, step = stepped(kind, generator)
    broken = frozen | {network: jax.tree.map(lambda x: x * jnp.nan, frozen[network])}
    new, metrics = step(state, broken, batch(), KEY)
    for name in ("generator", "fake", "real", "disc"):
        if getattr(state, name) is not None:
            assert float(metrics[f"skipped_{name}"]) == 1, name
    assert int(new.step) == int(state.step) + 1
    assert same(dataclasses.replace(new, step=state.step), state)


def test_a_teacher_that_is_not_finite_stops_the_generator_alone():
    _, frozen, state, step = stepped("cida", "full")
    broken = frozen | {"dino": jax.tree.map(lambda x: x * jnp.nan, frozen["dino"])}
    new, metrics = step(state, broken, batch(), KEY)
    assert float(metrics["skipped_generator"]) == 1
    assert same(new.generator, state.generator)
    assert not same(new.fake, state.fake) and float(metrics["skipped_fake"]) == 0


# What leaves the stage.


@pytest.mark.parametrize("toy", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_merged_adapters_are_a_plain_unet_of_equal_output(toy):
    distill, frozen, state = build("vsd", "lora", toy=toy)
    state = dataclasses.replace(state, ema=shaken(state.ema))
    merged = stage_distill.restorer_weights(distill.settings, state, frozen["unet"])
    nets.check_like(merged, distill.nets.unet.abstract)
    z = jax.random.normal(KEY, (2, 8, 8, 4))
    generate = lambda p: distill.roles.generate(frozen, {"unet": p}, z)[0]  # noqa: E731
    adapted = jax.jit(generate)(state.ema)
    words = jnp.stack([frozen["prompt"]["positive"]] * 2)
    plain = lambda p: distill.nets.unet.bind(p)(z, jnp.full((2,), 354), words)[0]  # noqa: E731
    expected, base = (
        np.sqrt(2) * z - jax.jit(plain)(p) for p in (merged, frozen["unet"])
    )
    assert gap(adapted, expected) < 1e-5
    assert gap(adapted, base) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("generator", [pytest.param("full", **SLOW), "lora"])
def test_adapters_merged_before_use_make_the_same_step(generator):
    """Adam's first step is lr sign(g) wherever |g| > eps: eps is raised."""
    adam = {"lr": 1e-3, "eps": 1e-2}
    roles = ("generator", "fake", "real", "discriminator")
    ways = {}
    for how in ("side", "merged", "side-gradient"):
        changes = {"adapters": how, "optim": dict.fromkeys(roles, adam)}
        changes |= {"warmup_steps": 0, "adversarial_start": 0}
        distill, frozen, state = build("cida", generator, **changes)
        state = apart(state)
        ways[how] = state, *jax.jit(distill.step)(state, frozen, batch(), KEY)
    old, side, expected = ways.pop("side")
    for how, (_, merged, metrics) in ways.items():
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
        for name in ("generator", "fake", "real", "disc"):
            before, one, other = (getattr(s, name).params for s in (old, side, merged))
            move = functools.partial(jax.tree.map, lambda a, b: np.subtract(a, b))
            assert gap(move(other, before), move(one, before)) < 1e-4, (how, name)


def test_merged_adapters_are_not_rounded_away():
    """In bfloat16 a move below half a step of the base is lost, one by one; on a base
    in float32 the moves are there on average."""
    base = jnp.linspace(0.5, 1.0, 4096).reshape(64, 64)
    a, b = jnp.full((64, 1), 1e-2), jnp.full((1, 64), 1e-2)  # adds 1e-4
    role = {"lora_a": a, "lora_b": b}

    def moved(kernel):
        plus = nets.merge_lora({"kernel": kernel}, role, 1.0)["kernel"]
        rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in (plus, kernel)]
        return float(jnp.mean(rounded[0] - rounded[1]))

    assert moved(base.astype(jnp.bfloat16)) == 0
    assert moved(base) == pytest.approx(1e-4, rel=0.2)


def test_a_full_generator_leaves_as_it_is():
    distill, frozen, state = build("vsd", "full")
    state = dataclasses.replace(state, ema=shaken(state.ema))
    weights = stage_distill.restorer_weights(distill.settings, state, frozen["unet"])
    assert same(weights, state.ema)
    assert not same(weights, frozen["unet"])


def test_the_sheet_of_samples():
    distill, frozen, state = build("cida")
    state = dataclasses.replace(state, ema=shaken(state.ema, 1.0))
    columns = jax.jit(distill.sample)(state, frozen, batch(2), KEY)
    assert set(columns) == {
        "low quality, bicubic",
        "GenDR",
        "autoencoder",
        "photograph",
    }
    for name, picture in columns.items():
        assert picture.shape == (2, 16, 16, 3), name
        assert float(picture.min()) >= 0 and float(picture.max()) <= 1, name
    # The averaged weights draw it, not the trained ones.
    other = dataclasses.replace(state, ema=state.generator.params["unet"])
    again = jax.jit(distill.sample)(other, frozen, batch(2), KEY)
    assert not same(again["GenDR"], columns["GenDR"])
    assert same(again["autoencoder"], columns["autoencoder"])


def test_roles_start_apart_and_share_no_buffer():
    distill, frozen, state = build("cida")
    assert same(state.generator.params["unet"], frozen["unet"])
    assert same(state.ema, frozen["unet"])
    trees = [state.fake.params, state.real.params, state.disc.params["unet"]]
    firsts = [
        next(v for p, v in nets.flatten(t).items() if p[-1] == "lora_a") for t in trees
    ]
    assert not same(firsts[0], firsts[1]) and not same(firsts[1], firsts[2])
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state, frozen))]
    assert len(set(pointers)) == len(pointers)


# Several devices, and the real networks.

# How far one step on a mesh may be from the step on one device: sums over a batch and
# over split weights are taken in another order.
LOSS_TOLERANCE, UPDATE_TOLERANCE = 1e-5, 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["data=2,fsdp=4", "data=2,fsdp=2,space=2"])
def test_a_mesh_gives_the_step_of_one_device(spec, toy=False):
    """The real networks; toys on every mesh are in test_mesh_presets.py. Adam's first
    step is lr sign(g) wherever |g| > eps, which would blow up differences: eps is
    raised."""
    adam = {"lr": 1e-3, "eps": 1e-2}
    roles = ("generator", "fake", "real", "discriminator")
    changes = {
        "unet": PARTS["unet"] | {"block_out_channels": (32, 64)},
        "lora": {"rank": 16, "alpha": 32.0},
        "optim": dict.fromkeys(roles, adam),
    }
    data = batch(8)
    distill, frozen, state = build("cida", toy=toy, **changes)
    state = apart(state)
    single, expected = jax.jit(distill.step)(state, frozen, data, KEY)
    mesh = sharding.make_mesh(spec)
    declared, _ = parts(distill.settings, mesh, toy=toy)
    distill = stage_distill.Distill(distill.settings, declared)
    placement = sharding.tree_shardings(state, mesh)
    split = [s for s in jax.tree.leaves(placement) if "fsdp" in s.spec]
    assert len(split) >= 8
    frozen_placement = sharding.tree_shardings(frozen, mesh)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    jitted = jax.jit(
        distill.step,
        in_shardings=(placement, frozen_placement, rows, whole),
        out_shardings=(placement, whole),
    )
    with jax.set_mesh(mesh):
        many, metrics = jitted(
            sharding.place(state, placement),
            sharding.place(frozen, frozen_placement),
            sharding.place(data, rows),
            sharding.place(KEY, whole),
        )
    for name, value in expected.items():
        if name.startswith("loss_"):
            np.testing.assert_allclose(metrics[name], value, rtol=LOSS_TOLERANCE)
    for name in ("generator", "fake", "real", "disc"):
        old, one, other = (getattr(s, name).params for s in (state, single, many))
        move = functools.partial(jax.tree.map, lambda a, b: np.subtract(a, b))
        assert gap(move(other, old), move(one, old)) < UPDATE_TOLERANCE, name


@cases()
def test_one_step_of_the_real_networks(kind, generator):
    unet = PARTS["unet"] | {"attention": (True, False)}
    distill, frozen, state = build(kind, generator, toy=False, unet=unet)
    new, metrics = jax.jit(distill.step)(state, frozen, batch(), KEY)
    assert all(np.isfinite(float(v)) for v in metrics.values()), metrics
    for name in ("generator", "fake", "real", "disc"):
        if getattr(state, name) is not None:
            assert float(metrics[f"skipped_{name}"]) == 0
            assert not same(getattr(new, name).params, getattr(state, name).params)
    if kind == "cida":
        np.testing.assert_allclose(metrics["loss_disc"], 2 * np.log(2), rtol=1e-5)
