"""A blend is the weighted mean of two networks; other pairs are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from gendr_jax import Restorer, nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights import blend, folder
from tests.helpers.tiny_commands import gendr, save_weights


@pytest.fixture
def pair(tmp_path):
    """Two folders whose UNets differ by the factor -2."""
    first = folder.load(save_weights(tmp_path / "first"))
    unet = jax.tree.map(lambda x: -2 * x, first.params["unet"])
    return tmp_path / "first", save(first, tmp_path / "second", unet=unet)


def save(weights, path, *, unet=None, **changes):
    weights = dataclasses.replace(weights, **changes)
    params = weights.params | ({"unet": unet} if unet else {})
    return folder.save(
        path,
        kind=weights.kind,
        unet=(weights.configs["unet"], params["unet"]),
        vae=(weights.configs["vae"], params["vae"]),
        prompt=weights.prompt,
        prediction=weights.prediction,
        t_star=weights.t_star,
    )


@pytest.mark.parametrize(("fidelity", "factor"), [(0, 1), (0.25, 0.25), (1, -2)])
def test_the_blend_is_the_weighted_mean(pair, fidelity, factor):
    first = folder.load(pair[0])
    mixed = blend.load(pair[0], fidelity, pair[1])
    for path, leaf in nets.flatten(mixed.params["unet"]).items():
        expected = factor * nets.flatten(first.params["unet"])[path]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7)
    for path, leaf in nets.flatten(mixed.params["vae"]).items():
        np.testing.assert_array_equal(leaf, nets.flatten(first.params["vae"])[path])


def test_ends_are_the_weights_themselves_in_their_own_dtype(pair, tmp_path):
    half = jax.tree.map(
        lambda x: x.astype(np.float16), folder.load(pair[0]).params["unet"]
    )
    save(folder.load(pair[0]), tmp_path / "half", unet=half)
    mixed = blend.load(tmp_path / "half", 0.0, pair[1])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(mixed.params["unet"])} == {
        "float16"
    }
    between = blend.load(tmp_path / "half", 0.5, pair[1])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(between.params)} == {"float32"}


def test_without_fidelity_the_second_is_not_read(pair):
    (pair[1] / "gendr.json").write_text("damaged")
    assert blend.load(pair[0]).kind == "restorer"
    with pytest.raises(InputError, match="second"):
        blend.load(pair[0], 0.5, pair[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": "v"}, "their prediction differ .eps and v"),
        ({"t_star": 20}, "their t_star differ .354 and 20"),
        ({"prompt": {"positive": np.ones((3, 6), np.float32)}}, "their prompt "),
    ],
)
def test_weights_of_another_kind_are_refused(pair, tmp_path, changes, words):
    other = save(folder.load(pair[1]), tmp_path / "other", **changes)
    with pytest.raises(InputError, match=f"first and .*other: {words}"):
        blend.load(pair[0], 0.5, other)


def test_another_architecture_is_named_by_its_field(pair):
    with pytest.raises(InputError, match=r"unet\.in_channels 4 and 16.*architecture"):
        blend.load(pair[0], 0.5, "gendr-tiny")


@pytest.mark.parametrize("fidelity", [-0.1, 1.5, float("nan"), "half"])
def test_numbers_out_of_range_are_refused(pair, fidelity):
    with pytest.raises(UsageError, match="Give a number from 0 to 1"):
        blend.load(pair[0], fidelity, pair[1])


def test_both_arguments_are_needed(pair):
    with pytest.raises(UsageError, match="faithful=.* without fidelity"):
        blend.load(pair[0], None, pair[1])
    with pytest.raises(UsageError, match="Name the more faithful ones"):
        blend.load(pair[0], 0.5)


def test_the_restorer_and_the_command_take_both(pair, tmp_path, capsys):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    options = {"dtype": "float32", "tile": 0, "color_fix": "none"}
    ends = [Restorer.from_pretrained(p, **options)(picture) for p in pair]
    first = Restorer.from_pretrained(pair[0], fidelity=0.0, faithful=pair[1], **options)
    second = Restorer.from_pretrained(pair[0], fidelity=1, faithful=pair[1], **options)
    np.testing.assert_array_equal(first(picture), ends[0])
    np.testing.assert_array_equal(second(picture), ends[1])
    assert not np.array_equal(*ends)
    args = ("restore", "-i", tmp_path / "a.png", "-o", tmp_path / "b.png", "--dry-run")
    (tmp_path / "a.png").write_bytes(b"")
    assert gendr(*args, "--weights", pair[0], "--fidelity", "2") == 2
    assert "--fidelity is 2.0, it must be from 0 to 1" in capsys.readouterr().err
    assert gendr(*args, "--weights", pair[0], "--fidelity", "0.5") == 2
    assert "Name the more faithful ones" in capsys.readouterr().err
    assert gendr(*args, "--weights", pair[0], "--faithful", "", "--fidelity", "1") == 2
    assert "--faithful is empty" in capsys.readouterr().err
