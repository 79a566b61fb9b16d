"""How many programs XLA compiled while something ran.

Programs that JAX found in its cache on disk do not count.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

# JAX's events; a program from the cache tells both.
TAKEN = "/jax/core/compile/backend_compile_duration"
FOUND = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compiled:
    """What was seen.

    Attributes:
        taken: programs compiled, or read from the cache.
        found: those read from the cache.
    """

    taken: int = 0
    found: int = 0

    @property
    def programs(self) -> int:
        """Those that XLA compiled."""
        return self.taken - self.found


@contextlib.contextmanager
def watch() -> Iterator[Compiled]:
    """Count what this process compiles until the block ends, in all its threads."""
    seen = Compiled()

    def on_event(event: str, **_: object) -> None:
        seen.found += event == FOUND

    def on_duration(event: str, duration_secs: float, **_: str | int) -> None:
        seen.taken += event == TAKEN

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)
