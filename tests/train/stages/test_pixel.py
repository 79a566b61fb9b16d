"""The stages Adc and Pix: terms, who is trained, where they start, what they write."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import losses, nets
from gendr_jax.errors import UsageError
from gendr_jax.models.heads import DiscriminatorHead, DiscriminatorHeadConfig
from gendr_jax.models.lpips import LPIPSConfig
from gendr_jax.models.pixel_shuffle import pixel_shuffle
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.train.settings import AdcSettings, PixSettings
from gendr_jax.train.stages import build, pixel
from gendr_jax.train.typed import typed
from gendr_jax.weights import folder, surgery
from tests.helpers.tiny_stages import (
    COMMON,
    PARTS,
    ToyLPIPS,
    ToyUNet,
    ToyVAE,
    batch,
    fewer_passes,
    gather_on,
    one_device,
    random,
    same,
)

FACTOR, CROP = 4, 32
KEY = jax.random.key(5)
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


def config(kind, **changes):
    return {
        "stage": kind,
        **COMMON,
        "data": {"crop": CROP, "preset": "bicubic"},
        "vae": {**PARTS["vae"], "block_out_channels": (8, 8, 8)},
        "unet": PARTS["unet"],
        "factor": FACTOR,
        "lora": {"rank": 2, "alpha": 4.0},
        "discriminator_width": 8,
        "optim": dict.fromkeys(("generator", "discriminator"), {"lr": 1e-3}),
        **changes,
    }


def settings(kind, **changes):
    kinds = {"adc": AdcSettings, "pix": PixSettings}
    return typed(kinds[kind], config(kind, **changes))


@functools.cache
def stepped(kind):
    """(stage, frozen, start, state, jitted step) of toys."""
    weights = {"adversarial": 0.05}
    weights |= {"fourier": 0.1, "perceptual": 0.5} if kind == "pix" else {}
    s = settings(kind, weights=weights)
    declare = functools.partial(nets.build, dtype="float32")
    channels = s.pixel_channels
    adc = dataclasses.replace(s.unet, in_channels=channels)
    pix = dataclasses.replace(adc, out_channels=channels)
    student, before = (adc, s.unet) if kind == "adc" else (pix, adc)
    head = DiscriminatorHeadConfig(s.unet.block_out_channels[-1], 8, 4)
    parts = pixel.PixelNets(
        vae=declare(ToyVAE, s.vae),
        teacher=declare(ToyUNet, s.unet),
        student=declare(ToyUNet, student),
        adapted=declare(ToyUNet, before, lora=s.lora),
        head=declare(DiscriminatorHead, head),
        lpips=declare(ToyLPIPS, LPIPSConfig()) if kind == "pix" else None,
        gather=gather_on(one_device()),
        split=lambda x: x,
    )
    words = jax.random.normal(jax.random.key(7), (2, 4, s.unet.cross_attention_dim))
    frozen = {
        "vae": random(parts.vae, 1),
        "unet": random(parts.teacher, 2),
        "features": random(declare(ToyUNet, before), 3),
        "prompt": {"positive": words[0], "negative": words[1]},
    }
    if parts.lpips is not None:
        frozen["lpips"] = random(parts.lpips, 6)
    stage = pixel.Pixel(s, parts)
    start = {"student": random(parts.student, 4)}
    state = pixel.make_init(s, parts)(KEY, start)
    # Logits of a head that starts at zero say nothing of what is before it.
    disc = dataclasses.replace(
        state.disc, params=state.disc.params | {"head": random(parts.head, 5)}
    )
    return stage, frozen, dataclasses.replace(state, disc=disc), jax.jit(stage.step)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("adc", marks=pytest.mark.slow), "pix"])
def test_a_step_trains_student_and_discriminator_alone(kind):
    _, frozen, state, step = stepped(kind)
    before = jax.tree.map(jnp.copy, frozen)
    new, metrics = step(state, frozen, batch(crop=CROP), KEY)
    assert int(new.step) == 1 and same(frozen, before)
    assert not same(new.generator.params, state.generator.params)
    assert not same(new.disc.params["unet"], state.disc.params["unet"])
    assert not same(new.ema, state.ema)
    names = {
        "loss_l1_generator",
        "loss_adversarial_generator",
        "loss_generator",
        "loss_disc",
    }
    assert names <= metrics.keys() and ("loss_fourier_generator" in metrics) == (
        kind == "pix"
    )
    assert all(np.isfinite(v) for v in metrics.values())
    again, _ = step(state, frozen, batch(crop=CROP), KEY)
    assert same(again, new)


@pytest.mark.parametrize("kind", ["adc", pytest.param("pix", marks=pytest.mark.slow)])
def test_the_loss_is_the_sum_of_its_terms(kind):
    stage, frozen, state, _ = stepped(kind)
    pair = jax.jit(stage.generate_pair)
    _, left, _ = pair(state, None, frozen, batch(crop=CROP), KEY)
    args = (state.generator.params, state, frozen)
    loss, metrics = jax.jit(stage.generator_loss)(
        *args, left.x_low_bhwc, left.target_bhwc, left.keys
    )
    y, w = left.student_bhwc, stage.settings.weights
    l1 = jnp.mean(jnp.abs(y - left.target_bhwc))
    np.testing.assert_allclose(metrics["loss_l1"], l1, rtol=1e-5)
    expected = l1 + w.adversarial * metrics["loss_adversarial"]
    if kind == "pix":
        fourier = losses.masked_fourier(y, left.target_bhwc, factor=FACTOR).mean()
        np.testing.assert_allclose(metrics["loss_fourier"], fourier, rtol=1e-5)
        expected += w.fourier * fourier
        lpips = stage.nets.lpips.bind(frozen["lpips"])
        perceptual = lpips(y, left.target_bhwc).mean()
        np.testing.assert_allclose(metrics["loss_perceptual"], perceptual, rtol=1e-5)
        expected += w.perceptual * perceptual
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_teacher_and_student_answer_on_one_grid():
    for kind in ("adc", "pix"):
        stage, frozen, state, _ = stepped(kind)
        _, left, _ = stage.generate_pair(state, None, frozen, batch(crop=CROP), KEY)
        shape = (4, 32, 32, 3) if kind == "pix" else (4, 8, 8, 4)
        assert left.student_bhwc.shape == left.target_bhwc.shape == shape
    assert np.abs(left.target_bhwc).max() <= 1  # a picture


def test_true_samples_of_pix_are_photographs_and_of_adc_latents():
    stage, frozen, state, _ = stepped("pix")
    data = batch(crop=CROP)
    _, left, _ = stage.generate_pair(state, None, frozen, data, KEY)
    np.testing.assert_allclose(
        left.true_bhwc, np.asarray(data["hq"], np.float32) / 127.5 - 1, atol=1e-6
    )


def test_a_student_that_answers_zero_is_the_enlarged_picture():
    stage, frozen, state, _ = stepped("pix")
    params = dict(state.generator.params)
    params["conv_out"] = jax.tree.map(jnp.zeros_like, params["conv_out"])
    x = jax.random.uniform(KEY, (2, CROP, CROP, 3), minval=-1)
    np.testing.assert_array_equal(stage.generate(frozen, params, x), x)


def test_one_padding_serves_both_pictures_and_moves_the_discriminators_grid():
    stage, frozen, state, _ = stepped("pix")
    x = jax.random.uniform(KEY, (4, CROP, CROP, 3), minval=-1)
    keys = {"pad": jax.random.split(jax.random.key(1), 4)}
    a, b = stage.padded((x, x), keys)
    assert a.shape == (4, CROP + FACTOR, CROP + FACTOR, 3) and same(a, b)
    plain = stage.logits(frozen, state.disc.params, x)
    moved = stage.logits(frozen, state.disc.params, a)
    assert plain.shape[1] < moved.shape[1]


@pytest.mark.slow
def test_a_broken_sample_costs_itself_alone():
    _, frozen, state, step = stepped("pix")
    params = jax.tree.map(lambda x: x * jnp.nan, state.generator.params)
    broken = dataclasses.replace(
        state, generator=dataclasses.replace(state.generator, params=params)
    )
    new, metrics = step(broken, frozen, batch(crop=CROP), KEY)
    assert metrics["skipped_generator"] == 1
    assert same(new.generator.opt, broken.generator.opt)


# ---- where they start


def test_the_full_size_students_have_the_published_size():
    count = lambda config: nets.count(nets.build(UNet, config).abstract)  # noqa: E731
    assert count(UNetConfig(in_channels=192, out_channels=192)) == 866_993_792
    assert count(UNetConfig()) == 865_979_856


def test_adc_begins_with_gendrs_spread_and_pix_without_a_grid():
    unet = random(nets.build(UNet, UNetConfig(**PARTS["unet"])), 0)
    wide = surgery.pixels_in(unet, channels=48)
    assert same(wide["conv_out"], unet["conv_out"])
    kernel = wide["conv_in"]["kernel"]
    assert kernel.shape == (3, 3, 48, 8)
    np.testing.assert_allclose(
        kernel[:, :, 4:8], unet["conv_in"]["kernel"] / 12**0.5, rtol=1e-6
    )
    pix = surgery.pixels_out(wide, KEY, factor=4)
    x = jax.random.normal(KEY, (1, 5, 6, 8))
    kernel = pix["conv_out"]["kernel"]
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = np.asarray(pixel_shuffle(out, 4)).reshape(5, 4, 6, 4, 3)
    assert np.ptp(y, axis=(1, 3)).max() == 0 and 0 < y.std() < 0.1
    assert len(np.unique(np.round(y[2, 0, 3, 0], 7))) == 3  # colours differ


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adc", "pix"])
def test_the_real_networks_from_a_configuration_to_weights(kind, tmp_path, caplog):
    weights = {"perceptual": 1.0, "fourier": 0.1} if kind == "pix" else {}
    stage = build.wire(
        build.read_settings(config(kind, weights=weights), one_device()),
        one_device(),
    )
    assert ("perceptual term is off" in caplog.text) == (kind == "pix")
    state = jax.jit(stage.init)(KEY, stage.start)
    if kind == "pix":
        assert same(
            state.generator.params["conv_in"], stage.frozen["features"]["conv_in"]
        )
    new, metrics = jax.jit(stage.step)(state, stage.frozen, batch(crop=CROP), KEY)
    assert all(np.isfinite(v) for v in metrics.values())
    columns = jax.jit(stage.sample)(new, stage.frozen, batch(2, CROP), KEY)
    assert all(x.shape == (2, CROP, CROP, 3) for x in columns.values())
    stage.export(new, stage.frozen, tmp_path / "w")
    weights = folder.load(tmp_path / "w")
    assert weights.kind == kind and ("vae" in weights.params) == (kind == "adc")
    assert weights.configs["unet"].in_channels == 3 * FACTOR**2


def test_sizes_that_do_not_fit_are_refused():
    s = config("pix", data={"crop": 34, "preset": "bicubic"})
    with pytest.raises(UsageError, match="data.crop=34 is no multiple"):
        build.read_settings(s, one_device())
    with pytest.raises(UsageError, match="factor=8 .* factor 4. Make them equal"):
        build.read_settings(config("adc", factor=8), one_device())
    with pytest.raises(UsageError, match="mask_radius=4 .* Give 3.5 at most"):
        build.read_settings(config("pix", mask_radius=4.0), one_device())


def linear_teacher(kind, **vae):
    """Settings of a student of a linear autoencoder and a UNet with a shortcut."""
    linear = {"linear_path": True, "convolutions": False, "patch": 4}
    ends = {"quant_conv": False, "post_quant_conv": False}
    return config(
        kind,
        vae={**PARTS["vae"], "block_out_channels": (8,), **linear, **ends, **vae},
        unet={**PARTS["unet"], "input_shortcut": True},
        init={"random": True},
        weights={"perceptual": 0.0} if kind == "pix" else {},
    )


@pytest.mark.slow
@pytest.mark.parametrize("convolutions", [False, True])
def test_with_a_linear_autoencoder_the_first_l1_is_that_of_rounding(convolutions):
    """Convolutions of the decoder, which adc keeps, do not matter."""
    vae = {"convolutions": convolutions, "encoder_convolutions": False}
    made = typed(AdcSettings, linear_teacher("adc", **vae))
    stage = build.wire(made, one_device())
    state = stage.init(KEY, stage.start)
    _, metrics = jax.jit(stage.step)(state, stage.frozen, batch(crop=CROP), KEY)
    assert float(metrics["loss_l1_generator"]) < 1e-4


def test_a_shortcut_beside_a_convolutional_autoencoder_is_refused():
    made = typed(AdcSettings, linear_teacher("adc", convolutions=True))
    with pytest.raises(UsageError, match="no pixel ends replace both"):
        build.wire(made, one_device())
