"""models/pixel_shuffle.py equals PyTorch's, and undoes itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax.models.pixel_shuffle import pixel_shuffle, pixel_unshuffle


@pytest.mark.torch
@pytest.mark.parametrize(("factor", "size"), [(8, (16, 24)), (4, (12, 8)), (1, (3, 5))])
def test_it_is_pytorchs(factor, size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    wanted = torch.nn.PixelUnshuffle(factor)(torch.from_numpy(x).permute(0, 3, 1, 2))
    got = pixel_unshuffle(jnp.asarray(x), factor)
    np.testing.assert_array_equal(got, wanted.permute(0, 2, 3, 1))
    back = torch.nn.PixelShuffle(factor)(wanted).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixel_shuffle(got, factor), back)
    np.testing.assert_array_equal(back, x)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="12 x 16 pixels .* factor 8"):
        pixel_unshuffle(jnp.zeros((1, 12, 16, 3)), 8)
    with pytest.raises(ValueError, match="20 channels .* 4 x 4"):
        pixel_shuffle(jnp.zeros((1, 2, 2, 20)), 4)
