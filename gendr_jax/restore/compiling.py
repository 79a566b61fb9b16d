"""Count the programs that XLA compiles in a block of code.

Programs from JAX's persistent compilation cache are not counted.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

# JAX's monitoring events; a program from the cache records both.
REQUESTED = "/jax/core/compile/backend_compile_duration"
CACHED = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compiled:
    """Counters.

    Attributes:
        requested: programs compiled, or read from the cache.
        cached: those read from the cache.
    """

    requested: int = 0
    cached: int = 0

    @property
    def programs(self) -> int:
        """Number of programs that XLA compiled."""
        return self.requested - self.cached


@contextlib.contextmanager
def watch() -> Iterator[Compiled]:
    """Count what this process compiles until the block ends, in all its threads."""
    counters = Compiled()

    def on_event(event: str, **_: object) -> None:
        counters.cached += event == CACHED

    def on_duration(event: str, duration_secs: float, **_: str | int) -> None:
        counters.requested += event == REQUESTED

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        yield counters
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)
