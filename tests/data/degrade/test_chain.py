"""What must hold of the whole degradation, and its stages put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gendr_jax.data.degrade import chain, degrade, draws, recipe, sample_keys

SIDE, BATCH = 64, 4


def photos(count=BATCH, height=SIDE, width=SIDE):
    rng = np.random.default_rng(5)
    light = ndimage.gaussian_filter(rng.random((count, height, width, 1)), (0, 4, 4, 0))
    colour = ndimage.gaussian_filter(
        rng.random((count, height, width, 3)), (0, 6, 6, 0)
    )
    x = (light - light.mean()) / light.std() + 0.3 * (colour - 0.5) / colour.std()
    x = (x - x.min()) / np.ptp(x)
    return jnp.asarray(np.round(x * 255) / 255, jnp.float32)


def keys(*indices, seed=0):
    return sample_keys(jax.random.key(seed), jnp.asarray(indices, jnp.uint32))


@pytest.fixture(scope="module")
def default():
    return degrade(keys(0, 1, 2, 3), photos(), recipe())


def assert_same_picture(a, b):
    """At most one level on fewer than 0.1 % of values: a float32 sum on a tie."""
    levels = np.abs(np.asarray(a) - np.asarray(b)) * 255
    assert (levels > 0.5).mean() < 1e-3 and levels.max() < 1.5


def test_shape_range_and_levels(default):
    assert default.shape == (BATCH, SIDE // 4, SIDE // 4, 3)
    assert default.dtype == jnp.float32
    levels = np.asarray(default, np.float64) * 255
    assert levels.min() >= 0 and levels.max() <= 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


def test_same_keys_same_bits(default):
    again = degrade(keys(0, 1, 2, 3), photos(), recipe())
    np.testing.assert_array_equal(again, default)


def test_other_keys_other_pictures(default):
    other = degrade(keys(0, 1, 2, 3, seed=1), photos(), recipe())
    assert all(np.abs(a - b).mean() > 1e-3 for a, b in zip(other, default, strict=True))
    same_truth = jnp.repeat(photos(1), BATCH, axis=0)
    results = degrade(keys(0, 1, 2, 3), same_truth, recipe())
    for i in range(BATCH):
        for j in range(i):
            assert np.abs(results[i] - results[j]).mean() > 1e-3


def test_place_in_the_batch_does_not_matter(default):
    order = jnp.asarray([2, 0, 3, 1])
    moved = degrade(keys(2, 0, 3, 1), photos()[order], recipe())
    assert_same_picture(moved, default[order])


@pytest.mark.slow
def test_size_of_the_batch_does_not_matter(default):
    one = degrade(keys(2), photos()[2:3], recipe())
    assert_same_picture(one[0], default[2])


def test_it_looks_like_the_truth(default):
    """Right place, right colours: a swapped axis or channel would show here."""
    truth = photos().reshape(BATCH, SIDE // 4, 4, SIDE // 4, 4, 3).mean((2, 4))
    lead = []
    for a, b in zip(np.asarray(default), np.asarray(truth), strict=True):
        smooth = [ndimage.gaussian_filter(p, (2, 2, 0)) for p in (a, b)]
        right = np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1]
        wrong = np.corrcoef(smooth[0].ravel(), smooth[1].swapaxes(0, 1).ravel())[0, 1]
        lead.append(right - wrong)
        assert right > 0.6
    assert min(lead) > 0.1 and np.mean(lead) > 0.3


def test_bicubic_preset_equals_the_oracle():
    x = np.asarray(photos(1)[0], np.float64)
    i, j = np.arange(SIDE // 4)[:, None], np.arange(SIDE)[None]
    d = np.abs((j + 0.5) / 4 - (i + 0.5))
    weights = np.where(
        d <= 1,
        1.5 * d**3 - 2.5 * d**2 + 1,
        np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0),
    )
    weights /= weights.sum(1, keepdims=True)
    want = np.einsum("ih,jw,hwc->ijc", weights, weights, x)
    want = np.clip(np.round(want * 255), 0, 255)
    got = np.asarray(degrade(keys(0), photos(1), recipe("bicubic"))[0]) * 255
    # 5e-6 before rounding; a value on the tie may fall on either side
    assert (np.abs(got - want) > 0.5).mean() < 2e-3
    np.testing.assert_allclose(got, want, atol=1.01)


@pytest.mark.slow
def test_gentle_draws_keep_the_picture():
    """All draws at their mildest: the chain is a resize and two fine JPEGs."""
    x = photos(1)[0]
    mild = jax.tree.map(lambda a: a, draws.sample(jax.random.key(0), recipe()))
    identity = jnp.zeros((21, 21)).at[10, 10].set(1.0)
    quiet = mild.first.noise._replace(
        is_gaussian=jnp.bool_(True), gaussian_sigma=jnp.float32(0)
    )
    order = mild.first._replace(
        kernel=identity,
        factor=jnp.float32(1),
        mode=jnp.int32(0),
        noise=quiet,
        quality=jnp.float32(99),
    )
    run = jax.jit(lambda x, d, f: chain.apply(x, (SIDE, SIDE), d, f, recipe(), 4))
    for last in (False, True):
        mild = mild._replace(
            first=order,
            second=order,
            sinc=identity,
            last_mode=jnp.int32(0),
            jpeg_last=jnp.bool_(last),
        )
        canvas = chain.canvases(recipe(), (SIDE, SIDE), 4)
        fields = chain.Fields(
            jnp.zeros((3, *canvas.first)), jnp.zeros((3, *canvas.second))
        )
        y = run(jnp.moveaxis(x, -1, 0), mild, fields)
        want = x.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3))
        # 4:2:0 chroma is all that is lost
        assert float(jnp.abs(jnp.moveaxis(y, 0, -1) - want).mean()) < 0.02


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["apisr", pytest.param("stablesr", **SLOW), pytest.param("invsr", **SLOW)]
)
def test_other_presets_run(name):
    """seesr has the stages of the default; these have others."""
    y = np.asarray(degrade(keys(0, 1, 2), photos(3), recipe(name)))
    truth = np.asarray(photos(3)).reshape(3, 16, 4, 16, 4, 3).mean((2, 4))
    assert y.min() >= 0 and y.max() <= 1
    assert np.abs(y - truth).mean() < 0.25


@pytest.mark.parametrize(
    "name", [pytest.param("osediff", marks=pytest.mark.slow), "bicubic"]
)
def test_a_picture_smaller_than_its_array(name):
    """Nothing of what lies outside shows, and nothing is written there.

    At scale 2 and with canvases that are no multiple of 16.
    """
    h, w = 44, 58
    x = photos(1, 48, 72)
    sizes = jnp.asarray([[h, w]])
    inside = x.at[:, h:].set(0).at[:, :, w:].set(0)
    a = degrade(keys(3), x, recipe(name), 2, sizes)
    b = degrade(keys(3), inside, recipe(name), 2, sizes)
    assert a.shape == (1, 24, 36, 3) and float(a.std()) > 0.01
    np.testing.assert_array_equal(a, b)
    assert not np.asarray(a[:, h // 2 :]).any()
    assert not np.asarray(a[:, :, w // 2 :]).any()
    if name == "bicubic":
        cut = degrade(keys(3), x[:, :h, :w], recipe(name), 2)
        assert_same_picture(a[:, : h // 2, : w // 2], cut)


def test_the_ladder_holds_every_draw():
    sides = [c[0] for c in chain.ladder(recipe(), (512, 512), chain.CPU_STEPS)]
    assert sides == [256, 384, 512, 640, 768]
    assert chain.ladder(recipe("apisr"), (512, 512), ())[-1] == (624, 624)
    assert chain.ladder(recipe(), (64, 64), chain.TPU_STEPS) == ((96, 96),)


def test_canvases_scale_with_the_crop():
    assert chain.canvases(recipe(), (512, 512), 4) == (
        (768, 768),
        (160, 160),
        (128, 128),
    )
    assert chain.canvases(recipe(), (96, 128), 4) == ((144, 192), (32, 48), (24, 32))
    assert chain.canvases(recipe("invsr"), (128, 128), 4).second == (48, 48)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_it_lowers_for_accelerators(platform):
    """There filters are products, without transforms; on a TPU nothing is gathered."""
    traced = degrade.trace(keys(0, 1), photos(2), recipe())
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.fft" not in text and "stablehlo.dot_general" in text
    assert ("stablehlo.convolution" in text) == (platform == "tpu")
    if platform == "tpu":
        assert "stablehlo.gather" not in text


def test_the_platform_is_chosen_once():
    # Tracing every stage for every platform in each branch takes twice as long.
    jaxpr = jax.make_jaxpr(lambda k, x: degrade(k, x, recipe(), 4))(keys(0), photos(1))
    assert str(jaxpr).count("platform_index") == 1
