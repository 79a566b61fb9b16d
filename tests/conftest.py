"""Settings every test runs under, and the fixture that finds the shared data.

What lives here: eight CPU devices, strict rank promotion, no cache of programs,
`shared_data`. No helpers:
a helper that two test files need belongs in the library or is written twice.
"""

import os
from pathlib import Path

# Before jax is imported: a GPU or TPU on this machine must not change the results.
# GENDR_TEST_PLATFORM=cuda runs the same tests on the accelerator instead.
PLATFORM = os.environ.get("GENDR_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# No test reads or fills the user's cache; one that is about the cache turns it on.
os.environ["GENDR_CACHE"] = "0"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax  # noqa: E402
import pytest  # noqa: E402

# The configuration, not the environment: a plugin may have imported jax already, and
# processes that a test starts should see one device unless they ask for more.
jax.config.update("jax_platforms", PLATFORM)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


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
