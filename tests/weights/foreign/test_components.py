"""Reading one network: rounding, and the errors that name everything at once."""

from fractions import Fraction

import ml_dtypes
import numpy as np

from gendr_jax.weights.foreign.components import cast, differences


def test_doubles_are_rounded_once():
    """Just beside the middle of two bfloat16 numbers, where two roundings go wrong."""
    step = 2.0**-8  # half the distance of bfloat16 numbers at 1
    tiny = 2.0**-40  # lost in float32
    near = np.array([1 + step + tiny, 1 + step - tiny, 1 + step, 1 + 3 * step])
    values = np.concatenate([near, -near, [0.0, 1e-300, 1e39]])
    rounded = cast(values, "bfloat16")
    assert rounded.dtype == ml_dtypes.bfloat16
    expected = [1 + 2 * step, 1.0, 1.0, 1 + 4 * step]
    assert rounded[:4].astype(float).tolist() == expected
    assert rounded[4:8].astype(float).tolist() == [-x for x in expected]
    assert rounded[8:].astype(float).tolist() == [0.0, 0.0, np.inf]


def test_random_doubles_go_to_the_nearest():
    values = np.random.default_rng(0).standard_normal(2000)
    rounded = cast(values, "bfloat16")
    bits = rounded.view(np.uint16)
    for value, own, b in zip(values, rounded.astype(float), bits, strict=True):
        beside = np.array([b - 1, b + 1], np.uint16).view(ml_dtypes.bfloat16)
        error = abs(Fraction(value) - Fraction(own))
        assert all(error <= abs(Fraction(value) - Fraction(float(o))) for o in beside)


def test_an_array_of_the_dtype_is_not_copied():
    array = np.ones(3, np.float32)
    assert cast(array, "float32") is array and cast(array, None) is array


def test_differences_name_the_nearest_stray():
    found = {"a.conv.weigth": (2,), "b": (3,)}
    expected = {"a.conv.weight": (2,), "b": (4,)}
    assert differences(found, expected) == [
        "missing a.conv.weight (nearest: a.conv.weigth)",
        "unexpected a.conv.weigth",
        "b has shape (3,), expected (4,)",
    ]
