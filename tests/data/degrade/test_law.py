"""The law of the degradation: marginals of the sampler, statistics of the pictures.

The marginals are compared with the published tables, written out again here. The
statistics are compared with those of the torch reference by two-sample
Kolmogorov-Smirnov tests; goldens/degrade/law_*.npz were made by
tools/make_degrade_goldens.py. All seeds are fixed.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gendr_jax.data.degrade import degrade, draws, recipe, sample_keys
from tools import degrade_statistics as measures

FOLDER = Path(__file__).resolve().parents[2] / "goldens" / "degrade"
COUNT = 5000
# of one test among some 150
RARE = 1e-4

ODD = tuple(range(7, 22, 2))
HARSH = {
    "resize": ((0.15, 1.5), (0.3, 1.2)),
    "ways": ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3)),
    "gaussian": ((1, 30), (1, 25)),
    "poisson": ((0.05, 3), (0.05, 2.5)),
    "jpeg": ((30, 95), (30, 95)),
    "blur": (1.0, 0.8),
    "sigma": ((0.2, 3), (0.2, 1.5)),
    "generalised": (0.5, 4),
    "plateau": (1, 2),
    "sizes": (ODD, ODD, ODD),
    "second": 1.0,
    "sinc": 0.8,
    "jpeg_last": 0.5,
}
MILD = HARSH | {
    "resize": ((0.3, 1.5), (0.6, 1.2)),
    "gaussian": ((1, 15), (1, 12)),
    "poisson": ((0.05, 2), (0.05, 1)),
    "jpeg": ((60, 95), (60, 100)),
    "blur": (1.0, 0.5),
}
TABLE = {
    "osediff": HARSH,
    "seesr": MILD,
    "stablesr": MILD
    | {"sigma": ((0.2, 1.5), (0.2, 1.0)), "generalised": (0.5, 2), "plateau": (1, 1.5)},
    "invsr": HARSH
    | {"sizes": (tuple(range(3, 20, 2)), *[tuple(range(3, 14, 2))] * 2), "second": 0.5},
}
TABLE["apisr"] = HARSH | {
    "resize": ((0.1, 1.2), (0.15, 1.2)),
    "ways": ((0.2, 0.7, 0.1), (0.2, 0.7, 0.1)),
    "jpeg": (range(20, 96), range(20, 96)),
    "sinc": 0.0,
    "jpeg_last": 1.0,
    "place": (3, 3),
}
# of the packed kernels below
CODE, SIZE, SIGMA_X, SIGMA_Y, THETA, BETA, OMEGA = range(7)
SINC, NONE = 4, 0


def packed(*numbers):
    """A 21 x 21 array that carries parameters instead of a kernel; code 0 is none."""
    row = jnp.stack([jnp.asarray(n, jnp.float32) for n in numbers])
    return jnp.zeros((21, 21)).at[0, : len(numbers)].set(row)


@pytest.fixture(scope="module", params=list(TABLE))
def drawn(request):
    """(table, draws of 5,000 keys with parameters in the place of kernels)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            draws.kernels, "blur_kernel", lambda shape, *rest: packed(shape + 1, *rest)
        )
        patch.setattr(
            draws.kernels,
            "sinc_kernel",
            lambda size, omega: packed(SINC, size, 0, 0, 0, 0, omega),
        )
        patch.setattr(draws.kernels, "identity_kernel", lambda: packed(NONE))
        settings = recipe(request.param)
        keys_b = jax.random.split(jax.random.key(8), COUNT)
        made = jax.jit(jax.vmap(lambda key: draws.sample(key, settings)))(keys_b)
    return TABLE[request.param], jax.tree.map(np.asarray, made)


def is_uniform(values, low, high):
    assert len(values) > 20
    if low == high:
        assert (values == low).all()
        return
    law = stats.uniform(low, high - low)
    assert stats.kstest(values, law.cdf).pvalue > RARE, (low, high)


def is_weighted(index, probs):
    counts = np.bincount(index, minlength=len(probs))
    expected = len(index) * np.asarray(probs) / np.sum(probs)
    assert stats.chisquare(counts, expected).pvalue > RARE, (counts, expected)


def happens(flag, prob):
    if prob in (0, 1):
        assert (flag == bool(prob)).all()
    else:
        assert stats.binomtest(int(flag.sum()), len(flag), prob).pvalue > RARE, prob


def passes(drawn):
    """(what the table says of a pass, its draws), of the first and of the second."""
    table, made = drawn
    for k, order in enumerate((made.first, made.second)):
        yield {name: t[k] for name, t in table.items() if isinstance(t, tuple)}, order


def test_factors_modes_and_qualities(drawn):
    for table, order in passes(drawn):
        smallest, largest = table["resize"]
        way = np.where(order.factor > 1, 0, np.where(order.factor < 1, 1, 2))
        is_weighted(way, table["ways"])
        is_uniform(order.factor[way == 0], 1, largest)
        is_uniform(order.factor[way == 1], smallest, 1)
        is_weighted(order.mode, (1, 1, 1))
        if isinstance(table["jpeg"], range):
            is_weighted([table["jpeg"].index(q) for q in order.quality], np.ones(76))
        else:
            is_uniform(order.quality, *table["jpeg"])
        if "place" in table:
            is_weighted(order.resize_at, (1, 1, 1))
        else:
            assert np.all(order.resize_at == 1)


def test_noise(drawn):
    for table, order in passes(drawn):
        noise = order.noise
        happens(noise.is_gaussian, 0.5)
        happens(noise.is_gray, 0.4)
        is_uniform(noise.gaussian_sigma * 255, *table["gaussian"])
        is_uniform(noise.poisson_scale, *table["poisson"])


def test_kernels(drawn):
    """Kind, size, sigmas, angle, exponent and cut-off of the first two kernels."""
    (whole, _), tables = drawn, list(passes(drawn))
    for table, order in tables:
        numbers = order.kernel[:, 0, :7]
        happens(numbers[:, CODE] != NONE, table["blur"])
        used = numbers[numbers[:, CODE] != NONE]
        sizes = [list(table["sizes"]).index(n) for n in used[:, SIZE].astype(int)]
        is_weighted(sizes, np.ones(len(table["sizes"])))
        sinc = used[:, CODE] == SINC
        happens(sinc, 0.1)
        wide = used[:, SIZE] >= 13
        is_uniform(used[sinc & wide, OMEGA], np.pi / 5, np.pi)
        is_uniform(used[sinc & ~wide, OMEGA], np.pi / 3, np.pi)
        bell = used[~sinc]
        uneven = bell[:, SIGMA_X] != bell[:, SIGMA_Y]
        kind = 2 * (bell[:, CODE].astype(int) - 1) + uneven
        is_weighted(kind, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03))
        is_uniform(bell[:, SIGMA_X], *table["sigma"])
        is_uniform(bell[uneven, SIGMA_Y], *table["sigma"])
        is_uniform(bell[uneven, THETA], -np.pi, np.pi)
        for code, name in ((2, "generalised"), (3, "plateau")):
            beta = bell[bell[:, CODE] == code, BETA]
            low, high = whole[name]
            above = beta > 1
            happens(above, 0.5)
            is_uniform(beta[above], 1, high)
            is_uniform(beta[~above], low, 1)


def test_the_rest(drawn):
    table, made = drawn
    happens(made.has_second, table["second"])
    happens(made.jpeg_last, table["jpeg_last"])
    is_weighted(made.last_mode, (1, 1, 1))
    numbers = made.sinc[:, 0, :7]
    happens(numbers[:, CODE] == SINC, table["sinc"])
    if not table["sinc"]:
        return
    used = numbers[numbers[:, CODE] == SINC]
    sizes = [table["sizes"][2].index(n) for n in used[:, SIZE].astype(int)]
    is_weighted(sizes, np.ones(len(table["sizes"][2])))
    is_uniform(used[:, OMEGA], np.pi / 3, np.pi)


def ours(hq_bhwc, name, count, seed):
    """Statistics of `count` degradations of each picture, [count * b, 6]."""
    made = []
    pictures = jnp.asarray(hq_bhwc, jnp.float32) / 255.0
    for k in range(count):
        index = jnp.arange(len(hq_bhwc), dtype=jnp.uint32) + k * len(hq_bhwc)
        keys_b = sample_keys(jax.random.key(seed), index)
        lq_bhwc = np.round(np.asarray(degrade(keys_b, pictures, recipe(name))) * 255)
        pairs = zip(lq_bhwc, hq_bhwc, strict=True)
        made += [measures.statistics(*pair) for pair in pairs]
    return np.stack(made)


def p_values(a, b):
    return {
        name: float(stats.ks_2samp(a[:, k], b[:, k]).pvalue)
        for k, name in enumerate(measures.NAMES)
    }


@pytest.fixture(scope="module")
def crops():
    return measures.small_crops(), np.load(FOLDER / "law_crops.npz")["statistics"]


@pytest.mark.slow
def test_statistics_of_small_crops(crops):
    hq_bhwc, reference = crops
    found = p_values(ours(hq_bhwc, "osediff", 20, 3), reference)
    print("p", found)
    assert min(found.values()) > 1e-3, found


@pytest.mark.slow
def test_another_law_is_told_apart(crops):
    """The test above can fail: the milder preset does not pass for the default."""
    hq_bhwc, reference = crops
    found = p_values(ours(hq_bhwc, "seesr", 12, 3), reference)
    print("p", found)
    assert min(found.values()) < 1e-3, found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_statistics_of_100_photographs(shared_data):
    golden = np.load(FOLDER / "law_photos.npz")
    names = [path.name for path in measures.photo_paths(shared_data)]
    if names != golden["names"].tolist():
        pytest.skip("the photographs are not those that the reference was given")
    hq_bhwc = measures.photo_crops(shared_data)
    made = [ours(hq_bhwc[i : i + 10], "osediff", 6, i) for i in range(0, 100, 10)]
    found = p_values(np.concatenate(made), golden["statistics"])
    print("p", found)
    assert min(found.values()) > 1e-3, found
