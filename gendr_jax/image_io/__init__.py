"""Read and write image files as arrays, by libvips and Pillow.

picture.py   `Image`, formats, limits        loading.py   file -> vips image
reading.py   file -> `Image`, `probe`        writing.py   `Image` -> file
pillow.py    PIL images, BMP and PPM         arrays.py    numpy, JAX, PyTorch, PIL input
encoded.py   files in memory                 alpha.py     colours under transparency
profiles.py  colour management               icc.py       ICC profiles from primaries
stated_colours.py  colour spaces that files state without an ICC profile
metadata/    EXIF, XMP, IPTC, comments and text of each format
regions.py   regions of large files          sheets.py    contact sheets, comparisons
resize.py    target sizes, bicubic resizing, mirrored borders
"""

from gendr_jax.image_io.encoded import Encoded as Encoded
from gendr_jax.image_io.picture import FORMATS as FORMATS
from gendr_jax.image_io.picture import MAX_PIXELS as MAX_PIXELS
from gendr_jax.image_io.picture import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from gendr_jax.image_io.picture import Header as Header
from gendr_jax.image_io.picture import Image as Image
from gendr_jax.image_io.pillow import from_pil as from_pil
from gendr_jax.image_io.pillow import to_pil as to_pil
from gendr_jax.image_io.reading import probe as probe
from gendr_jax.image_io.reading import read as read
from gendr_jax.image_io.writing import require_fit as require_fit
from gendr_jax.image_io.writing import require_writable as require_writable
from gendr_jax.image_io.writing import without_opaque_alpha as without_opaque_alpha
from gendr_jax.image_io.writing import write as write
