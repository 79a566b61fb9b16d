"""A blend is the weighted mean of two networks; other pairs are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from gendr_jax import Restorer, nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import blend
from gendr_jax.weights.gendr_json import Weights
from tests.helpers.tiny_commands import (
    UNET_CONFIG,
    VAE_CONFIG,
    gendr,
    params_of,
    save_weights,
)


@pytest.fixture(scope="module")
def first():
    return Weights(
        kind="restorer",
        configs={"unet": UNET_CONFIG, "vae": VAE_CONFIG},
        params={
            "unet": params_of(UNet, UNET_CONFIG),
            "vae": params_of(VAE, VAE_CONFIG),
        },
        prompt={"positive": np.zeros((3, 6), np.float32)},
    )


@pytest.fixture(scope="module")
def second(first):
    """Its UNet is the first's times -2."""
    unet = jax.tree.map(lambda x: -2 * x, first.params["unet"])
    return dataclasses.replace(first, params=first.params | {"unet": unet})


@pytest.mark.parametrize(("fidelity", "factor"), [(0, 1), (0.25, 0.25), (1, -2)])
def test_the_blend_is_the_weighted_mean(first, second, fidelity, factor):
    mixed = blend.blended(first, second, fidelity)
    own = nets.flatten(first.params["unet"])
    for path, leaf in nets.flatten(mixed.params["unet"]).items():
        np.testing.assert_allclose(leaf, factor * own[path], rtol=1e-5, atol=1e-7)
    for path, leaf in nets.flatten(mixed.params["vae"]).items():
        np.testing.assert_array_equal(leaf, nets.flatten(first.params["vae"])[path])


def test_ends_are_the_weights_themselves_in_their_own_dtype(first, second):
    def dtypes(weights):
        return {leaf.dtype.name for leaf in jax.tree.leaves(weights.params)}

    params = jax.tree.map(lambda x: x.astype(np.float16), first.params)
    half = dataclasses.replace(first, params=params)
    assert dtypes(blend.blended(half, second, 0)) == {"float16"}
    assert dtypes(blend.blended(half, second, 0.5)) == {"float32"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": "v"}, "their prediction differ .eps and v"),
        ({"t_star": 20}, "their t_star differ .354 and 20"),
        ({"prompt": {"positive": np.ones((3, 6), np.float32)}}, "their prompt "),
        (
            {"configs": {"unet": UNET_CONFIG, "vae": VAEConfig()}},
            r"configs differ .vae\.latent_channels 4 and 16.*one architecture",
        ),
    ],
)
def test_weights_of_another_kind_are_refused(first, second, changes, words):
    with pytest.raises(InputError, match=words):
        blend.blended(first, dataclasses.replace(second, **changes), 0.5)


@pytest.mark.parametrize("fidelity", [-0.1, 1.5, float("nan"), "half"])
def test_numbers_out_of_range_are_refused(fidelity):
    with pytest.raises(UsageError, match="Give a number from 0 to 1"):
        blend.load("a", fidelity, "b")


def test_both_arguments_are_needed():
    with pytest.raises(UsageError, match="faithful=b without fidelity"):
        blend.load("a", None, "b")
    with pytest.raises(UsageError, match="Name the more faithful ones"):
        blend.load("a", 0.5)


def test_the_restorer_and_the_command_take_both(tmp_path, capsys):
    """A network blended with itself is itself; the second is read with fidelity."""
    weights = save_weights(tmp_path / "w")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    options = {"dtype": "float32", "tile": 0, "color_fix": "none"}
    alone = Restorer.from_pretrained(weights, **options)(picture)
    same = {"fidelity": 0.5, "faithful": weights}
    blended = Restorer.from_pretrained(weights, **same, **options)(picture)
    np.testing.assert_array_equal(blended, alone)
    with pytest.raises(InputError, match="w and gendr-tiny: their configs differ"):
        Restorer.from_pretrained(weights, fidelity=0.5, faithful="gendr-tiny")
    (tmp_path / "a.png").write_bytes(b"")
    args = ("restore", "-i", tmp_path / "a.png", "-o", tmp_path / "b.png", "--dry-run")
    for flags, words in (
        (("--fidelity", "2"), "--fidelity is 2.0, it must be from 0 to 1"),
        (("--fidelity", "0.5"), "Name the more faithful ones"),
        (("--fidelity", "1", "--faithful", ""), "--faithful is empty"),
        (("--fidelity", "1", "--faithful", "absent"), "no weights folder absent"),
    ):
        assert gendr(*args, "--weights", weights, *flags) == 2
        assert words in capsys.readouterr().err
