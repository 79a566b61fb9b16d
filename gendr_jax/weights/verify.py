"""`gendr convert --verify`: the same random inputs through PyTorch and through JAX.

PyTorch's side is the model of diffusers or transformers, loaded from an exported
folder: of gendr_jax it has the weights alone.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gendr_jax.errors import UsageError

LIMIT = 1e-4  # max |a - b| / max |b|, in float32
SEED, LATENT, CONTEXT = 0, 16, 77
Kind = Literal["unet", "vae", "dinov2"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Blocks = dict[str, np.ndarray]  # name of a block -> its output, channels last


def run(folder: Path, to: str) -> dict[str, Any]:
    """Compare every network of a converted folder.

    Returns: {"limit", "agrees", "blocks": {network: {block: max|a-b| / max|b|}},
    "skipped": [networks without a PyTorch library]}.

    Raises:
        UsageError: torch, diffusers or transformers is not installed.
    """
    from gendr_jax.weights import export
    from gendr_jax.weights import folder as folder_lib
    from gendr_jax.weights.convert import Options, load

    weights, _ = load([folder], Options(dtype="float32"))
    report: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as scratch:
        exported = folder
        if to != "diffusers":
            exported = Path(scratch) / "export"
            export.save_pipeline(exported, weights)
        adapted = "unet" in weights.params and "lora" in weights.params
        merged = folder_lib.folded(weights) if adapted else weights
        for name in [n for n in KINDS if n in weights.params]:
            adapters = exported if adapted and name == "unet" else None
            theirs = _torch(name, exported / name, adapters)
            ours = _jax(name, merged.configs[name], merged.params[name])
            report[name] = {
                block: _ratio(ours[block], out) for block, out in theirs.items()
            }
    worst = [ratio for blocks in report.values() for ratio in blocks.values()]
    return {
        "limit": LIMIT,
        # comparing with <= makes a NaN disagree
        "agrees": bool(worst) and all(ratio <= LIMIT for ratio in worst),
        "blocks": report,
        "skipped": [n for n in merged.params if n not in KINDS],
    }


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |a - b| / max |b|; of zeros, such as a widened conv_out gives, max |a|."""
    return float(np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1.0))


def as_lines(report: dict[str, Any]) -> list[str]:
    """The comparison as text, a line a block."""
    lines = [
        f"verify   {network:<7} {block:<22} {ratio:.1e}"
        for network, blocks in report["blocks"].items()
        for block, ratio in blocks.items()
    ]
    lines += [f"verify   {n:<7} not compared: no library" for n in report["skipped"]]
    if not report["blocks"]:
        return [*lines, "verify   NOTHING WAS COMPARED"]
    verdict = "agree" if report["agrees"] else "DO NOT AGREE"
    return [*lines, f"verify   PyTorch and JAX {verdict} (limit {report['limit']:.0e})"]


def _inputs(name: str, config: Any) -> tuple[np.ndarray, ...]:
    """Random inputs, channels last; two samples, not square."""
    rng = np.random.default_rng(SEED)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    if name == "unet":
        z = draw(2, LATENT, LATENT + 8, config.in_channels)
        context = draw(2, CONTEXT, config.cross_attention_dim)
        return z, np.array([354, 20], np.int32), context
    if name == "vae":
        side = 8 * config.factor
        x = np.tanh(draw(1, side, side + config.factor, config.in_channels))
        return x, draw(1, 8, 10, config.latent_channels)
    return (draw(1, 4 * config.patch_size, 6 * config.patch_size, 3),)


def require() -> tuple[Any, dict[str, Any]]:
    """(torch, the library's class of each network); called before a long conversion.

    Raises:
        UsageError: torch, diffusers or transformers is not installed.
    """
    try:
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import Dinov2Model
    except ImportError as error:
        raise UsageError(
            f"--verify needs PyTorch, diffusers and transformers ({error}). "
            "pip install 'gendr_jax[verify]'."
        ) from error
    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "dinov2": Dinov2Model,
    }
    return torch, classes


def _torch(name: Kind, folder: Path, adapters: Path | None) -> Blocks:
    torch, classes = require()
    from gendr_jax.weights.foreign import component_folder

    model = (
        classes[name].from_pretrained(folder, torch_dtype=torch.float32).train(False)
    )
    if adapters is not None:
        from gendr_jax.weights.export_readme import DIFFUSERS_LORA

        model.load_lora_adapter(adapters, weight_name=DIFFUSERS_LORA, prefix="unet")
    config = component_folder.open_component(folder, name).config
    outputs: Blocks = {}
    for block, module in _torch_blocks(name, model):
        module.register_forward_hook(_hook(outputs, block))
    x, *rest = (torch.from_numpy(np.asarray(a)) for a in _inputs(name, config))
    x = x.permute(0, 3, 1, 2)
    with torch.no_grad():
        if name == "unet":
            outputs["output"] = _channels_last(model(x, *rest).sample)
        elif name == "vae":
            outputs["mean"] = _channels_last(model.encode(x).latent_dist.mean)
            decoded = model.decode(rest[0].permute(0, 3, 1, 2)).sample
            outputs["output"] = _channels_last(decoded)
        else:
            outputs["output"] = model(x).last_hidden_state.numpy()[:, 1:]
    return outputs


def _torch_blocks(name: str, model: Any) -> Iterator[tuple[str, Any]]:
    if name == "unet":
        yield "time_embedding", model.time_embedding
        yield "conv_in", model.conv_in
        for i, block in enumerate(model.down_blocks):
            yield f"down_blocks.{i}", block
        yield "mid_block", model.mid_block
        for i, block in enumerate(model.up_blocks):
            yield f"up_blocks.{i}", block
    elif name == "vae":
        for i, block in enumerate(model.encoder.down_blocks):
            yield f"encoder.down_blocks.{i}", block
        yield "encoder.mid_block", model.encoder.mid_block
        yield "decoder.mid_block", model.decoder.mid_block
        for i, block in enumerate(model.decoder.up_blocks):
            yield f"decoder.up_blocks.{i}", block
    else:
        yield "embeddings", model.embeddings
        for i, block in enumerate(model.encoder.layer):
            yield f"encoder.layer.{i}", block


def _hook(outputs: Blocks, block: str) -> Callable[..., None]:
    def keep(module: Any, inputs: Any, output: Any) -> None:
        outputs[block] = _channels_last(
            output[0] if isinstance(output, tuple) else output
        )

    return keep


def _channels_last(tensor: Any) -> np.ndarray:
    """A torch tensor as an array with channels last."""
    array = tensor.detach().float().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def _jax(name: str, config: Any, params: Any) -> Blocks:
    import jax

    from gendr_jax import nets
    from gendr_jax.weights.foreign.components import MODELS

    net = nets.build(MODELS[name], config)
    trace = {"unet": _unet_blocks, "vae": _vae_blocks, "dinov2": _dinov2_blocks}[name]

    def blocks(params: Any, inputs: Any) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest"):
            return trace(net.bind(params), *inputs)

    outputs = jax.jit(blocks)(params, _inputs(name, config))
    return {block: np.asarray(array) for block, array in outputs.items()}


def _unet_blocks(unet: Any, z: Any, t: Any, context: Any) -> dict[str, Any]:
    from gendr_jax.models.unet import timestep_embedding

    width = unet.config.block_out_channels[0]
    time = unet.time_embedding(timestep_embedding(t, width))
    x = unet.conv_in(z)
    outputs, skips = {"time_embedding": time, "conv_in": x}, [x]
    for i, block in enumerate(unet.down_blocks):
        x, block_skips = block(x, time, context)
        outputs[f"down_blocks.{i}"], skips = x, skips + block_skips
    x = outputs["mid_block"] = unet.mid_block(x, time, context)
    for i, block in enumerate(unet.up_blocks):
        x, skips = block(x, skips, time, context)
        outputs[f"up_blocks.{i}"] = x
    return outputs | {"output": unet(z, t, context)[0]}


def _vae_blocks(vae: Any, x: Any, z: Any) -> dict[str, Any]:
    outputs = {"mean": vae.encode(x)[0], "output": vae.decode(z)}
    x = vae.encoder.conv_in(x)
    for i, block in enumerate(vae.encoder.down_blocks):
        x = outputs[f"encoder.down_blocks.{i}"] = block(x)
    outputs["encoder.mid_block"] = vae.encoder.mid_block(x)
    if vae.post_quant_conv is not None:
        z = vae.post_quant_conv(z)
    z = outputs["decoder.mid_block"] = vae.decoder.mid_block(vae.decoder.conv_in(z))
    for i, block in enumerate(vae.decoder.up_blocks):
        z = outputs[f"decoder.up_blocks.{i}"] = block(z)
    return outputs


def _dinov2_blocks(dino: Any, x: Any) -> dict[str, Any]:
    outputs = {"output": dino(x)}
    x = outputs["embeddings"] = dino.embeddings(x)
    for i, layer in enumerate(dino.encoder.layer):
        x = outputs[f"encoder.layer.{i}"] = layer(x)
    return outputs
