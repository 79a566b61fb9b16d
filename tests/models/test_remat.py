"""Remat by name: the same gradient from fewer or more stored values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.train.settings import BaseSettings
from gendr_jax.train.typed import typed

CONFIG = UNetConfig(
    block_out_channels=(16,),
    layers_per_block=1,
    heads=(2,),
    attention=(True,),
    cross_attention_dim=8,
    norm_groups=8,
)
POLICIES = ("none", "block", "attention", "products", "offload")
RNG = np.random.default_rng(5)
Z = RNG.standard_normal((1, 4, 4, 16), np.float32)
WORDS = RNG.standard_normal((1, 3, 8), np.float32)


def gradient(policy, **options):
    net = nets.build(UNet, CONFIG, remat=policy, **options)

    def loss(params):
        out, _ = net.bind(params)(Z, jnp.array([500]), WORDS)
        return jnp.mean(jnp.square(out.astype(jnp.float32)))

    rng = np.random.default_rng(6)
    draw = lambda a: 0.1 * rng.standard_normal(a.shape, np.float32)  # noqa: E731
    return jax.grad(loss), jax.tree.map(draw, net.abstract)


@pytest.mark.slow
def test_less_is_computed_again_the_more_is_kept():
    """block > attention > products, which computes only attention again; as lowered."""
    counts = {}
    for policy in POLICIES[:4]:
        f, params = gradient(policy)
        counts[policy] = sum(
            line.count("stablehlo.convolution(") + line.count("stablehlo.dot_general")
            for line in jax.jit(f).lower(params).as_text().splitlines()
        )
    assert counts["block"] > counts["attention"] > counts["products"], counts
    again = counts["products"] - counts["none"]
    assert again == 2 * 4, counts  # scores and mixing of four attentions, never kept


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["products", "offload"])
def test_no_policy_changes_the_gradient(policy):
    f, params = gradient("none")
    expected = jax.jit(f)(params)
    found = jax.jit(gradient(policy)[0])(params)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.slow
def test_wide_gradients_leave_their_products_as_float32():
    """Every kernel's gradient, not the rest; and the values are the plain ones."""

    def kinds(wide):
        f, params = gradient("none", dtype="bfloat16", wide_grads=wide)
        kernels = {x.shape for x in jax.tree.leaves(params) if x.ndim > 1}
        closed = jax.make_jaxpr(f)(params)
        return kernels, [
            eqn.outvars[0].aval
            for eqn in every(closed.jaxpr)
            if eqn.primitive.name in ("conv_general_dilated", "dot_general")
        ]

    kernels, plain = kinds(False)
    assert not [
        a
        for a in plain
        if a.dtype == jnp.float32 and a.ndim == 4 and a.shape in kernels
    ]
    _, wide = kinds(True)
    found = [a for a in wide if a.dtype == jnp.float32 and a.ndim == 4]
    assert len(found) >= 8, wide
    plain, params = gradient("none")
    wide, _ = gradient("none", wide_grads=True)
    for a, b in zip(
        jax.tree.leaves(jax.jit(plain)(params)),
        jax.tree.leaves(jax.jit(wide)(params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def every(jaxpr):
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(getattr(value, "jaxpr", value), "eqns"):
                yield from every(value)


def test_an_unknown_policy_is_refused_with_the_names():
    with pytest.raises(UsageError, match="remat.*products.*'blocks'"):
        typed(BaseSettings, {"stage": "base", "remat": "blocks"})
    assert dataclasses.asdict(typed(BaseSettings, {"stage": "base"}))["remat"] == "none"
