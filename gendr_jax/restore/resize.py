"""The former path of `gendr_jax.image_io.resize`, kept for existing imports."""

from gendr_jax.image_io.resize import Target as Target
from gendr_jax.image_io.resize import bicubic as bicubic
from gendr_jax.image_io.resize import bicubic_region as bicubic_region
from gendr_jax.image_io.resize import output_size as output_size
