"""Degradation presets: ranges and probabilities of every random parameter.

draws.py draws the parameters, chain.py applies them.

Sources: Real-ESRGAN (Wang et al., 2021) and OSEDiff train with the same values, which
are the default; SeeSR and StableSR are milder, InvSR skips the second order half of
the time. Values are facts read in those repositories; no code was taken. `mixed`, ours,
is InvSR's with half of the samples milder: photographs of a good camera have hardly
any noise, while every sample of the others has some.

APISR (Wang et al., 2024) is for drawn pictures. Of its degradation, `apisr` has the
ranges, the random position of both resizes and no last sinc filter. Its codecs are not
here: where APISR draws JPEG (0.4) or WebP (0.6) in the first pass, and JPEG (0.06),
WebP (0.1), AVIF (0.1), MPEG-2 (0.12), MPEG-4 (0.12), H.264 (0.3) or H.265 (0.2) in
the last, `apisr` always applies the arithmetic of JPEG (jpeg.py), at an integer quality
of 20..95. Left out are therefore: the artefacts of WebP, AVIF and video (prediction
within the frame, larger blocks, deblocking), WebP's method, the video's quantisers
and presets, and the sharpening of drawn lines in the ground truth.
"""

from dataclasses import dataclass, replace

from gendr_jax.errors import UsageError

ODD_7_TO_21 = (7, 9, 11, 13, 15, 17, 19, 21)


@dataclass(frozen=True)
class Blur:
    """Random blur kernels: sizes and sigmas in pixels, all ranges uniform."""

    sizes: tuple[int, ...] = ODD_7_TO_21
    sinc_prob: float = 0.1
    # isotropic and anisotropic, of Gaussian, generalised Gaussian and plateau shape
    kind_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma: tuple[float, float] = (0.2, 3.0)
    # the exponent is drawn below 1 or above 1 by a fair coin
    generalised_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)


@dataclass(frozen=True)
class Order:
    """One pass of blur, resize, noise and JPEG.

    resize: the smallest and the largest factor; `resize_probs` are those of enlarging
    (1 .. largest), reducing (smallest .. 1) and keeping. gaussian: sigma in 8-bit
    levels. poisson: factor on the shot noise. jpeg: libjpeg quality, real-valued
    unless `integer_quality`, then with both ends. resize_anywhere: the resize comes
    before the blur, after it or after the noise, all equally likely, not after it.
    """

    blur_prob: float
    blur: Blur
    resize_probs: tuple[float, float, float]
    resize: tuple[float, float]
    gaussian: tuple[float, float]
    poisson: tuple[float, float]
    jpeg: tuple[float, float]
    gaussian_prob: float = 0.5
    gray_prob: float = 0.4
    integer_quality: bool = False
    resize_anywhere: bool = False


@dataclass(frozen=True)
class Recipe:
    """All settings of a degradation; hashable, so it can be static under `jax.jit`.

    first is None: antialiased bicubic reduction and nothing else.
    jpeg_last_prob: that the second JPEG comes after the last resize, not before.
    sharpen: the ground truth is sharpened before it is degraded (unsharp.py).
    mild_prob: that a sample is milder: blur, reduction, noise and JPEG's loss are all
        scaled by one strength, uniform in 0..1.
    """

    name: str
    first: Order | None = None
    second: Order | None = None
    second_prob: float = 1.0
    sinc_prob: float = 0.8
    sinc_sizes: tuple[int, ...] = ODD_7_TO_21
    jpeg_last_prob: float = 0.5
    sharpen: bool = False
    mild_prob: float = 0.0

    @property
    def orders(self) -> tuple[Order, Order]:
        """Both passes of a recipe that has any."""
        assert self.first is not None and self.second is not None, self.name
        return self.first, self.second


_FIRST = Order(
    blur_prob=1.0,
    blur=Blur(),
    resize_probs=(0.2, 0.7, 0.1),
    resize=(0.15, 1.5),
    gaussian=(1.0, 30.0),
    poisson=(0.05, 3.0),
    jpeg=(30.0, 95.0),
)
_SECOND = Order(
    blur_prob=0.8,
    blur=Blur(sigma=(0.2, 1.5)),
    resize_probs=(0.3, 0.4, 0.3),
    resize=(0.3, 1.2),
    gaussian=(1.0, 25.0),
    poisson=(0.05, 2.5),
    jpeg=(30.0, 95.0),
)
_OSEDIFF = Recipe(name="osediff", first=_FIRST, second=_SECOND)

# realesrgan_model.py degrades `gt_usm`, the truth sharpened by a mask of radius 50.
_REALESRGAN = replace(_OSEDIFF, name="realesrgan", sharpen=True)

_SEESR_FIRST = replace(
    _FIRST,
    resize=(0.3, 1.5),
    gaussian=(1.0, 15.0),
    poisson=(0.05, 2.0),
    jpeg=(60.0, 95.0),
)
_SEESR_SECOND = replace(
    _SECOND,
    blur_prob=0.5,
    resize=(0.6, 1.2),
    gaussian=(1.0, 12.0),
    poisson=(0.05, 1.0),
    jpeg=(60.0, 100.0),
)
_SEESR = Recipe(name="seesr", first=_SEESR_FIRST, second=_SEESR_SECOND)

_STABLESR_BLUR = Blur(
    sigma=(0.2, 1.5), generalised_beta=(0.5, 2.0), plateau_beta=(1.0, 1.5)
)
_STABLESR = replace(
    _SEESR,
    name="stablesr",
    first=replace(_SEESR_FIRST, blur=_STABLESR_BLUR),
    second=replace(_SEESR_SECOND, blur=replace(_STABLESR_BLUR, sigma=(0.2, 1.0))),
    sharpen=True,
)

_INVSR = replace(
    _OSEDIFF,
    name="invsr",
    first=replace(_FIRST, blur=Blur(sizes=tuple(range(3, 20, 2)))),
    second=replace(
        _SECOND,
        blur=Blur(sizes=tuple(range(3, 14, 2)), sigma=(0.2, 1.5)),
    ),
    second_prob=0.5,
    sinc_sizes=tuple(range(3, 14, 2)),
)

_MIXED = replace(_INVSR, name="mixed", mild_prob=0.5)

_APISR = replace(
    _OSEDIFF,
    name="apisr",
    first=replace(
        _FIRST,
        resize=(0.1, 1.2),
        jpeg=(20.0, 95.0),
        integer_quality=True,
        resize_anywhere=True,
    ),
    second=replace(
        _SECOND,
        resize_probs=(0.2, 0.7, 0.1),
        resize=(0.15, 1.2),
        jpeg=(20.0, 95.0),
        integer_quality=True,
        resize_anywhere=True,
    ),
    sinc_prob=0.0,
    jpeg_last_prob=1.0,
)

PRESETS = (
    "osediff",
    "realesrgan",
    "seesr",
    "stablesr",
    "invsr",
    "mixed",
    "apisr",
    "bicubic",
)


DEFAULT = "osediff"


def recipe(name: str = DEFAULT) -> Recipe:
    """The preset of that name.

    Raises:
      UsageError: there is no such preset; the message lists those that exist.
    """
    plain = Recipe(name="bicubic")
    known = (_OSEDIFF, _REALESRGAN, _SEESR, _STABLESR, _INVSR, _MIXED, _APISR, plain)
    for preset in known:
        if preset.name == name:
            return preset
    raise UsageError(
        f"no degradation preset named {name!r}. Choose one of {', '.join(PRESETS)}."
    )
