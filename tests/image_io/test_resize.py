"""image_io/resize.py: parts of an enlargement are those of the whole."""

import numpy as np
import pytest

from gendr_jax.image_io import resize

X = np.random.default_rng(0).random((23, 37, 3), np.float32)


@pytest.mark.parametrize("size", [(92, 148), (23, 37), (58, 92), (12, 19)])
def test_parts_of_an_enlargement(size):
    whole, touched = resize.bicubic(X, size), []

    def read(top, left, height, width):
        touched.append(height * width)
        assert top + height <= 23 and left + width <= 37
        return X[top : top + height, left : left + width]

    for part in ((0, 0, *size), (0, 0, 5, 7), (size[0] - 6, size[1] - 4, 6, 4)):
        top, left, height, width = part
        found = resize.bicubic_region(read, (23, 37), size, part)
        expected = whole[top : top + height, left : left + width]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    if size[0] > 23:
        assert max(touched[1:]) < X.size / 3 / 2
