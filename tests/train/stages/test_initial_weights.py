"""What a run starts from: folders, their refusals, and chance where it is allowed."""

import dataclasses

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.heads import RepaProjector
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.train.settings import Init
from gendr_jax.train.stages import initial_weights
from gendr_jax.weights import folder
from tests.helpers.tiny_stages import fewer_passes, parts, random, same, settings

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(path, settings, weights by name) of a base's folder with all it can hold."""
    s = settings("base")
    declared, frozen = parts(s, toy=False)
    path = tmp_path_factory.mktemp("base") / "weights"
    measured = dataclasses.replace(s.vae, scaling_factor=0.123)
    unet, projector = random(declared.unet, 3), random(declared.projector, 4)
    folder.save(
        path,
        kind="base",
        vae=(measured, frozen["vae"]),
        unet=(s.unet, unet),
        projector=(declared.projector.config, projector),
        prompt=frozen["prompt"],
    )
    found = {"vae": frozen["vae"], "unet": unet, "projector": projector}
    return path, s, found | {"prompt": frozen["prompt"]}


@pytest.mark.parametrize("name", ["vae", "unet", "dino"])
def test_an_empty_field_needs_leave_for_chance(name):
    with pytest.raises(
        UsageError, match=rf"config\.init\.{name} is empty.*random=True"
    ):
        initial_weights.component(Init(), name, None)
    config = object()
    assert initial_weights.component(Init(random=True), name, config) == (config, None)


@pytest.mark.parametrize("name", ["vae", "unet"])
def test_weights_come_from_the_folder(base, name):
    path, s, weights = base
    init = Init(**{name: str(path)})  # a path needs no leave
    config, params = initial_weights.component(init, name, getattr(s, name))
    assert same(params, weights[name])
    if name == "vae":  # measured, not guessed: the folder's own wins
        assert (s.vae.scaling_factor, config.scaling_factor) == (0.8, 0.123)
        assert dataclasses.replace(config, scaling_factor=0.8) == s.vae
    else:
        assert config == s.unet


def test_another_architecture_is_refused_with_both_values(base):
    path, s, _ = base
    wanted = dataclasses.replace(s.vae, block_out_channels=(8, 16), layers_per_block=3)
    with pytest.raises(UsageError) as caught:
        initial_weights.component(Init(vae=str(path)), "vae", wanted)
    text = str(caught.value)
    assert "block_out_channels (8, 8), not (8, 16)" in text
    assert "layers_per_block 1, not 3" in text
    assert f"init.vae={path}" in text and "config.vae" in text and "\n" not in text


def test_channels_may_differ_for_surgery(base):
    path, s, _ = base
    wanted = dataclasses.replace(s.unet, in_channels=16, out_channels=16)
    found, params = initial_weights.component(Init(unet=str(path)), "unet", wanted)
    assert found.in_channels == 4
    assert params["conv_in"]["kernel"].shape[2] == 4


def test_random_weights_depend_on_seed_and_stream_alone():
    s = settings("base")
    net = nets.build(RepaProjector, parts(s)[0].projector.config)
    first = initial_weights.random_like(net, 0, initial_weights.UNET_STREAM)
    nets.check_like(first, net.abstract)
    assert same(initial_weights.random_like(net, 0, initial_weights.UNET_STREAM), first)
    assert not same(
        initial_weights.random_like(net, 0, initial_weights.VAE_STREAM), first
    )
    assert not same(
        initial_weights.random_like(net, 1, initial_weights.UNET_STREAM), first
    )


# Prompts.


def test_prompt_from_a_file_before_the_folder_before_chance(base, tmp_path):
    path, _, weights = base
    ours = {k: np.full((3, 8), i, np.float16) for i, k in enumerate(weights["prompt"])}
    np.savez(tmp_path / "p.npz", **ours)
    both = Init(unet=str(path), prompt=str(tmp_path / "p.npz"), random=True)
    found = initial_weights.prompt(both, 8, 0)
    assert same(found, ours) and found["positive"].dtype == np.float32
    from_folder = initial_weights.prompt(dataclasses.replace(both, prompt=""), 8, 0)
    assert same(from_folder, weights["prompt"])


def test_prompt_of_chance_is_a_constant_of_unit_variance():
    found = initial_weights.prompt(Init(random=True), 64, 0)
    assert {k: v.shape for k, v in found.items()} == {
        "positive": (77, 64),
        "negative": (77, 64),
    }
    for value in found.values():
        assert abs(float(np.std(value)) - 1) < 0.05
    assert not same(found["positive"], found["negative"])
    assert same(initial_weights.prompt(Init(random=True), 64, 0), found)
    assert not same(initial_weights.prompt(Init(random=True), 64, 1), found)
    with pytest.raises(UsageError, match=r"config\.init\.prompt is empty"):
        initial_weights.prompt(Init(), 64, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"no zip", "cannot be read"),
        ({"positive": np.zeros((3, 8))}, "cannot be read.*negative"),
        (
            {"positive": np.zeros((3, 8)), "negative": np.zeros((3, 9))},
            r"negative has shape \(3, 9\), the UNet reads \[tokens, 8\]",
        ),
        (
            {"positive": np.zeros((1, 3, 8)), "negative": np.zeros((3, 8))},
            r"positive has shape \(1, 3, 8\)",
        ),
        (
            {"positive": np.full((3, 8), np.nan), "negative": np.zeros((3, 8))},
            "positive is not finite",
        ),
        (
            {"positive": np.zeros((3, 8)), "negative": np.zeros((4, 8))},
            "positive has 3 tokens, negative 4",
        ),
    ],
    ids=["absent", "damaged", "one name", "width", "rank", "nan", "length"],
)
def test_prompt_files_that_do_not_fit(tmp_path, content, words):
    path = tmp_path / "p.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        np.savez(path, **content)
    with pytest.raises(UsageError, match=words) as caught:
        initial_weights.prompt(Init(prompt=str(path)), 8, 0)
    assert str(path) in str(caught.value)


# The projector.


def test_projector_comes_along_where_it_fits(base, tmp_path):
    path, s, weights = base
    net = parts(s)[0].projector
    init = Init(unet=str(path))
    assert same(
        initial_weights.projector(init, net), {"projector": weights["projector"]}
    )
    wider = dataclasses.replace(net.config, hidden_dim=32)
    assert initial_weights.projector(init, nets.build(RepaProjector, wider)) == {}
    assert initial_weights.projector(Init(), net) == {}
    assert initial_weights.projector(Init(unet=str(tmp_path)), net) == {}


def test_a_unet_that_predicts_something_else_is_refused(base):
    path, _, _ = base
    initial_weights.check_prediction(Init(unet=str(path)), "eps")
    initial_weights.check_prediction(Init(), "v")
    with pytest.raises(UsageError, match="predicts 'eps', config.prediction is 'v'"):
        initial_weights.check_prediction(Init(unet=str(path)), "v")


GROWN = {
    "latent_channels": 12,
    "block_out_channels": (4, 8, 8),
    "layers_per_block": 1,
    "norm_groups": 4,
    "mid_attention": False,
    "linear_path": True,
    "encoder_convolutions": False,
    "norm_channels": True,
}


def test_a_linear_autoencoder_gets_fresh_convolutions_in_its_decoder(tmp_path):
    one_level = {"block_out_channels": (8,), "patch": 4, "convolutions": False}
    linear = VAEConfig(**GROWN | one_level, scaling_factor=0.7)
    params = random(nets.build(VAE, linear), 3)
    path = tmp_path / "linear"
    folder.save(path, kind="vae", vae=(linear, params))
    init = Init(vae=str(path))
    config, grown = initial_weights.autoencoder(init, VAEConfig(**GROWN), seed=0)
    assert config == VAEConfig(**GROWN, scaling_factor=0.7)
    assert same(grown["linear_path"], params["linear_path"])
    z = jax.random.normal(jax.random.key(1), (1, 4, 6, 12))
    decode = lambda c, p: jax.jit(nets.build(VAE, c).bind(p).decode)(z)  # noqa: E731
    np.testing.assert_allclose(decode(config, grown), decode(linear, params), atol=1e-6)
    assert grown["decoder"]["conv_in"]["kernel"].any()
    # Once grown, they are weights like others.
    folder.save(tmp_path / "grown", kind="vae", vae=(config, grown))
    again = Init(vae=str(tmp_path / "grown"))
    assert same(initial_weights.autoencoder(again, config, seed=5)[1], grown)
    with pytest.raises(UsageError, match="has 4 pixels a latent .* config.vae 8"):
        initial_weights.autoencoder(init, VAEConfig(**GROWN | {"patch": 2}), seed=0)
    with pytest.raises(UsageError, match="latent_channels 12, not 6"):
        wrong = VAEConfig(**GROWN | {"latent_channels": 6})
        initial_weights.autoencoder(init, wrong, seed=0)
