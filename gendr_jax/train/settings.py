"""The settings of the three stages as typed, frozen dataclasses with their defaults.

Values that the paper does not give are explained in docs/algorithm.md. Configuration
files (configs/) override fields; ``typed`` refuses misspelt ones. Model widths are
the models' own dataclasses.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from gendr_jax import diffusion
from gendr_jax.errors import UsageError
from gendr_jax.losses import MASK_RADIUS, require_paired_term
from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.heads import PatchDiscriminatorConfig
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.remat import Policy
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.sharding import MIN_SHARDED_SIZE, TENSOR_RULES
from gendr_jax.train.limits import above_zero, at_least, fraction

Prediction = Literal["eps", "v"]
BestBy = Literal["psnr", "ssim", "l1"]


@dataclass(frozen=True)
class Adam:
    """AdamW after clipping by global norm, and its learning rate over the run.

    Attributes:
        warmup: steps of linear rise to ``lr``.
        schedule: then "constant"; "cosine" falls to 0 at the last step; "wsd" stays
            until the last ``decay`` steps, in which it falls to 0 linearly.
    """

    lr: float = 1e-5
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 0
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    decay: int = 0
    memory: Literal["device", "pinned_host"] = "device"  # of the moments

    def __post_init__(self):
        at_least(self, lr=0, eps=0, weight_decay=0, warmup=0, decay=0)
        fraction(self, "b1", "b2")
        above_zero(self, "clip")


@dataclass(frozen=True)
class Data:
    """The photographs (data/open_source.py), their crops and degradation.

    ``small``: photographs smaller than the crop are left out (skip), mirrored at their
    edges (pad), or end the run (error).
    """

    path: str = ""
    preset: str = "osediff"
    crop: int = 512
    scale: int = 4
    workers: int = 0

    def __post_init__(self):
        at_least(self, crop=1, scale=1, workers=0)

    small: str = "skip"


@dataclass(frozen=True)
class Init:
    """Weights folders to start from; empty means random, if ``random`` allows it."""

    vae: str = ""
    unet: str = ""
    dino: str = ""
    prompt: str = ""
    adc: str = ""
    lpips: str = ""
    random: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Save every N steps, keep the newest K.

    Never deleted are steps that are multiples of ``keep_every``, and one in
    ``keep_seconds`` (0: none).
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    keep_seconds: int = 0

    def __post_init__(self):
        at_least(self, every=0, keep=1, keep_every=0, keep_seconds=0)


@dataclass(frozen=True)
class Log:
    """Metrics every N steps, a sheet of pictures every M (0: never)."""

    every: int = 50
    samples_every: int = 1000
    samples: int = 4

    def __post_init__(self):
        at_least(self, every=0, samples_every=0, samples=1)


@dataclass(frozen=True)
class Validation:
    """Photographs kept out of training, restored and measured every N steps (0: never).

    ``path``: as in ``data.path``; empty: no validation. ``count`` pictures, rounded up
    to full batches. ``best``: the figure by which ``weights_best`` is chosen.
    """

    path: str = ""
    every: int = 1000
    count: int = 32
    best: BestBy = "psnr"

    def __post_init__(self):
        at_least(self, every=0, count=1)


@dataclass(frozen=True)
class Sharding:
    """How arrays are sharded (``sharding/rules.py``); see docs/sharding.md.

    ``rules``: (pattern, how) pairs, tried before ``sharding.RULES``; the default ones
    only act with a mesh axis `model`. ``grad_reduce``: dtype in which the
    gradients of kernels are summed over devices.
    """

    rules: tuple[tuple[str, str], ...] = TENSOR_RULES
    min_size: int = MIN_SHARDED_SIZE
    grad_reduce: Literal["compute", "float32"] = "compute"


@dataclass(frozen=True)
class Watchdog:
    """Stacks are dumped after so many seconds without progress (0: never).

    ``start_seconds`` is the limit of what compiles. ``ends``: the process ends too.
    """

    seconds: float = 1800.0
    start_seconds: float = 7200.0
    ends: bool = True

    def __post_init__(self):
        at_least(self, seconds=0, start_seconds=0)


@dataclass(frozen=True)
class Processes:
    """Seconds processes wait: to connect at the start, for heartbeats, at barriers."""

    meet: int = 300
    heartbeat: int = 50
    barrier: int = 600

    def __post_init__(self):
        at_least(self, meet=1, heartbeat=1, barrier=1)


@dataclass(frozen=True, kw_only=True)
class Common:
    """Settings of every stage.

    ``remat``: a name of ``models/remat.py``; ``xla_flags``: one of ``xla_flags.py``.
    """

    stage: str
    steps: int = 100_000
    batch_size: int = 64
    seed: int = 0
    mesh: str = ""
    sharding: Sharding = field(default_factory=Sharding)
    accumulate: int = 1
    xla_flags: str = ""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Policy = "block"
    ema: float = 0.9999
    max_bad_steps: int = 20
    data: Data = field(default_factory=Data)
    init: Init = field(default_factory=Init)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    val: Validation = Validation()
    profile: str = ""  # steps FIRST:LAST to trace
    watchdog: Watchdog = Watchdog()
    processes: Processes = Processes()

    def __post_init__(self):
        at_least(self, steps=0, batch_size=1, accumulate=1, max_bad_steps=1)
        fraction(self, "ema")


@dataclass(frozen=True, kw_only=True)
class VAESettings(Common):
    """Stage 0: the autoencoder, L1 + KL, adversarial from a step on (-1: never)."""

    stage: Literal["vae"] = "vae"
    vae: VAEConfig = field(default_factory=VAEConfig)
    discriminator: PatchDiscriminatorConfig = field(
        default_factory=PatchDiscriminatorConfig
    )
    kl_weight: float = 1e-6
    adversarial_weight: float = 0.05
    adversarial_start: int = -1
    optim: Adam = Adam(lr=1e-4, b1=0.5, b2=0.9)
    optim_discriminator: Adam = Adam(lr=1e-4, b1=0.5, b2=0.9)

    def __post_init__(self):
        super().__post_init__()
        at_least(self, kl_weight=0, adversarial_weight=0, adversarial_start=-1)

    @property
    def adversarial(self) -> bool:
        return self.adversarial_start >= 0


@dataclass(frozen=True)
class Alignment:
    """The representation-alignment projector and its teacher."""

    dino: DINOv2Config = field(default_factory=DINOv2Config.base)
    hidden: int = 2048

    def __post_init__(self):
        at_least(self, hidden=1)


@dataclass(frozen=True, kw_only=True)
class BaseSettings(Common):
    """Stage 1: the UNet on 16-channel latents, denoising plus alignment."""

    stage: Literal["base"] = "base"
    remat: Policy = "none"
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    alignment: Alignment = field(default_factory=Alignment)
    prediction: Prediction = "eps"
    repa_weight: float = 0.5
    prompt_dropout: float = 0.1
    surgery: bool = True
    surgery_steps: int = 1000
    optim_new: Adam = Adam(lr=1e-4, weight_decay=1e-2, warmup=1000)
    optim: Adam = Adam(lr=2e-5, weight_decay=1e-2, warmup=1000)
    sample_steps: int = 25

    def __post_init__(self):
        super().__post_init__()
        at_least(self, repa_weight=0, surgery_steps=0, sample_steps=1)
        fraction(self, "prompt_dropout", one=True)


@dataclass(frozen=True)
class Score:
    """The score-distillation term (``losses/score.py``); ``alpha`` is SiD's."""

    alpha: float = 1.0
    xi: float = 0.5
    rho: float = 1.0
    literal: bool = False
    kappa: float = 2.0
    t_min: int = 20
    t_max: int = 979
    sequential: bool = True

    def __post_init__(self):
        at_least(self, alpha=0, xi=0, rho=0, kappa=0, t_min=0)
        last = diffusion.NUM_TIMESTEPS - 1
        if not self.t_min <= self.t_max <= last:
            raise UsageError(
                f"t_min={self.t_min} and t_max={self.t_max} are no range of timesteps. "
                f"Give 0 <= t_min <= t_max <= {last}."
            )


@dataclass(frozen=True)
class Weights:
    """l1, l2, l3 of CiDA and the optional paired terms.

    ``fourier``: eq. 33 against patterns that repeat with the autoencoder's blocks;
    ``grid``: ``losses.block_grid``, against borders of these blocks.
    """

    score: float = 1.0
    adversarial: float = 0.05
    repa: float = 0.5
    latent: float = 0.0
    pixel: float = 0.0
    perceptual: float = 0.0
    fourier: float = 0.0
    grid: float = 0.0

    def __post_init__(self):
        at_least(self, score=0, adversarial=0, repa=0)
        at_least(self, latent=0, pixel=0, perceptual=0, fourier=0, grid=0)

    @property
    def paired(self) -> bool:
        """Whether a term compares with the photograph."""
        return max(self.latent, self.pixel, self.perceptual) > 0

    @property
    def on_pictures(self) -> bool:
        """Whether a term compares decoded pictures."""
        return max(self.pixel, self.perceptual, self.fourier, self.grid) > 0


@dataclass(frozen=True)
class DistillOptim:
    """One optimiser per role."""

    generator: Adam = Adam(lr=1e-5, b1=0.0)
    fake: Adam = Adam(lr=5e-5, b1=0.0)
    real: Adam = Adam(lr=1e-5)
    discriminator: Adam = Adam(lr=1e-5, b1=0.0)


Adapters = Literal["side", "merged", "side-gradient"]


@dataclass(frozen=True, kw_only=True)
class DistillSettings(Common):
    """Stage 2: one-step distillation by VSD, SiD, CiD or CiDA, or plain regression.

    kind: "paired" has the paired terms of ``weights`` and nothing else.

    adapters: "side" runs them as side paths of every layer; "merged" adds them to the
    base's float32 weights first, so that a role costs as much as a plain UNet and its
    full-size weight gradient; "side-gradient" adds them for the forward pass and takes
    the gradient of the side path, which is small and the same.

    decoder: "trained" lets the autoencoder's decoder learn with the generator (kind
    "paired" alone: in the others every term is one of z_g).
    """

    stage: Literal["distill"] = "distill"
    remat: Policy = "none"
    kind: Literal["paired", "vsd", "sid", "cid", "cida"] = "cida"
    generator: Literal["full", "lora"] = "full"
    decoder: Literal["frozen", "trained"] = "frozen"
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    alignment: Alignment = field(default_factory=Alignment)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    adapters: Adapters = "side-gradient"
    prediction: Prediction = "eps"
    score: Score = field(default_factory=Score)
    weights: Weights = field(default_factory=Weights)
    optim: DistillOptim = field(default_factory=DistillOptim)
    discriminator_width: int = 256
    prompt_dropout: float = 0.1
    warmup_steps: int = 1000
    adversarial_start: int = 2000

    @property
    def scored(self) -> bool:
        """Whether the generator's loss has score networks, which train too."""
        return self.kind != "paired"

    @property
    def generator_start(self) -> int:
        """The step in which the generator begins to learn."""
        return self.warmup_steps if self.scored else 0

    @property
    def trains_real(self) -> bool:
        """CiD's first change to SiD: the real score is trained on z_h."""
        return self.kind in ("cid", "cida")

    @property
    def adversarial(self) -> bool:
        return self.kind == "cida" and self.weights.adversarial > 0

    @property
    def aligned(self) -> bool:
        return self.kind == "cida" and self.weights.repa > 0

    def __post_init__(self):
        super().__post_init__()
        at_least(self, discriminator_width=1, warmup_steps=0, adversarial_start=0)
        fraction(self, "prompt_dropout", one=True)
        if self.score.literal and self.kind in ("vsd", "sid"):
            raise UsageError(
                f"score.literal=True with kind={self.kind}: only cid and cida have a "
                "literal form. Set score.literal=False."
            )
        require_paired_term(self.score.literal, self.weights.latent)
        self._check_decoder()
        if not self.scored and not self.weights.paired:
            raise UsageError(
                "kind=paired with weights.latent=0, weights.pixel=0 and "
                "weights.perceptual=0 trains nothing. Set weights.pixel=1."
            )
        if self.weights.perceptual and not self.init.lpips:
            raise UsageError(
                f"weights.perceptual={self.weights.perceptual:g} needs weights of "
                "LPIPS, and init.lpips is empty. Name their folder (gendr convert), or "
                "set weights.perceptual=0."
            )

    def _check_decoder(self) -> None:
        if self.decoder == "frozen":
            return
        if self.scored:
            raise UsageError(
                f"decoder=trained with kind={self.kind}: its terms are of the latent "
                "and do not reach the decoder. Set kind=paired, or decoder=frozen."
            )
        if not self.weights.on_pictures:
            raise UsageError(
                "decoder=trained, and no term compares pictures. Set weights.pixel=1, "
                "or decoder=frozen."
            )


@dataclass(frozen=True)
class PixelWeights:
    """Weights of the terms of eq. 34 and 35 besides L1; Adc has the first alone."""

    adversarial: float = 0.05
    perceptual: float = 0.0
    fourier: float = 0.0

    def __post_init__(self):
        at_least(self, adversarial=0, perceptual=0, fourier=0)


@dataclass(frozen=True)
class PixelOptim:
    """One optimiser per role."""

    generator: Adam = Adam(lr=1e-5, weight_decay=1e-2)
    discriminator: Adam = Adam(lr=1e-5, weight_decay=1e-2)


@dataclass(frozen=True, kw_only=True)
class PixelSettings(Common):
    """Settings of both stages of GenDR-Pix.

    ``unet`` is the teacher's (GenDR); ``factor`` determines the student's channels.
    ``init.unet`` names the teacher's weights folder, ``init.adc`` (Pix) those of Adc,
    ``init.lpips`` (Pix) the weights of the perceptual term.
    """

    remat: Policy = "none"
    factor: int = 8
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    prediction: Prediction = "eps"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optim: PixelOptim = field(default_factory=PixelOptim)
    discriminator_width: int = 256
    warmup_steps: int = 0
    adversarial_start: int = 0

    def __post_init__(self):
        super().__post_init__()
        least = {"warmup_steps": 0, "adversarial_start": 0}
        at_least(self, factor=1, discriminator_width=1, **least)

    @property
    def pixel_channels(self) -> int:
        """Channels of an RGB picture after pixel-unshuffle."""
        return 3 * self.factor**2


@dataclass(frozen=True, kw_only=True)
class AdcSettings(PixelSettings):
    """GenDR-Adc: the encoder goes; pixels in, latents out."""

    stage: Literal["adc"] = "adc"
    weights: PixelWeights = PixelWeights()

    @property
    def student(self) -> UNetConfig:
        return dataclasses.replace(self.unet, in_channels=self.pixel_channels)


@dataclass(frozen=True, kw_only=True)
class PixSettings(PixelSettings):
    """GenDR-Pix: the decoder goes too; pixels in, pixels out.

    ``mask_radius``: bins around each peak that the masked Fourier loss sees.
    """

    stage: Literal["pix"] = "pix"
    weights: PixelWeights = PixelWeights(perceptual=1.0, fourier=0.1)
    mask_radius: float = MASK_RADIUS

    def __post_init__(self):
        super().__post_init__()
        above_zero(self, "mask_radius")

    @property
    def student(self) -> UNetConfig:
        channels = self.pixel_channels
        return dataclasses.replace(
            self.unet, in_channels=channels, out_channels=channels
        )


Settings = VAESettings | BaseSettings | DistillSettings | AdcSettings | PixSettings
STAGES: dict[str, type[Settings]] = {
    "vae": VAESettings,
    "base": BaseSettings,
    "distill": DistillSettings,
    "adc": AdcSettings,
    "pix": PixSettings,
}
