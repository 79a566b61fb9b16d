"""GenDR-Adc and GenDR-Pix restore: without an encoder, without an autoencoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.restore import estimate, forward
from gendr_jax.restore.forward import make_pass, make_stages, recipe_of
from gendr_jax.restore.options import host_params
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.weights import folder
from tests.helpers.tiny_restorer import pictures, pixel_weights

KINDS = ("adc", "pix")
UP = pictures(64)["photo"][None]


def unet_of(weights):
    net = nets.build(UNet, weights.configs["unet"]).bind(weights.params["unet"])

    @functools.partial(jax.jit, static_argnums=1)
    def run(u_bhwc, prompt):
        context = jnp.asarray(weights.prompt[prompt])[None]
        return net(u_bhwc, jnp.array([weights.t_star]), context)[0]

    return run


@pytest.mark.parametrize("kind", [pytest.param("adc", marks=pytest.mark.slow), "pix"])
def test_the_pass_is_what_the_method_says(kind):
    weights = pixel_weights(kind)
    recipe = recipe_of(weights, "float32")
    got, _ = jax.jit(make_pass(recipe))(host_params(weights, recipe), UP)
    x = jnp.asarray(UP) * 2 - 1
    out = unet_of(weights)(pixel_unshuffle(x, 4), "positive")
    if kind == "pix":
        want = x + pixel_shuffle(out, 4)
    else:
        config = weights.configs["vae"]
        vae = nets.build(VAE, config).bind(weights.params["vae"])
        want = jax.jit(vae.decode)(config.from_model(out))
    assert float(jnp.std(want - x)) > 0.05  # the network did something
    np.testing.assert_allclose(got, jnp.clip(want / 2 + 0.5, 0, 1), atol=2e-5)


@pytest.mark.slow
def test_pix_without_output_is_the_enlargement():
    weights = pixel_weights("pix")
    conv = weights.params["unet"]["conv_out"]
    for name in conv:
        conv[name] = np.zeros_like(conv[name])
    low = (pictures(32)["photo"] * 255).round().astype(np.uint8)
    restored = Restorer(weights, dtype="float32", color_fix="none")(low)
    plain = Restorer(weights, dtype="float32", strength=0.0)(low)
    np.testing.assert_array_equal(restored, plain)
    assert restored.shape == (128, 128, 3)


@pytest.mark.slow
@pytest.mark.parametrize("w", [pytest.param(0.0, marks=pytest.mark.slow), 1.5])
def test_pad_cfg_is_equation_36(w):
    """w G(pad(x, 2, 2), c+) + (1 - w) G(pad(x, 1, 3), c-), each cropped by its own."""
    weights = pixel_weights("pix")
    recipe = recipe_of(weights, "float32", pad_cfg=w)
    got, _ = jax.jit(make_pass(recipe))(host_params(weights, recipe), UP)
    unet, x = unet_of(weights), UP * 2 - 1

    def answer(top, bottom, prompt):
        sides = (top, bottom)
        padded = np.pad(x, ((0, 0), sides, sides, (0, 0)), "reflect")
        y = padded + pixel_shuffle(unet(pixel_unshuffle(padded, 4), prompt), 4)
        return y[:, top : top + 64, top : top + 64]

    want = w * answer(2, 2, "positive") + (1 - w) * answer(1, 3, "negative")
    np.testing.assert_allclose(got, jnp.clip(want / 2 + 0.5, 0, 1), atol=2e-5)
    plain = recipe_of(weights, "float32")
    other, _ = jax.jit(make_pass(plain))(host_params(weights, plain), UP)
    assert float(jnp.abs(got - other).max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stages_one_after_the_other_are_the_pass(kind):
    weights = pixel_weights(kind)
    recipe = recipe_of(weights, "float32")
    params, x = host_params(weights, recipe), jnp.asarray(UP)
    want, _ = jax.jit(make_pass(recipe))(params, x)
    stages = make_stages(recipe)
    assert tuple(stages) == recipe.stages
    for stage in stages.values():
        x = jax.jit(stage)(params, x)
    np.testing.assert_allclose(jnp.clip(x, 0, 1), want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_show_no_seam(kind):
    """Norms over the channels of each position: a tile is restored as its picture.

    Adc's decoder has norms over the picture; tiles share statistics of samples of it.
    """
    weights = pixel_weights(kind)
    config = dataclasses.replace(
        weights.configs["unet"], norm_channels=True, attention=(False, False),
        mid_attention=False,
    )  # fmt: skip
    net = nets.build(UNet, config)
    fresh = jax.tree.map(np.asarray, net.init(jax.random.key(0)))
    weights = dataclasses.replace(
        weights,
        configs=weights.configs | {"unet": config},
        params=weights.params | {"unet": fresh},
    )
    low = pictures(96)["photo"]
    whole = Restorer(weights, dtype="float32", tile=0)(low)
    tiled = Restorer(weights, dtype="float32", tile=256)
    gap = np.abs(tiled(low) - whole)
    most, mean = (0.08, 0.01) if kind == "adc" else (0.02, 0.001)
    assert gap.max() < most and gap.mean() < mean
    assert tiled.last[0].tiled


@pytest.mark.parametrize("kind", [pytest.param("adc", marks=pytest.mark.slow), "pix"])
def test_a_folder_comes_back(tmp_path, kind):
    weights = pixel_weights(kind)
    vae = (weights.configs["vae"], weights.params["vae"]) if kind == "adc" else None
    folder.save(
        tmp_path / "w",
        kind=kind,
        vae=vae,
        unet=(weights.configs["unet"], weights.params["unet"]),
        prompt=weights.prompt,
        t_star=123,
    )
    low = pictures(32)["photo"]
    read = Restorer.from_pretrained(tmp_path / "w", dtype="float32")
    np.testing.assert_array_equal(read(low), Restorer(weights, dtype="float32")(low))
    counted = sum(nets.count(tree) for tree in weights.params.values())
    assert read.spec.parameters == counted


def test_a_pass_without_an_autoencoder_costs_less():
    adc, pix = (recipe_of(pixel_weights(kind), "float32") for kind in KINDS)
    size = (256, 256)
    assert estimate.pass_flops(pix, size) < estimate.pass_flops(adc, size)
    assert estimate.pass_bytes(pix, size) < estimate.pass_bytes(adc, size)
    twice = dataclasses.replace(pix, pad_cfg=2.0)
    ratio = estimate.pass_flops(twice, size) / estimate.pass_flops(pix, size)
    assert 2.0 < ratio < 2.2
    assert set(forward.networks(pix)) == {"unet"}


def test_what_does_not_fit_is_refused():
    adc, pix = map(pixel_weights, KINDS)
    with pytest.raises(UsageError, match="pad_cfg=2 is for weights of kind pix"):
        Restorer(adc, pad_cfg=2.0)
    alone = dataclasses.replace(pix, prompt={"positive": pix.prompt["positive"]})
    with pytest.raises(UsageError, match="needs a negative prompt"):
        Restorer(alone, pad_cfg=2.0)
    with pytest.raises(UsageError, match="pad_cfg is -1"):
        Restorer(pix, pad_cfg=-1)
    with pytest.raises(InputError, match="3 times a square for both"):
        Restorer(dataclasses.replace(adc, kind="pix"))
    with pytest.raises(InputError, match="kind adc lack a VAE"):
        Restorer(dataclasses.replace(pix, kind="adc"))
    with pytest.raises(InputError, match="these are weights of kind base"):
        Restorer(dataclasses.replace(adc, kind="base"))


@pytest.mark.slow
def test_one_file_restores_as_its_folder_does(tmp_path, capsys):
    from gendr_jax.cli.main import main
    from gendr_jax.weights.convert import Options, convert

    file = tmp_path / "w.safetensors"
    convert(["gendr-tiny"], file, Options(to="safetensors"))
    low = pictures(32)["photo"]
    ours = Restorer.from_pretrained(file, dtype="float32")(low)
    theirs = Restorer.from_pretrained("gendr-tiny", dtype="float32")(low)
    np.testing.assert_array_equal(ours, theirs)
    Image.fromarray((low * 255).astype(np.uint8)).save(tmp_path / "a.png")
    flags = ["--weights", str(file), "--dry-run", "-o", str(tmp_path / "out")]
    assert main(["restore", "-i", str(tmp_path / "a.png"), *flags]) == 0
    assert "1 of 1 to do" in capsys.readouterr().out
