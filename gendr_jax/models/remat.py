"""Rematerialisation policies: which activations the backward pass recomputes."""

from collections.abc import Callable
from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name

# none       everything is stored
# block      nothing inside a block is stored
# attention  outputs of attention are stored: small, and expensive to recompute
# products   outputs of convolutions, linear layers and attention are stored; norms and
#            activations are recomputed
# offload    as products, in host memory
Policy = Literal["none", "block", "attention", "products", "offload"]
CONV, LINEAR, ATTENTION = "conv", "linear", "attention"
PRODUCTS = (CONV, LINEAR, ATTENTION)


def remat(block: Callable, policy: Policy) -> Callable:
    """``block``, whose backward pass recomputes activations by ``policy``."""
    if policy == "none":
        return block
    policies = jax.checkpoint_policies
    rules = {
        "block": None,
        "attention": policies.save_only_these_names(ATTENTION),
        "products": policies.save_only_these_names(*PRODUCTS),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(PRODUCTS),
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }
    return jax.checkpoint(lambda *args: block(*args), policy=rules[policy])


def named(x: jax.Array, name: str) -> jax.Array:
    """The value with a name for the policies above."""
    return checkpoint_name(x, name)
