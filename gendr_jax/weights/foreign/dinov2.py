"""DINOv2 files of the original repository (torch hub), dinov2_vit*14_pretrain.pth.

They stack query, key and value in one matrix.
"""

import math
from collections.abc import Mapping

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.layouts import Layout, Shape, StoredTensor, shape_of

HEAD_DIM = 64  # of every published model; no shape tells the number of heads

TOP_LEVEL = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
# Names in a layer that differ.
IN_LAYER = {
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
STACKED = ("query", "key", "value")  # in the order of the rows


def layout(config: DINOv2Config) -> Layout:
    """The layout of a hub file."""
    shapes = names.torch_shapes(nets.build(DINOv2, config).abstract)
    return {name: _stored(name, shape) for name, shape in shapes.items()}


def _stored(name: str, shape: Shape) -> StoredTensor:
    if name in TOP_LEVEL:
        return StoredTensor(TOP_LEVEL[name], shape)
    layer, number, in_layer = name.removeprefix("encoder.").split(".", 2)
    assert layer == "layer", f"{name} is not in the table"
    block = f"blocks.{number}"
    module, _, leaf = in_layer.rpartition(".")
    parent, _, projection = module.rpartition(".")
    if parent == "attention.attention":
        row = STACKED.index(projection) * shape[0]
        stacked_shape = (len(STACKED) * shape[0], *shape[1:])
        return StoredTensor(
            f"{block}.attn.qkv.{leaf}", stacked_shape, (row, row + shape[0])
        )
    return StoredTensor(f"{block}.{IN_LAYER.get(in_layer, in_layer)}", shape)


def config(shapes: Mapping[str, Shape]) -> DINOv2Config:
    """The configuration that a hub file's shapes imply.

    Only the tensors that it needs are checked; ``layout`` has all of them.
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
    """Refuse variants of the repository that are another network."""
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
