"""JAX's persistent compilation cache, enabled in a folder of the user's cache."""

import os
from pathlib import Path

import jax


def folder(name: str) -> Path | None:
    """The subfolder `name` of the cache folder, made if absent.

    The cache folder is $GENDR_CACHE_DIR, else $XDG_CACHE_HOME/gendr_jax, else
    ~/.cache/gendr_jax. None where GENDR_CACHE=0 or where nothing can be written.
    """
    if os.environ.get("GENDR_CACHE") == "0":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache_folder = os.environ.get("GENDR_CACHE_DIR") or f"{base}/gendr_jax"
    subfolder = Path(cache_folder).expanduser() / name
    try:
        subfolder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: the run is slower, not wrong
        return None
    return subfolder


def enable(*, replace: bool = True) -> Path | None:
    """Set JAX's persistent compilation cache to `folder("programs")`.

    The variable JAX_COMPILATION_CACHE_DIR has precedence.

    Args:
        replace: replace a cache folder that the process has already set in JAX.

    Returns:
        The folder, None where ours is not used.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    configured = getattr(jax.config, "jax_compilation_cache_dir", None)
    if configured is not None and not replace:
        return None
    programs_folder = folder("programs")
    if programs_folder is None or configured == str(programs_folder):
        return programs_folder
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", str(programs_folder))
    # Programs that compile fast too: a second process compiles nothing.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # JAX opens the cache at the first program of a process, and never again.
    compilation_cache.reset_cache()
    return programs_folder
