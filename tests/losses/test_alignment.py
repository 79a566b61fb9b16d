"""REPA: the cosine loss, DINOv2's input, and grids that differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import losses
from gendr_jax.errors import UsageError
from gendr_jax.losses import alignment


def random(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.torch
def test_repa_equals_repas_formula():
    torch = pytest.importorskip("torch")
    h, y = random((3, 7, 5)), random((3, 7, 5), seed=1)
    normalize = torch.nn.functional.normalize
    product = normalize(torch.from_numpy(h), dim=-1) * normalize(
        torch.from_numpy(y), dim=-1
    )
    reference = -product.sum(-1).mean(-1)
    np.testing.assert_allclose(losses.repa(h, y), reference, atol=1e-6)


def test_repa_range_scale_and_extremes():
    h, y = random((3, 7, 5)), random((3, 7, 5), seed=1)
    loss_b = losses.repa(h, y)
    assert loss_b.shape == (3,) and (np.abs(loss_b) < 1).all()
    np.testing.assert_allclose(losses.repa(50.0 * h, 0.01 * y), loss_b, atol=1e-6)
    np.testing.assert_allclose(losses.repa(y, y), -1.0, atol=1e-6)
    np.testing.assert_allclose(losses.repa(-y, y), 1.0, atol=1e-6)


def test_repa_gradient_reaches_the_features_alone_and_survives_zero():
    h, y = jnp.asarray(random((2, 4, 5))), jnp.asarray(random((2, 4, 5), seed=1))

    def total(h, y):
        return losses.repa(h, y).sum()

    to_h, to_y = jax.grad(total, argnums=(0, 1))(h, y)
    assert np.any(to_h) and not np.any(to_y)
    # a direction only: the gradient is orthogonal to each token
    np.testing.assert_allclose(jnp.sum(to_h * h, -1), np.zeros((2, 4)), atol=1e-6)
    assert np.isfinite(jax.grad(total)(h.at[0, 0].set(0.0), y)).all()


def test_repa_refuses_other_grids():
    with pytest.raises(UsageError, match=r"\(2, 4, 5\).*\(2, 9, 5\).*match_grid"):
        losses.repa(jnp.ones((2, 4, 5)), jnp.ones((2, 9, 5)))


def reference_dino_input(x, grid_hw):
    """REPA's preprocessing, step by step, by torch."""
    import torch

    x = torch.from_numpy(x).permute(0, 3, 1, 2) * 0.5 + 0.5
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    size = tuple(14 * n for n in grid_hw)
    x = torch.nn.functional.interpolate((x - mean) / std, size, mode="bicubic")
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.torch
@pytest.mark.parametrize(
    "hw, grid_hw",
    [((64, 96), (4, 6)), ((64, 64), (2, 3)), ((17, 23), (4, 5)), ((28, 42), (2, 3))],
)
def test_dino_input_equals_torch(hw, grid_hw):
    """Usual grid, strong shrinking (aliases on purpose), growing, and no change."""
    pytest.importorskip("torch")
    x = np.random.default_rng(2).uniform(-1, 1, (2, *hw, 3)).astype(np.float32)
    ours = losses.dino_input(x, grid_hw)
    assert ours.shape == (2, 14 * grid_hw[0], 14 * grid_hw[1], 3)
    np.testing.assert_allclose(ours, reference_dino_input(x, grid_hw), atol=2e-4)


def test_bicubic_is_torchs_kernel_not_jaxs():
    """a = -0.75: the two differ visibly, so a silent swap would be caught here."""
    x = jnp.zeros((1, 8, 8, 1)).at[0, 4, 4, 0].set(1.0)
    ours = alignment.resize_bicubic(x, (16, 16))
    jaxs = jax.image.resize(x, (1, 16, 16, 1), "cubic")
    assert jnp.abs(ours - jaxs).max() > 0.02
    np.testing.assert_allclose(
        alignment.resize_bicubic(jnp.ones((1, 8, 9, 2)), (5, 30)), 1.0, atol=1e-6
    )


def test_dino_input_wants_rgb():
    with pytest.raises(UsageError, match="4 channels.*3"):
        losses.dino_input(jnp.ones((1, 16, 16, 4)), (1, 1))


def test_feature_map_and_dino_grid_agree_token_for_token():
    """One bright 16-px cell of the image lands in the token of the same index."""
    grid_h, grid_w = 3, 4
    for row, column in ((0, 0), (1, 2), (2, 3)):
        x = np.full((1, 16 * grid_h, 16 * grid_w, 3), -1.0, np.float32)
        x[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1.0
        pixels = losses.dino_input(x, (grid_h, grid_w))
        patches = pixels.reshape(grid_h, 14, grid_w, 14, 3).mean((1, 3, 4))
        assert np.argmax(patches.ravel()) == row * grid_w + column


@pytest.mark.torch
@pytest.mark.parametrize("hw", ((3, 5), (9, 4), (12, 15)))
def test_match_grid_equals_torch_bilinear(hw):
    torch = pytest.importorskip("torch")
    feature = random((2, 6, 8, 3), seed=4)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(feature).permute(0, 3, 1, 2),
        hw,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    ours = losses.match_grid(feature, hw)
    np.testing.assert_allclose(ours, reference.permute(0, 2, 3, 1), atol=1e-5)


def test_match_grid_leaves_equal_grids_alone():
    feature = jnp.asarray(random((2, 6, 8, 3)), jnp.bfloat16)
    same = losses.match_grid(feature, (6, 8))
    assert same.dtype == jnp.bfloat16
    np.testing.assert_array_equal(same, feature)
