"""Compare updates of adapters and of all weights by XLA's cost and memory analysis.

    python tools/adapter_cost.py [--size tiny] [--dtype bfloat16] [--remat block] ...

Compiles gradients, clipping and AdamW from shapes; nothing is allocated or run.
"""

import argparse
import json

import jax
import jax.numpy as jnp

from gendr_jax import losses, nets
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.train.settings import Adam
from gendr_jax.train.stages import optimisers

TINY = UNetConfig(4, 4, (24, 40), 1, (3, 5), (False, False), 56, norm_groups=8)
SIZES = {"full": (UNetConfig(), 64, 64, 77), "tiny": (TINY, 2, 16, 5)}
KINDS, MEMORY = ("all weights", "adapters"), ("argument", "output", "temp")


def traced(trained: str, size: str, dtype: str, remat: str):
    """One update as jax.jit traces it, and the abstract weights of the base."""
    config, rank, side, length = SIZES[size]
    lora = LoRAConfig(rank, 2.0 * rank) if trained == "adapters" else None
    net = nets.build(UNet, config, dtype=dtype, remat=remat, lora=lora)
    base, adapters = nets.split_lora(net.abstract)
    frozen, params = ({}, base) if lora is None else (base, adapters)
    tx = optimisers.adamw(Adam(), steps=1)

    def update(role, frozen, z, t, context, eps):
        def loss(params):
            model = net.bind(nets.overlay(frozen, nets.cast(params, dtype)))
            return jnp.mean(losses.denoising(model(z, t, context)[0], eps)), {}

        return optimisers.update(role, tx, loss)

    z = jnp.float32, (1, side, side, config.in_channels)
    context_struct = jnp.float32, (1, length, config.cross_attention_dim)
    inputs = [
        jax.ShapeDtypeStruct(s, d) for d, s in (z, (jnp.int32, (1,)), context_struct, z)
    ]
    role = jax.eval_shape(lambda p: optimisers.new_role(p, tx), params)
    inputs = [jax.eval_shape(lambda p: nets.cast(p, dtype), frozen), *inputs]
    return jax.jit(update, donate_argnums=0).trace(role, *inputs), base


def products(jaxpr):
    """Result shapes of every convolution and matrix product, nested ones included."""
    for eqn in getattr(jaxpr, "eqns", ()):
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            yield eqn.outvars[0].aval.shape
        for value in jax.tree.leaves(eqn.params):
            yield from products(getattr(value, "jaxpr", value))


def measure(trained: str, size: str, dtype: str, remat: str) -> dict[str, float]:
    """Counts and bytes; a weight gradient's axes may come in any order."""
    program, base = traced(trained, size, dtype, remat)
    kernels = {tuple(sorted(x.shape)) for x in jax.tree.leaves(base) if x.ndim > 1}
    weight_gradients = [
        s for s in products(program.jaxpr) if tuple(sorted(s)) in kernels
    ]
    compiled = program.lower().compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    counts = {"weight gradients": len(weight_gradients), "FLOP": cost["flops"]}
    return counts | {
        f"{k} bytes": getattr(memory, f"{k}_size_in_bytes") for k in MEMORY
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    both = {k: measure(k, args.size, args.dtype, args.remat) for k in KINDS}
    rows = {name: [both[kind][name] for kind in KINDS] for name in both["adapters"]}
    table = "\n".join(f"{n:18}{a:14.5g}{b:14.5g}" for n, (a, b) in rows.items())
    print(json.dumps(both) if args.json else f"{', '.join(KINDS)}\n{table}")
