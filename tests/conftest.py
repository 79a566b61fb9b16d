"""Settings every test runs under, and fixtures; helpers are in tests/helpers/.

Eight CPU devices, strict rank promotion, and compiled programs that the processes of
one run share on disk, so that what many tests need is compiled once.
"""

import gc
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

# Before jax is imported: a GPU or TPU on this machine must not change the results.
# GENDR_TEST_PLATFORM=cuda runs the same tests on the accelerator instead.
PLATFORM = os.environ.get("GENDR_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile many programs and run each for moments: without LLVM's optimisation and
# XLA's fusion emitters compiling takes a third of the time (a degradation 3.4 for 9.7 s
# at level 1). GENDR_TEST_OPTIMISED=1 compiles as users do.
if os.environ.get("GENDR_TEST_OPTIMISED", "0") == "0":
    quick = ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones lack it
        quick.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([*quick, os.environ.get("XLA_FLAGS", "")])
# No test reads or fills the user's cache; one that is about the cache turns it on.
os.environ["GENDR_CACHE"] = "0"
# The first process of a run makes the folder; its workers and commands inherit it.
if "GENDR_TEST_PROGRAMS" not in os.environ:
    os.environ["GENDR_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="gendr_test_programs_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["GENDR_TEST_PROGRAMS"]
# Reading a program that took less to compile gains nothing.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402
import pytest  # noqa: E402

# The configuration, not the environment: a plugin may have imported jax already, and
# processes that a test starts should see one device unless they ask for more.
jax.config.update("jax_platforms", PLATFORM)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["GENDR_TEST_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


# Folders whose files may take half a minute each: begun first, so that at the end no
# worker waits for another's.
LONG = ("sharding", "train", "restore", "models", "weights", "data", "cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; comparisons with PyTorch skip where a library is missing."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in LONG)
    needed = ("torch", "diffusers", "transformers", "peft")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        skip = pytest.mark.skip(reason=f"{', '.join(missing)} not installed")
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(skip)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Objects of the imports are never garbage: collecting took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers end before
        shutil.rmtree(os.environ["GENDR_TEST_PROGRAMS"], ignore_errors=True)


@pytest.fixture
def no_shared_programs(monkeypatch):
    """For tests about compilation and its caches: every program is compiled anew."""
    from jax.experimental.compilation_cache import compilation_cache

    folder = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs; skips where there is none.

    GENDR_SHARED_DATA names it, otherwise it is `shared/data` beside the repository.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    named = os.environ.get("GENDR_SHARED_DATA")
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set GENDR_SHARED_DATA)")
    return folder
