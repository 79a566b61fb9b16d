"""The restoring pass in PyTorch for comparison: diffusers' networks with our weights.

Attention is torch's scaled_dot_product_attention, which uses a flash kernel if device,
dtype and head size allow it.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from gendr_jax.bench.timing import Call
from gendr_jax.errors import UsageError
from gendr_jax.nets import Params
from gendr_jax.restore.forward import Recipe
from gendr_jax.weights.foreign import config_json, names

EAGER, COMPILE, AUTOTUNE = "eager", "compile", "max-autotune"
CHANNELS_LAST = "+channels_last"
# PyTorch's OpenMP threads spin while they wait for each other: with another busy
# program on the machine 15 to 40 times the CPU time of the computation. These variables
# are read when the libraries are loaded: OpenMP of GNU, Intel and LLVM.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
KINDS = tuple(
    how + end for how in (EAGER, COMPILE, AUTOTUNE) for end in ("", CHANNELS_LAST)
)


@dataclasses.dataclass(frozen=True)
class TorchPeer:
    """The pass in PyTorch in one mode; call it as `restoring.Peer`."""

    kind: str
    device: Any
    channels_last: bool
    stages: dict[str, Callable[[Any], Any]]

    def __call__(
        self, stage: str, x_bhwc: np.ndarray
    ) -> tuple[Call, Callable[[], np.ndarray]]:
        """(call, result of the last call) on this input, which is on the device."""
        import torch

        x = torch.from_numpy(np.array(x_bhwc, np.float32)).permute(0, 3, 1, 2)
        if not self.channels_last:
            x = x.contiguous()
        x, function, outputs = x.to(self.device), self.stages[stage], []

        def call() -> None:
            with torch.inference_mode():
                outputs[:] = [function(x)]
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        def result() -> np.ndarray:
            return outputs[0].float().permute(0, 2, 3, 1).cpu().numpy()

        return call, result


def peers(kinds: list[str], recipe: Recipe, params: Params) -> dict[str, TorchPeer]:
    """{kind: peer} with our weights; on a GPU if PyTorch has one.

    Args:
        kinds: of `KINDS`. Peers of one memory format share their weights.
        recipe, params: as for `restoring.measure`.

    Raises:
        UsageError: an unknown kind, or packages that are not installed.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(
                f"peer {kind!r} is unknown. Use one of {', '.join(KINDS)}."
            )
    wait_passively()
    peers_by_kind, modules_by_format = {}, {}
    for kind in kinds:
        is_channels_last = kind.endswith(CHANNELS_LAST)
        if is_channels_last not in modules_by_format:
            modules_by_format[is_channels_last] = _modules(
                recipe, params, is_channels_last
            )
        vae, unet, device = modules_by_format[is_channels_last]
        stages = _stages(recipe, params, vae, unet, device)
        mode_name = kind.removesuffix(CHANNELS_LAST)
        if mode_name != EAGER:
            import torch

            mode = {COMPILE: "default", AUTOTUNE: "max-autotune"}[mode_name]
            stages = {n: torch.compile(f, mode=mode) for n, f in stages.items()}
        peers_by_kind[kind] = TorchPeer(kind, device, is_channels_last, stages)
    return peers_by_kind


def wait_passively() -> None:
    """Make PyTorch's threads sleep while they wait; call before its first import."""
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)


def _modules(recipe: Recipe, params: Params, channels_last: bool) -> tuple:
    """(vae, unet, device)."""
    try:
        import diffusers
        import torch
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a peer needs {error.name}, which is not installed. "
            "pip install 'gendr_jax[verify]'."
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    modules = []
    assert recipe.vae is not None, recipe.kind
    for module_class, config, tree in (
        (diffusers.AutoencoderKL, recipe.vae, params["vae"]),
        (diffusers.UNet2DConditionModel, recipe.unet, params["unet"]),
    ):
        with torch.device("meta"):
            module = module_class.from_config(config_json.dump(config))
        assert isinstance(module, torch.nn.Module)
        state = {
            # copied where the array is read-only memory of JAX
            name: torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
            for name, array in names.to_torch(tree).items()
        }
        module.load_state_dict(state, assign=True)
        module = module.to(device, getattr(torch, recipe.dtype))
        # ty: ignore[no-matching-overload]  torch documents memory_format, untyped
        modules.append(module.to(memory_format=layout).train(False))
    return *modules, device


def _stages(recipe: Recipe, params: Params, vae: Any, unet: Any, device: Any) -> dict:
    """The stages of `forward.py` with PyTorch modules."""
    import torch

    dtype, config = getattr(torch, recipe.dtype), recipe.vae
    assert config is not None, recipe.kind
    prompt = np.array(params["prompt"]["positive"], np.float32)
    context_ld = torch.from_numpy(prompt).to(device, dtype)

    def encoder(up: Any) -> Any:
        mean = vae.encode((up * 2 - 1).to(dtype)).latent_dist.mean.float()
        return (mean - config.shift_factor) * config.scaling_factor

    def denoise(z: Any) -> Any:
        context = context_ld.expand(z.shape[0], -1, -1)
        out = unet(z.to(dtype), recipe.t_star, context).sample.float()
        return {"eps": 2**0.5 * z - out, "v": 0.5**0.5 * (z - out)}[recipe.prediction]

    def decoder(z: Any) -> Any:
        z = z / config.scaling_factor + config.shift_factor
        return vae.decode(z.to(dtype)).sample.float() / 2 + 0.5

    def full_pass(up: Any) -> Any:
        return decoder(denoise(encoder(up))).clamp(0, 1)

    return {"encoder": encoder, "unet": denoise, "decoder": decoder, "pass": full_pass}
