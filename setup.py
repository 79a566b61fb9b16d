"""The package: name, version, dependencies, extras.

pyproject.toml has only the build system and settings of tools.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION_PY = (ROOT / "gendr_jax" / "version.py").read_text()
VERSION = re.search(r'^__version__ = "([^"]+)"', VERSION_PY, re.MULTILINE).group(1)

SCIKIT_IMAGE = "scikit-image>=0.24,<1"
MATPLOTLIB = "matplotlib>=3.9"
DIFFUSERS = "diffusers>=0.38"
TORCH = "torch>=2.4"
TRANSFORMERS = "transformers>=4.45,<6"


class BuildWithConfigs(build_py):
    """A wheel has configs/ as gendr_jax/configs: `gendr train --config tiny_vae`."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "gendr_jax" / "configs"
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted((ROOT / "configs").glob("*.py")):
                shutil.copyfile(file, target / file.name)


setup(
    cmdclass={"build_py": BuildWithConfigs},
    name="gendr_jax",
    version=VERSION,
    description="GenDR in JAX: one-step diffusion super-resolution of real photographs",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["gendr_jax", "gendr_jax.*"]),
    package_data={
        "gendr_jax": ["py.typed"],
        "gendr_jax.pretrained": ["*/*", "*/*/*", "*/*/*/*", "*/*/*/*/*", "*/*/*/*/*/*"],
        "gendr_jax.evaluate": ["page.html", "page.css", "*.js", "sets/*.sha256"],
    },
    install_requires=[
        "absl-py>=2.1",
        # Above 0.10.2 jax needs Python 3.12 and, from 0.11.1 on, a flax above 0.12.8.
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.5,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "grain>=0.2.18,<0.3",
        # Also a dependency of grain; tools/make_arrayrecord.py writes with it.
        "array_record>=0.8,<0.9",
        "tensorflow-datasets>=4.9.10,<5",
        # tensorflow-datasets imports it without declaring it.
        "importlib_resources",
        "etils[epath]>=1.9",
        "ml-collections>=1.0,<2",
        "ml_dtypes>=0.5",
        "numpy>=2.0,<3",
        "pillow>=11.0",
        # Image files; the wheel includes libvips (LGPL, loaded as a shared library).
        "pyvips[binary]>=3.0,<4",
        "safetensors>=0.5,<1",
        "tensorboardX>=2.6.2,<3",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "quickstart": [SCIKIT_IMAGE],
        # Pickled files (.bin .ckpt .pt .pth); safetensors do not need it.
        "convert": [TORCH],
        # `gendr convert --verify` compares with these libraries.
        "verify": [TORCH, DIFFUSERS, TRANSFORMERS],
        "prompt": [TORCH, TRANSFORMERS],
        "plots": [MATPLOTLIB],
        # `gendr plan`: the TPU compiler runs on any Linux machine.
        "plan": ["jax[tpu]", MATPLOTLIB],
        # `gendr train --workdir gs://...`; arrays are written by TensorStore.
        "gcs": ["gcsfs"],
        "demo": ["gradio>=6.0,<7"],
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "dev": [
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.15",
            "ty>=0.0.60",
            "scipy>=1.14",
            "tifffile>=2024.1",
            MATPLOTLIB,
            SCIKIT_IMAGE,
            # References of the parity tests. torch is pinned because the last bits
            # that these tests compare with depend on its CPU kernels.
            "torch==2.13.0",
            DIFFUSERS,
            TRANSFORMERS,
            "peft>=0.18",
            "accelerate>=1.0",
        ],
    },
    entry_points={"console_scripts": ["gendr = gendr_jax.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
)
