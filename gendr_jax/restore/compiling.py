"""How many programs XLA compiled while something ran.

Programs that JAX cached in its cache on disk do not count.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

# JAX's events; a program from the cache tells both.
REQUESTED = "/jax/core/compile/backend_compile_duration"
CACHED = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compiled:
    """What was seen.

    Attributes:
        requested: programs compiled, or read from the cache.
        cached: those read from the cache.
    """

    requested: int = 0
    cached: int = 0

    @property
    def programs(self) -> int:
        """Those that XLA compiled."""
        return self.requested - self.cached


@contextlib.contextmanager
def watch() -> Iterator[Compiled]:
    """Count what this process compiles until the block ends, in all its threads."""
    seen = Compiled()

    def on_event(event: str, **_: object) -> None:
        seen.cached += event == CACHED

    def on_duration(event: str, duration_secs: float, **_: str | int) -> None:
        seen.requested += event == REQUESTED

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)
