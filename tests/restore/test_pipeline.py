"""restore/: sizes, kinds of picture, the pass against its definition, placement."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import nets, sharding
from gendr_jax.errors import InputError, UsageError
from gendr_jax.image_io import arrays, resize
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.restore import memory, tiled, tiling
from gendr_jax.restore.forward import Recipe
from gendr_jax.restore.options import host_params
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.weights import folder
from gendr_jax.weights.folder import Weights

VAE_CONFIG = VAEConfig(
    latent_channels=4,
    block_out_channels=(4, 8),
    layers_per_block=1,
    norm_groups=2,
    scaling_factor=0.7,
    shift_factor=0.1,
)
UNET_CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(8,),
    layers_per_block=1,
    heads=(2,),
    attention=(True,),
    cross_attention_dim=6,
    norm_groups=2,
)
RNG = np.random.default_rng(0)


def params_of(model, config, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan = max(leaf.size // leaf.shape[-1], 1) if leaf.ndim > 1 else 4
        return (rng.standard_normal(leaf.shape) / fan**0.5).astype(np.float32)

    return jax.tree.map(draw, nets.build(model, config).abstract)


WEIGHTS = Weights(
    kind="restorer",
    configs={"unet": UNET_CONFIG, "vae": VAE_CONFIG},
    params={
        "unet": params_of(UNet, UNET_CONFIG, 1),
        "vae": params_of(VAE, VAE_CONFIG, 2),
    },
    prompt={"positive": RNG.standard_normal((5, 6)).astype(np.float32)},
    prediction="v",
    t_star=123,
)


def picture(height, width, channels=3, dtype=np.uint8, seed=0):
    x = np.random.default_rng(seed).random((height, width, channels))
    if np.issubdtype(dtype, np.floating):
        return x.astype(dtype)
    return np.rint(x * np.iinfo(dtype).max).astype(dtype)


@pytest.fixture(scope="module")
def restorer():
    return Restorer(WEIGHTS, dtype="float32")


@pytest.fixture(scope="module")
def plain():
    """Without a colour fix: the networks' own output."""
    return Restorer(WEIGHTS, dtype="float32", color_fix="none")


@pytest.mark.parametrize(
    "scale", [4, *(pytest.param(s, marks=pytest.mark.slow) for s in (3, 2.5, 1))]
)
def test_sizes_are_exact_for_every_parity(restorer, scale):
    for size in ((13, 16), (16, 13), (15, 15), (1, 1), (1, 9), (10, 1), (3, 2)):
        out = restorer(picture(*size), scale=scale)
        assert out.shape == (*(round(scale * side) for side in size), 3)
        assert out.dtype == np.uint8


@pytest.mark.slow
def test_larger_than_one_bucket(restorer):
    assert restorer(picture(5, 19), scale=4).shape == (20, 76, 3)


def by_definition(rgb_hwc, height, width):
    """GenDR's inference of one picture written out, without and with colour fix.

    float64 where it is numpy.
    """
    vae = nets.build(VAE, VAE_CONFIG).bind(WEIGHTS.params["vae"])
    unet = jax.jit(nets.build(UNet, UNET_CONFIG).bind(WEIGHTS.params["unet"]))
    up = jax.image.resize(rgb_hwc, (height, width, 3), "cubic")
    up = np.clip(np.asarray(up), 0, 1)
    extra = ((32, 96 - height), (32, 96 - width), (0, 0))
    padded = np.pad(up, extra, "reflect")
    mean, _ = jax.jit(vae.encode)(jnp.asarray(padded[None]) * 2 - 1)
    z_l = (mean - 0.1) * 0.7
    context = jnp.asarray(WEIGHTS.prompt["positive"][None])
    v, _ = unet(z_l, jnp.array([123]), context)
    z_g = (z_l - v) / np.sqrt(2)
    out = np.asarray(jax.jit(vae.decode)(z_g / 0.7 + 0.1))[0, 32 : 32 + height]
    out = out[:, 32 : 32 + width]
    out = np.clip(out / 2 + 0.5, 0, 1).astype(np.float64)
    std = [np.sqrt(x.var((0, 1), ddof=1) + 1e-5) for x in (out, up)]
    fixed = (out - out.mean((0, 1))) / std[0] * std[1] + up.mean((0, 1))
    return np.clip(out, 0, 1), np.clip(fixed, 0, 1)


def test_the_pass_is_what_the_method_says(restorer, plain):
    x = picture(11, 9, dtype=np.float32)
    for model, expected in zip(
        (plain, restorer), by_definition(x, 44, 36), strict=True
    ):
        assert expected.std() > 0.02
        np.testing.assert_allclose(model(x), expected, atol=2e-4)


def test_colours_are_those_of_the_enlargement(restorer, plain):
    x = 0.3 * picture(12, 12, dtype=np.float32) + np.float32([0.1, 0.3, 0.5])
    wanted = x.mean((0, 1))
    assert np.abs(plain(x).mean((0, 1)) - wanted).max() > 0.02
    np.testing.assert_allclose(restorer(x).mean((0, 1)), wanted, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_come_back_as_they_are(restorer, dtype, channels):
    x = picture(7, 9, channels or 1, dtype)
    x = x[..., 0] if channels is None else x
    out = restorer(x)
    assert out.dtype == dtype and out.shape == (28, 36, *x.shape[2:])
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    # Every depth is the same picture, but for rounding.
    as_float = restorer((x / top).astype(np.float64))
    np.testing.assert_allclose(out / top, as_float, atol=0.51 / top + 1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
def test_pil_images_come_back_as_pil_images(restorer, mode):
    if mode == "I;16":
        source = Pil.fromarray(picture(7, 9, 1, np.uint16)[..., 0])
    else:
        source = Pil.fromarray(picture(7, 9, 4)).convert("RGB").convert(mode)
    out = restorer(source, scale=2)
    assert isinstance(out, Pil.Image)
    assert out.size == (18, 14)
    assert out.mode == {"P": "RGB", "1": "L"}.get(mode, mode)


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 4)])
def test_arrays_of_jax_come_back_as_arrays_of_jax(restorer, shape):
    x = picture(7, 9, shape[-1] if len(shape) > 2 else 1, np.float32).reshape(shape)
    out = restorer(jnp.asarray(x))
    assert isinstance(out, jax.Array)
    np.testing.assert_array_equal(out, restorer(x))


def test_alpha_takes_its_own_way(restorer):
    rgba = picture(8, 8, 4)
    out = restorer(rgba)
    np.testing.assert_array_equal(out[..., :3], restorer(rgba[..., :3].copy()))
    alpha = Pil.fromarray(rgba[..., 3].astype(np.float32)).resize((32, 32), 3)
    np.testing.assert_allclose(out[..., 3], np.clip(alpha, 0, 255), atol=0.51)


def test_grey_is_the_grey_of_the_colour_result(restorer):
    grey = picture(8, 8, 1, np.float32)
    colour = restorer(np.repeat(grey, 3, -1))
    expected = colour @ np.float32([0.299, 0.587, 0.114])
    np.testing.assert_allclose(restorer(grey)[..., 0], expected, atol=1e-6)


@pytest.mark.slow
def test_a_list_of_mixed_sizes_keeps_order_and_kind(restorer):
    xs = [picture(9, 17), Pil.fromarray(picture(5, 6)), picture(8, 18, dtype=np.uint16)]
    out = restorer(xs)
    for one, x in zip(out, xs, strict=True):
        assert type(one) is type(restorer(x))
        np.testing.assert_array_equal(np.asarray(one), np.asarray(restorer(x)))
    assert restorer([]) == []


def test_the_same_picture_gives_the_same_bits(restorer):
    x = picture(13, 11)
    np.testing.assert_array_equal(restorer(x), restorer(x))


@pytest.mark.slow
def test_a_mesh_gives_what_one_device_gives(restorer):
    mesh = sharding.make_mesh("data=2", devices=jax.devices()[:2])
    spread = Restorer(WEIGHTS, dtype="float32", mesh=mesh)
    assert spread.batch_size == 2
    xs = [picture(10, 12, seed=i) for i in range(3)]
    for a, b in zip(spread(xs), restorer(xs), strict=True):
        np.testing.assert_allclose(a.astype(int), b, atol=1)
    # Each picture alone, whatever shares its batch.
    np.testing.assert_array_equal(spread(xs[0]), spread(xs)[0])
    leaf = jax.tree.leaves(spread._programs._params)[0]
    assert len(leaf.sharding.device_set) == 2 and leaf.sharding.is_fully_replicated


@pytest.mark.slow
def test_bfloat16_is_near_float32(restorer):
    half = Restorer(WEIGHTS)
    assert half.spec.dtype == "bfloat16"
    kernels = {
        x.dtype.name for x in jax.tree.leaves(half._programs._params) if x.ndim > 1
    }
    assert kernels == {"bfloat16"}
    x = picture(9, 14, dtype=np.float32)
    difference = np.abs(half(x) - restorer(x))
    assert 0 < difference.mean() < 0.03


def test_a_folder_restores_as_its_weights_do(restorer, tmp_path):
    networks = {n: (WEIGHTS.configs[n], WEIGHTS.params[n]) for n in ("unet", "vae")}
    path = folder.save(
        tmp_path / "w",
        kind="restorer",
        prompt=WEIGHTS.prompt,
        prediction="v",
        t_star=123,
        **networks,
    )
    loaded = Restorer.from_pretrained(path, "float32")
    x = picture(6, 6)
    np.testing.assert_array_equal(loaded(x), restorer(x))
    count = sum(nets.count(p) for p in WEIGHTS.params.values())
    assert loaded.spec.parameters == count
    assert loaded.spec.size_multiple == 64
    assert loaded.spec.scales == (1.0, 16.0)


def test_weights_of_the_right_type_are_not_copied():
    """Full-size ones would be in memory twice."""
    recipe = Recipe(WEIGHTS.configs["vae"], WEIGHTS.configs["unet"], "v", 1, "float32")
    given, taken = (
        nets.flatten(tree["unet"])
        for tree in (WEIGHTS.params, host_params(WEIGHTS, recipe))
    )
    assert all(np.shares_memory(given[path], taken[path]) for path in given)
    half = host_params(WEIGHTS, dataclasses.replace(recipe, dtype="bfloat16"))
    types = {leaf.dtype.name for leaf in jax.tree.leaves(half["unet"]) if leaf.ndim > 1}
    assert types == {"bfloat16"}


def test_output_that_is_not_finite_is_an_error():
    params = jax.tree.map(np.copy, WEIGHTS.params)
    params["vae"]["decoder"]["conv_out"]["bias"][0] = np.nan
    broken = Restorer(dataclasses.replace(WEIGHTS, params=params), dtype="float32")
    with pytest.raises(InputError, match="not finite in float32"):
        broken(picture(4, 4))


def test_too_many_pixels_are_refused():
    small = Restorer(WEIGHTS, dtype="float32", max_pixels=64 * 128, tile=0)
    with pytest.raises(InputError, match=r"132x20 .*limit.*8192"):
        small(picture(5, 33))
    assert small.layout(20, 128).pass_hw == (128, 192)


@pytest.mark.parametrize("scale", [0, 0.5, -4, 17, float("nan"), "4", None])
def test_scales_out_of_range_are_refused(restorer, scale):
    with pytest.raises(UsageError, match="scale"):
        restorer(picture(4, 4), scale=scale)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (picture(4, 4).astype(np.int32), "dtype int32"),
        (picture(4, 4) > 5, "dtype bool"),
        (picture(4, 4).astype(np.float32), "expected \\[0, 1\\]"),
        (np.full((4, 4, 3), np.nan), "not finite. Replace"),
        (picture(4, 4, 5), "shape \\(4, 4, 5\\)"),
        (picture(4, 4)[None], "shape \\(1, 4, 4, 3\\)"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        ("photo.png", "is a path, expected a picture"),
        (7, "is a int"),
        (Pil.new("HSV", (4, 4)), "HSV"),
    ],
)
def test_what_is_no_picture_is_refused(restorer, bad, message):
    with pytest.raises(InputError, match=message):
        restorer(bad)


def test_weights_that_cannot_restore_are_refused():
    with pytest.raises(InputError, match="kind base"):
        Restorer(dataclasses.replace(WEIGHTS, kind="base"))
    wide = dataclasses.replace(VAE_CONFIG, latent_channels=16)
    configs = {"unet": UNET_CONFIG, "vae": wide}
    with pytest.raises(InputError, match="the VAE has 16"):
        Restorer(dataclasses.replace(WEIGHTS, configs=configs))
    with pytest.raises(UsageError, match="dtype is 'int8'"):
        Restorer(WEIGHTS, dtype="int8")


@pytest.mark.parametrize(
    "wrong",
    [
        {"color_fix": "hsv"},
        {"color_fix_strength": 1.5},
        {"strength": -0.1},
        {"tile": -64},
        {"tile": "big"},
        {"tile": True},
        {"tile_overlap": -1},
        {"batch": 0},
        {"max_pixels": -5},
        {"strength": "half"},
        {"color_fix_strength": None},
        {"mesh": "data=1"},
    ],
)
def test_options_out_of_range_are_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"{name} is {value!r}"):
        Restorer(WEIGHTS, **wrong)


@pytest.mark.parametrize("size", [(52, 36), (31, 40), (13, 9), (13, 27)])
def test_bicubic_is_that_of_training(size):
    x = RNG.random((13, 9, 3), np.float32)
    expected = jax.image.resize(x, (*size, 3), "cubic")
    np.testing.assert_allclose(resize.bicubic(x, size), expected, atol=2e-6)


def test_padding_mirrors_as_often_as_it_must():
    x = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((1, 1, 2), np.float32)
    part = (-1, 0, 10, 4)
    padded = resize.mirrored_region(tiled.MemoryStore(x).read, (3, 1), part)
    assert padded.shape == (10, 4, 2)
    np.testing.assert_array_equal(padded[:, 0, 0], [1, 0, 1, 2, 1, 0, 1, 2, 1, 0])
    np.testing.assert_array_equal(padded[:, 3, 1], padded[:, 0, 0])


@pytest.mark.slow
def test_the_edge_of_a_picture_does_not_show_in_its_result():
    """A picture and the same with a mirrored border, cropped again, agree."""
    restorer = Restorer(WEIGHTS, dtype="float32")
    ramp = np.linspace(0.2, 0.8, 32, dtype=np.float32)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 0.5), -1)
    wide = np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="reflect")
    alone, inside = restorer(picture, 4), restorer(wide, 4)[32:-32, 32:-32]
    ring = np.ones((128, 128), bool)
    ring[4:-4, 4:-4] = False
    difference = np.abs(alone - inside).mean(-1)
    # Other pictures have other norms, so there is a difference, but no frame of it.
    assert difference[ring].mean() < 2 * difference[~ring].mean() + 1 / 255


class Compiled:
    """An executable that says it needs this many bytes."""

    def __init__(self, size):
        self.temp_size_in_bytes, self.output_size_in_bytes = size, 0

    def memory_analysis(self):
        return self


def test_memory_is_compared_before_a_pass(monkeypatch, tmp_path):
    at = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    memory.require(Compiled(2**20), at, "a pass")
    with pytest.raises(InputError, match="a pass needs 0.0 GiB"):
        memory.require(Compiled(2**22), at, "a pass")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    with pytest.raises(InputError, match="a pass needs"):
        memory.require(Compiled(2**20), at, "a pass")


def test_the_pass_reports_its_memory(restorer):
    restorer(picture(4, 4))
    compiled = restorer._programs._compiled
    (height, width) = min(hw for kind, hw in compiled if kind == "untiled")
    program = compiled[("untiled", (height, width))]
    # At least the first full-size map of the decoder: 4 float32 a pixel.
    assert height * width >= (16 + 2 * tiling.MARGIN) ** 2
    assert memory.needed(program) >= height * width * 4 * 4


# ---- transparency


def test_colours_spread_under_what_is_transparent():
    rgb, alpha = picture(37, 53, dtype=np.float32), np.zeros((37, 53), np.float32)
    alpha[5:9, 4:30] = 0.5
    rgb[5:9, 4:30] = [0.2, 0.6, 0.9]
    filled = arrays.bleed(rgb, alpha)
    np.testing.assert_allclose(filled, np.broadcast_to([0.2, 0.6, 0.9], rgb.shape))
    # What shows is untouched, and nearer colours win.
    alpha[30:, 40:] = 1
    filled = arrays.bleed(rgb, alpha)
    np.testing.assert_array_equal(filled[alpha > 0], rgb[alpha > 0])
    np.testing.assert_allclose(filled[10, 5], [0.2, 0.6, 0.9], atol=1e-6)
    for still in (np.zeros_like(alpha), np.ones_like(alpha)):
        np.testing.assert_array_equal(arrays.bleed(rgb, still), rgb)


def test_hidden_colours_do_not_reach_the_edge(restorer):
    """A white figure on transparent black comes out without a dark rim."""
    rgba = np.zeros((12, 12, 4), np.uint8)
    rgba[3:9, 3:9] = 255
    white = rgba.copy()
    white[..., :3] = 255
    one, other = restorer(rgba), restorer(white)
    np.testing.assert_array_equal(one, other)
    assert np.array_equal(one[..., 3] > 0, other[..., 3] > 0)
