"""What a backward pass keeps of a block and what it computes again, by name."""

from collections.abc import Callable
from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name

# none       everything is kept
# block      nothing inside a block is kept
# attention  the outputs of attention are kept: they are small and dear
# products   the outputs of convolutions, linear layers and attention are kept; norms
#            and activations are computed again
# offload    as products, in the host's memory
Policy = Literal["none", "block", "attention", "products", "offload"]
CONV, LINEAR, ATTENTION = "conv", "linear", "attention"
PRODUCTS = (CONV, LINEAR, ATTENTION)


def remat(block: Callable, policy: Policy) -> Callable:
    """``block``, with the part of its activations recomputed that ``policy`` names."""
    if policy == "none":
        return block
    known = jax.checkpoint_policies
    rules = {
        "block": None,
        "attention": known.save_only_these_names(ATTENTION),
        "products": known.save_only_these_names(*PRODUCTS),
        "offload": known.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(PRODUCTS),
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }
    return jax.checkpoint(lambda *args: block(*args), policy=rules[policy])


def named(x: jax.Array, name: str) -> jax.Array:
    """The value under a name that policies know."""
    return checkpoint_name(x, name)
