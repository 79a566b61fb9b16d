"""The former path of `gendr_jax.image_io`, kept for existing imports."""

import sys

from gendr_jax import image_io

sys.modules[__name__] = image_io
