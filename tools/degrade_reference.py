"""Real-ESRGAN's degradation of one picture by basicsr's own files, in torch on a CPU.

For tools/make_degrade_goldens.py; not shipped, not run by a test. FILES is a
folder with degradations.py, utils/diffjpeg.py and utils/img_process_util.py of basicsr
1.4.2 (`pip download --no-deps basicsr==1.4.2`, unpacked); they need scipy and cv2.

Parameters are one flat dict of numbers.
"""

import functools
import importlib.util
import math
import random
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

# kinds 0..5 as random_mixed_kernels names them, 6 is sinc, 7 is no kernel
KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso")
KINDS += ("plateau_iso", "plateau_aniso")
KIND_PROBS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
SINC, NONE = 6, 7
MODES = ("area", "bilinear", "bicubic")
RANGES = (
    {"up": 1.5, "down": 0.15, "way": (0.2, 0.7, 0.1), "sigma": (0.2, 3), "blur": 1.0}
    | {"gauss": (1, 30), "shot": (0.05, 3)},
    {"up": 1.2, "down": 0.3, "way": (0.3, 0.4, 0.3), "sigma": (0.2, 1.5), "blur": 0.8}
    | {"gauss": (1, 25), "shot": (0.05, 2.5)},
)


def _load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counts(mean: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Poisson counts of standard normals: Cornish and Fisher's expansion, rounded."""
    m, z = mean.astype(float), normal.astype(float)
    root = np.sqrt(np.maximum(m, 1e-12))
    x = m + root * z + (z**2 - 1) / 6 - (z**3 - z) / (72 * root)
    return np.where(m > 0, np.maximum(np.floor(x + 0.5), 0), 0).astype(np.float32)


class Reference:
    """The three files, and the chain made of them."""

    def __init__(self, files: Path) -> None:
        # basicsr imports this one function from where torchvision no longer has it
        stub = types.ModuleType("torchvision.transforms.functional_tensor")
        luma = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
        stub.rgb_to_grayscale = lambda x, num_output_channels: (x * luma).sum(
            1, keepdim=True
        )
        for name in ("torchvision", "torchvision.transforms", stub.__name__):
            sys.modules[name] = stub
        self.parts = _load(files / "degradations.py")
        self.jpeg = _load(files / "utils" / "diffjpeg.py").DiffJPEG(
            differentiable=False
        )
        self.images = _load(files / "utils" / "img_process_util.py")

    def kernel(self, p: dict, at: str) -> np.ndarray:
        """The kernel of parameters that start with `at`, padded to 21 x 21."""
        kind, size = p[at + "kind"], p[at + "size"]
        if kind == NONE:
            return np.pad(np.ones((1, 1)), 10)
        if kind == SINC:
            return self.parts.circular_lowpass_kernel(p[at + "omega"], size, pad_to=21)
        make = (
            self.parts.bivariate_Gaussian,
            self.parts.bivariate_generalized_Gaussian,
            self.parts.bivariate_plateau,
        )[kind // 2]
        beta = () if kind < 2 else (p[at + "beta"],)
        shape = p[at + "sx"], p[at + "sy"], p[at + "theta"]
        kernel = make(size, *shape, *beta, isotropic=kind % 2 == 0)
        return np.pad(kernel, (21 - size) // 2)

    @torch.no_grad()
    def apply(self, hq_hwc: np.ndarray, p: dict, normals=None) -> np.ndarray:
        """uint8 -> uint8, four times smaller.

        normals: (first, second) functions of a shape that give the field of either
        noise; shot noise takes `counts` of the normal. None: torch's own.
        """
        x = torch.from_numpy(hq_hwc.astype(np.float32) / 255).permute(2, 0, 1)[None]
        end = [n // 4 for n in x.shape[2:]]
        if p["sharpen"]:
            x = self.images.USMSharp()(x)
        for k in (1, 2) if p["has_second"] else (1,):
            s, mode = p[f"s{k}"], MODES[p[f"mode{k}"]]
            size = (
                {"scale_factor": s} if k == 1 else {"size": [int(n * s) for n in end]}
            )
            resize = functools.partial(functional.interpolate, mode=mode, **size)
            stages = [
                functools.partial(self._filter, p=p, at=f"k{k}_"),
                functools.partial(self._noise, p=p, k=k, normals=normals),
            ]
            stages.insert(p[f"place{k}"], resize)
            for stage in stages:
                x = stage(x)
            if k == 1:
                x = self._jpeg(x, p["q1"])
        x = x if p["jpeg_last"] else self._jpeg(x, p["q2"])
        x = functional.interpolate(x, size=end, mode=MODES[p["mode3"]])
        x = self._filter(x, p, "k3_")
        x = self._jpeg(x, p["q2"]) if p["jpeg_last"] else x
        x = torch.clamp((x * 255.0).round(), 0, 255)[0].permute(1, 2, 0)
        return x.numpy().astype(np.uint8)

    def _jpeg(self, x, quality):
        return self.jpeg(torch.clamp(x, 0, 1), quality=quality)

    def _filter(self, x, p, at):
        kernel = torch.FloatTensor(self.kernel(p, at))[None]
        return self.images.filter2D(x, kernel)

    def _noise(self, x, p, k, normals):
        own = torch.randn, torch.poisson
        if normals is not None:
            field = normals[k - 1](tuple(x.shape[1:]))
            torch.randn = lambda *shape, **_: torch.from_numpy(
                field[0] if len(shape) == 2 else field[None]
            )
            torch.poisson = lambda mean: torch.from_numpy(
                counts(mean.numpy(), field[None, : mean.shape[1]])
            )
        gray = torch.tensor([float(p[f"gray{k}"])])
        try:
            if p[f"gauss{k}"]:
                sigma = torch.tensor([p[f"sigma{k}"]])
                return self.parts.add_gaussian_noise_pt(x, sigma, gray)
            scale = torch.tensor([p[f"shot{k}"]])
            return self.parts.add_poisson_noise_pt(x, scale, gray_noise=gray)
        finally:
            torch.randn, torch.poisson = own


def draw(rng: random.Random) -> dict:
    """One sample's parameters by the law of OSEDiff: Real-ESRGAN's, not sharpened."""
    p = {"sharpen": 0, "has_second": 1, "jpeg_last": int(rng.random() < 0.5)}
    p |= {"place1": 1, "place2": 1}  # of the resize; APISR draws these
    p["q1"], p["q2"] = rng.uniform(30, 95), rng.uniform(30, 95)
    p["mode3"] = rng.randrange(3)
    for k, r in enumerate(RANGES, 1):
        size = rng.choice(range(7, 22, 2))
        kind = rng.choices(range(6), KIND_PROBS)[0]
        betas = (0.5, 4) if kind in (2, 3) else (1, 2)
        sigmas = [rng.uniform(*r["sigma"]) for _ in range(2)]
        beta = rng.uniform(*((betas[0], 1) if rng.random() < 0.5 else (1, betas[1])))
        omega = rng.uniform(math.pi / (3 if size < 13 else 5), math.pi)
        kind = SINC if rng.random() < 0.1 else kind
        kind = kind if rng.random() < r["blur"] else NONE
        p |= {f"k{k}_kind": kind, f"k{k}_size": size, f"k{k}_omega": omega}
        p |= {f"k{k}_sx": sigmas[0], f"k{k}_sy": sigmas[kind % 2], f"k{k}_beta": beta}
        p[f"k{k}_theta"] = rng.uniform(-math.pi, math.pi)
        way = rng.choices(range(3), r["way"])[0]
        scale = (rng.uniform(1, r["up"]), rng.uniform(r["down"], 1), 1.0)[way]
        # a float32, so that both sides resize by the same number
        p |= {f"s{k}": float(np.float32(scale)), f"mode{k}": rng.randrange(3)}
        p |= {f"gauss{k}": int(rng.random() < 0.5), f"gray{k}": int(rng.random() < 0.4)}
        p |= {
            f"sigma{k}": rng.uniform(*r["gauss"]),
            f"shot{k}": rng.uniform(*r["shot"]),
        }
    p |= {"k3_kind": SINC if rng.random() < 0.8 else NONE}
    p |= {
        "k3_size": rng.choice(range(7, 22, 2)),
        "k3_omega": rng.uniform(math.pi / 3, math.pi),
    }
    return p
