"""DINOv2 files of the original repository (torch hub), dinov2_vit*14_pretrain.pth.

Query, key and value are stacked in one matrix there.
"""

import math
from collections.abc import Mapping

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.layouts import Layout, Shape, StoredTensor, shape_of

HEAD_DIM = 64  # of every published model; heads show in no shape

OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
# Inside a layer, where the names differ.
INSIDE = {
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
STACKED = ("query", "key", "value")  # in the order of the rows


def layout(config: DINOv2Config) -> Layout:
    """Where the network's tensors stand in a hub file."""
    shapes = names.torch_shapes(nets.build(DINOv2, config).abstract)
    return {name: _stored(name, shape) for name, shape in shapes.items()}


def _stored(name: str, shape: Shape) -> StoredTensor:
    if name in OUTSIDE:
        return StoredTensor(OUTSIDE[name], shape)
    layer, number, inner = name.removeprefix("encoder.").split(".", 2)
    assert layer == "layer", f"{name} has no place in the table"
    block = f"blocks.{number}"
    module, _, leaf = inner.rpartition(".")
    parent, _, last = module.rpartition(".")
    if parent == "attention.attention":
        row = STACKED.index(last) * shape[0]
        whole = (len(STACKED) * shape[0], *shape[1:])
        return StoredTensor(f"{block}.attn.qkv.{leaf}", whole, (row, row + shape[0]))
    return StoredTensor(f"{block}.{INSIDE.get(inner, inner)}", shape)


def config(shapes: Mapping[str, Shape]) -> DINOv2Config:
    """The configuration that a hub file's shapes imply.

    Only what the configuration needs is looked at; compare all with ``layout``.
    """
    _refuse_others(shapes)
    width = shape_of(shapes, "cls_token", (3,))[-1]
    if width % HEAD_DIM:
        raise InputError(
            f"cls_token is {width} wide, expected a multiple of {HEAD_DIM}, the "
            "channels a head. Use a published ViT-S, ViT-B or ViT-L."
        )
    hidden = shape_of(shapes, "blocks.0.mlp.fc1.weight", (2,))[0]
    if hidden % width:
        raise InputError(
            f"blocks.0.mlp.fc1 is {hidden} wide, expected a multiple of {width}. "
            "Use a published ViT-S, ViT-B or ViT-L."
        )
    positions = shape_of(shapes, "pos_embed", (3,))[1]
    grid = math.isqrt(positions - 1)
    if grid < 1 or 1 + grid * grid != positions:
        raise InputError(
            f"pos_embed has {positions} positions, expected one and a square. "
            "Use a published ViT-S, ViT-B or ViT-L."
        )
    patch = shape_of(shapes, "patch_embed.proj.weight", (4,))[-1]
    shape_of(shapes, "blocks.0.norm1.weight", (1,))
    depth = 1
    while f"blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return DINOv2Config(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // HEAD_DIM,
        mlp_ratio=hidden // width,
        image_size=grid * patch,
        patch_size=patch,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        use_mask_token="mask_token" in shapes,
    )


def _refuse_others(shapes: Mapping[str, Shape]) -> None:
    """The variants of the repository that are another network, by what marks them."""
    if "register_tokens" in shapes:
        raise InputError(
            "The file has register_tokens, which our DINOv2 does not have. "
            "Use the file without registers (no _reg4 in its name)."
        )
    if "blocks.0.mlp.w12.weight" in shapes or "blocks.0.mlp.w3.weight" in shapes:
        raise InputError(
            "The file has blocks.0.mlp.w12 and w3 (SwiGLU, ViT-g), where our DINOv2 "
            "has fc1 and fc2. Use ViT-S, ViT-B or ViT-L."
        )
    if any(name.startswith("blocks.0.0.") for name in shapes):
        raise InputError(
            "The file has blocks in chunks (blocks.0.0.*), expected blocks.0.*. "
            "Save the model with block_chunks=0, or use a published file."
        )
