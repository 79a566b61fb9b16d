"""Reading a foreign config.json strictly: every option is understood or refused.

What lives here: typed access that collects complaints. What the options mean is in
``torch_config.py``.
"""

from collections.abc import Callable
from typing import Any

from gendr_jax.errors import InputError

# Above what any network here has; beyond, JAX would take minutes, or overflow.
MOST, MOST_LAYERS, MOST_ENTRIES = 1 << 20, 128, 16

# Options without effect on the arithmetic here. Softmax is always float32, hence
# upcast_attention; dropout and initialisation matter to training DINOv2 alone.
IGNORED = {
    "_diffusers_version",
    "_name_or_path",
    "sample_size",
    "upcast_attention",
    "addition_embed_type_num_heads",
    "force_upcast",
    "architectures",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "dtype",
    "hidden_dropout_prob",
    "initializer_range",
    "out_features",
    "out_indices",
    "stage_names",
    "torch_dtype",
    "transformers_version",
}


class Options:
    """A config.json that remembers what was asked for, and names what was not."""

    def __init__(self, raw: dict[str, Any], where: str):
        self.raw, self.where = raw, where
        self.problems: list[str] = []
        self.seen: set[str] = set(IGNORED)

    def get(self, name: str, default: Any, valid: Callable[[Any], bool]) -> Any:
        """The value, or the library's default; a bad value is noted by name."""
        self.seen.add(name)
        value = self.raw.get(name)
        if value is None:
            return default
        if not valid(value):
            self.problems.append(f"{name}={value!r:.80} is not supported")
            return default
        return tuple(value) if isinstance(value, list) else value

    def number(self, name: str, default: float) -> float:
        return float(self.get(name, default, is_number))

    def integer(self, name: str, default: int, most: int = MOST) -> int:
        return self.get(name, default, lambda v: is_count(v) and v <= most)

    def flag(self, name: str, default: bool) -> bool:
        return self.get(name, default, lambda v: isinstance(v, bool))

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return self.get(name, default, lambda v: list_of(v, is_count))

    def uniform(
        self, name: str, default: int, only: int | None = None, most: int = MOST
    ) -> int:
        """One integer, or a list that repeats it; ``only`` is the one allowed."""

        def valid(value: Any) -> bool:
            values = value if isinstance(value, list) else [value]
            same = list_of(values, lambda v: is_count(v) and v == values[0])
            return same and values[0] <= most and only in (None, values[0])

        value = self.get(name, default, valid)
        return value[0] if isinstance(value, tuple) else value

    def fixed(self, table: dict[str, Any]) -> None:
        """Refuse every other value than the table's."""
        for name, only in table.items():
            self.get(name, only, lambda value, only=only: value == only)

    def finish(self) -> None:
        """Raise one InputError with every option that cannot be honoured.

        Options nobody asked for pass as null or false, the libraries' spelling of off.
        """
        for name in sorted(self.raw.keys() - self.seen):
            value = self.raw[name]
            values = value if isinstance(value, list) else [value]
            if any(v not in (None, False) for v in values):
                shown = name if name.isprintable() else repr(name)
                self.problems.append(f"{shown:.80}={value!r:.80} is not supported")
        if self.problems:
            raise InputError(
                f"{self.where}: {'; '.join(self.problems)}. "
                "Use a model without these options."
            )


def is_count(value: Any) -> bool:
    """A positive integer; JSON's true is none."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 0 < value <= MOST


def list_of(value: Any, valid: Callable[[Any], bool]) -> bool:
    """A list with something in it, all valid."""
    few = isinstance(value, list) and 0 < len(value) <= MOST_ENTRIES
    return few and all(valid(v) for v in value)


def is_number(value: Any) -> bool:
    """A number that float32 holds; JSON's true is none, NaN and Infinity neither."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e30
