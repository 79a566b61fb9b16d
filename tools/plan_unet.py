"""Memory and FLOPs of one update of the full-size UNet, compiled for absent TPUs.

    python -m tools.plan_unet [--topology v5e:4x4] [--mesh fsdp=16] [--batch 2]
        [--remat none] [--forward] [--effort low]

For comparison with other trainers' UNets compiled the same way: AdamW on float32
masters, bfloat16 compute, 64 x 64 latents. Prints one JSON object, all of one device.
"""

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp

from gendr_jax import flops, losses, nets, sharding
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.plan import measure, topologies
from gendr_jax.train.settings import Adam
from gendr_jax.train.stages import optimisers


def program(args, mesh):
    """The update, or the forward pass with bfloat16 weights, traced."""
    config, placement = UNetConfig(), sharding.Placement(mesh)
    net = nets.build(UNet, config, dtype="bfloat16", remat=args.remat)
    tx = optimisers.adamw(Adam(), steps=1)

    def apply(params, z, t, context):
        gathered = sharding.gather(params, placement.tree(params), "bfloat16")
        return net.bind(gathered)(z, t, context)[0]

    def update(role, z, t, context, eps):
        def loss(params):
            return jnp.mean(losses.denoising(apply(params, z, t, context), eps)), {}

        return optimisers.update(role, tx, loss)

    count, rows = args.batch * sharding.row_shards(mesh), sharding.batch_sharding(mesh)
    struct = lambda dtype, *s: jax.ShapeDtypeStruct(s, dtype, sharding=rows)  # noqa: E731
    z = struct(jnp.float32, count, 64, 64, config.in_channels)
    context = struct(jnp.bfloat16, count, 77, config.cross_attention_dim)
    inputs = (z, struct(jnp.int32, count), context)
    params = net.abstract
    if args.forward:
        params = jax.eval_shape(lambda p: nets.cast(p, "bfloat16"), params)
        trained, run, inputs, out = params, apply, inputs, rows
    else:
        trained = jax.eval_shape(lambda p: optimisers.new_role(p, tx), params)
        run, inputs, out = update, (*inputs, z), (placement.tree(trained), None)
    shardings = (placement.tree(trained), *(rows for _ in inputs))
    donate = () if args.forward else 0
    jitted = jax.jit(
        run, in_shardings=shardings, out_shardings=out, donate_argnums=donate
    )
    with jax.set_mesh(mesh):
        return jitted.trace(trained, *inputs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in ("topology", "v5e:4x4"), ("mesh", "fsdp=16"), ("remat", "none"):
        parser.add_argument(f"--{name}", default=value)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--forward", action="store_true")
    parser.add_argument("--effort", default="low", choices=("low", "full"))
    args = parser.parse_args()
    topology = topologies.parse(args.topology)
    os.environ.update(topologies.environment(topology))
    mesh = sharding.make_mesh(args.mesh, topologies.devices(topology))
    traced = program(args, mesh)
    begun = time.perf_counter()
    low = args.effort == "low"
    options = measure.LOW_EFFORT["tpu"] if low else {}
    operations = flops.count(traced.jaxpr)
    lowered = traced.lower(lowering_platforms=("tpu",))
    facts = measure.of_program(lowered, operations, mesh, options, generate_code=low)
    facts["compile_s"] = round(time.perf_counter() - begun, 1)
    facts.pop("collectives_by_axis")
    print(json.dumps(vars(args) | facts, indent=1), flush=True)
    os._exit(0)  # the compiler may still generate code
