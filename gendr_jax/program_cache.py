"""Compiled programs kept on disk, so that the next process need not compile them."""

import os
from pathlib import Path

import jax


def folder(name: str) -> Path | None:
    """The folder of that name among what is kept from one process to the next.

    $GENDR_CACHE_DIR, else $XDG_CACHE_HOME/gendr_jax, else ~/.cache/gendr_jax. None
    where GENDR_CACHE=0 or where nothing can be written.
    """
    if os.environ.get("GENDR_CACHE") == "0":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = os.environ.get("GENDR_CACHE_DIR") or f"{base}/gendr_jax"
    found = Path(named).expanduser() / name
    try:
        found.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: the run is slower, not wrong
        return None
    return found


def enable(*, replace: bool = True) -> Path | None:
    """Have JAX keep the programs of this process in `folder("programs")`.

    JAX_COMPILATION_CACHE_DIR goes before it.

    Args:
        replace: also where the process has named a folder of its own to JAX.

    Returns:
        The folder, None where there is none of ours.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    known = getattr(jax.config, "jax_compilation_cache_dir", None)
    if known is not None and not replace:
        return None
    found = folder("programs")
    if found is None or known == str(found):
        return found
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", str(found))
    # Small ones too: a second process shall compile nothing.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # JAX decides at the first program of a process whether there is a cache.
    compilation_cache.reset_cache()
    return found
