"""What the comparisons with PyTorch share: layouts, random weights, the tolerance.

Imported by tests that have already made sure of torch; numpy is the common ground.
"""

import numpy as np
import torch

from gendr_jax import nets
from gendr_jax.weights.foreign import names

TOLERANCE = 1e-4


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Default weights, but no bias is zero and no gain is one, so that all count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)
    return model.eval()


def params_of(model: torch.nn.Module) -> nets.Params:
    return names.from_torch(model.state_dict())


def gradients_of(model: torch.nn.Module) -> nets.Params:
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return names.from_torch(grads)


def nchw(array_bhwc: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array_bhwc, -1, 1)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def assert_close(ours, theirs, what: str, tolerance: float = TOLERANCE) -> None:
    """max |ours - theirs| <= tolerance * max |theirs|, shapes equal, theirs not 0."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, what
    scale = np.abs(theirs).max()
    assert scale > 0, f"{what}: the reference is zero, the comparison says nothing"
    ratio = np.abs(ours - theirs).max() / scale
    print(f"parity {what}: {ratio:.1e}")
    assert ratio <= tolerance, f"{what}: {ratio:.2e} > {tolerance:.0e}"


def assert_gradients(ours: nets.Params, theirs: nets.Params, what: str) -> None:
    """Every weight's gradient, relative to its own largest entry.

    Gradients that are zero but for rounding (a bias before a normalisation) are held
    against a hundredth of the largest gradient of all.
    """
    ours, theirs = nets.flatten(ours), nets.flatten(theirs)
    assert theirs and theirs.keys() <= ours.keys(), what
    largest = max(np.abs(g).max() for g in theirs.values())
    worst = 0.0
    for path, g in theirs.items():
        scale = max(np.abs(g).max(), 1e-2 * largest)
        ratio = np.abs(np.asarray(ours[path]) - g).max() / scale
        worst = max(worst, ratio)
        assert ratio <= TOLERANCE, f"{what} {'.'.join(path)}: {ratio:.2e}"
    print(f"parity {what}, {len(theirs)} weight gradients: {worst:.1e}")
