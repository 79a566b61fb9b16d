"""The photographs that scikit-image ships: real pictures without a download.

Eight of the pictures in scikit-image's wheel (data/_fetchers.py there states each
licence): four colour photographs, and four grey ones that add the texture which the
colour ones lack. Left out though free: `retina` (hardly any detail) and
`hubble_deep_field` (points on black); left out for their licence: pictures under
"no known copyright restrictions" only, and the Middlebury stereo pair. This package
contains no copy of them.
"""

import numpy as np

from gendr_jax.errors import UsageError

# Not trained on, used as the test picture: fur, an eye, whiskers, soft background, and
# an odd width (451 x 300 pixels).
HELD_OUT = "chelsea"


def photographs() -> list[tuple[str, np.ndarray]]:
    """(name, picture) of every photograph, always in this order, HELD_OUT included.

    Pictures are HWC uint8 with three channels, 300 to 640 pixels a side; the grey ones
    have three equal channels.

    Raises:
        UsageError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError(
            "scikit-image, whose photographs are used here, is not installed. "
            'Install it with: pip install "gendr_jax[quickstart]"'
        ) from error
    pictures = [
        ("astronaut", data.astronaut()),  # NASA, public domain
        ("chelsea", data.chelsea()),  # CC0, Stefan van der Walt
        ("coffee", data.coffee()),  # CC0, Rachel Michetti
        ("rocket", data.rocket()),  # SpaceX, public domain
        ("brick", data.brick()),  # CC0, CC0Textures
        ("camera", data.camera()),  # CC0, Lav Varshney
        ("grass", data.grass()),  # CC0, linolafett
        ("gravel", data.gravel()),  # CC0, CC0Textures
    ]
    return [(name, _three_channels(pixels)) for name, pixels in pictures]


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)
