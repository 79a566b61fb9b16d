"""The same pass in PyTorch: diffusers' networks with our weights.

Attention is torch's scaled_dot_product_attention, which takes the flash kernel where
the device, dtype and head have one.
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
LAST = "+channels_last"
# Threads of PyTorch that wait for each other spin, and beside another busy program they
# spin for longer than they compute: 15 to 40 times the processor time of the work.
# Read when its libraries are loaded: OpenMP of GNU, of Intel and LLVM.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
KINDS = tuple(how + end for how in (EAGER, COMPILE, AUTOTUNE) for end in ("", LAST))


@dataclasses.dataclass(frozen=True)
class TorchPeer:
    """One way to run the pass in PyTorch; call it as `restoring.Peer`."""

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
        x, function, kept = x.to(self.device), self.stages[stage], []

        def call() -> None:
            with torch.inference_mode():
                kept[:] = [function(x)]
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        def result() -> np.ndarray:
            return kept[0].float().permute(0, 2, 3, 1).cpu().numpy()

        return call, result


def peers(kinds: list[str], recipe: Recipe, params: Params) -> dict[str, TorchPeer]:
    """{kind: peer} with our weights; on a GPU where PyTorch sees one.

    Args:
        kinds: of `KINDS`. Those of one memory format share their weights.
        recipe, params: as for `restoring.measure`.

    Raises:
        UsageError: an unknown kind, or packages that are not installed.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"{kind!r} is no peer, known are {', '.join(KINDS)}.")
    wait_passively()
    found, made = {}, {}
    for kind in kinds:
        last = kind.endswith(LAST)
        if last not in made:
            made[last] = _modules(recipe, params, last)
        vae, unet, device = made[last]
        stages = _stages(recipe, params, vae, unet, device)
        how = kind.removesuffix(LAST)
        if how != EAGER:
            import torch

            mode = {COMPILE: "default", AUTOTUNE: "max-autotune"}[how]
            stages = {n: torch.compile(f, mode=mode) for n, f in stages.items()}
        found[kind] = TorchPeer(kind, device, last, stages)
    return found


def wait_passively() -> None:
    """Have threads of PyTorch sleep while they wait; before it is imported first."""
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
    for made, config, tree in (
        (diffusers.AutoencoderKL, recipe.vae, params["vae"]),
        (diffusers.UNet2DConditionModel, recipe.unet, params["unet"]),
    ):
        with torch.device("meta"):
            module = made.from_config(config_json.dump(config))
        assert isinstance(module, torch.nn.Module)
        state = {
            # a copy of what is still memory of jax, not to be written
            name: torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
            for name, array in names.to_torch(tree).items()
        }
        module.load_state_dict(state, assign=True)
        module = module.to(device, getattr(torch, recipe.dtype))
        # ty: ignore[no-matching-overload]  torch documents memory_format, untyped
        modules.append(module.to(memory_format=layout).train(False))
    return *modules, device


def _stages(recipe: Recipe, params: Params, vae: Any, unet: Any, device: Any) -> dict:
    """The arithmetic of `forward.py` around the modules."""
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
