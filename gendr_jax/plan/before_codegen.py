"""The TPU compiler's decisions, read from its dump before it generates code.

At full effort nearly all time of a compilation is code generation, kernel by kernel:
197 of 199 seconds for two convolutions, more than 25 minutes for a full-size step.
What a plan reports is decided before: the scheduled HLO with the memory (HBM or VMEM)
of every array, and the assignment of buffers. The compiler writes both to its dump
folder (`xla_dump_to`) when it begins to generate code, and is not waited for.
"""

import dataclasses
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Written in this order, by one thread: the begin of the last one says that the others
# are complete. What is in it, and what the compiler dumps next, can take minutes and
# more than 10 GB, and is not waited for.
HLO = ".after_optimizations.txt"
BUFFERS = ".after_optimizations-buffer-assignment.txt"
LAST = ".after_optimizations-buffer-assignment-values.txt"
POLL = 0.1  # seconds

KINDS = ("argument", "output", "alias", "temp")

# `allocation 7: size 819200, color 5, maybe-live-out:`; colors are memory spaces.
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(.*)$", re.MULTILINE)
_COLOR = re.compile(r", color (\d+)")
HBM, HOST = 0, 5


@dataclasses.dataclass(frozen=True)
class Decided:
    """A program as it was handed to code generation.

    Attributes:
        text: the scheduled HLO, with layouts and memory spaces.
        memory: bytes by the names of `measure.memory`, per device.
    """

    text: str
    memory: dict[str, int]


def decided(lowered: Any, options: Mapping[str, Any]) -> Decided:
    """What the TPU's compiler decides for a program at its full effort.

    The thread that compiles goes on generating code until its process ends: call this
    in a process that ends after the answer (`plan/compile_process.py`).

    Raises:
        jax.errors.JaxRuntimeError: the program does not compile or fit.
    """
    folder = Path(tempfile.mkdtemp(prefix="gendr-plan-"))
    try:
        dump_options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
        compilation = _Compilation(lowered, {**options, **dump_options})
        while not (last := sorted(folder.glob(f"*{LAST}"))):
            if compilation.ended and not any(folder.glob(f"*{LAST}")):
                compilation.raise_its_error()
            time.sleep(POLL)
        module = last[-1].name.removesuffix(LAST)
        text = (folder / f"{module}{HLO}").read_text()
        buffers = (folder / f"{module}{BUFFERS}").read_text()
        return Decided(text, memory(buffers))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Compilation(threading.Thread):
    """A compilation in the background, whose result is not needed."""

    def __init__(self, lowered: Any, options: dict[str, Any]):
        super().__init__(daemon=True)
        self.lowered, self.options = lowered, options
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.lowered.compile(compiler_options=self.options)
        except Exception as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return not self.is_alive()

    def raise_its_error(self) -> None:
        if self.error is not None:
            raise self.error
        raise RuntimeError(
            f"the TPU's compiler wrote no *{LAST} to its dump folder, which this "
            "version of gendr reads. Take the libtpu that gendr_jax[plan] names, or "
            "--effort low."
        )


def memory(buffers: str) -> dict[str, int]:
    """Bytes of a buffer assignment, by the names of `measure.memory`.

    Peak is the sum: every allocation of HBM exists for all of the program, and arrays
    that do not live at the same time share the allocation of temporaries. Code is not
    generated and counts as 0.
    """
    sizes = dict.fromkeys(
        [f"{where}{kind}" for where in ("", "host_") for kind in KINDS], 0
    )
    for size, words in _ALLOCATION.findall(buffers):
        color = _COLOR.search(words)
        space = int(color[1]) if color else HBM
        if space not in (HBM, HOST):
            continue  # memory on the chip
        where = "host_" if space == HOST else ""
        kinds = _kinds(words)
        for kind in kinds:
            sizes[where + kind] += int(size)
    facts = {f"{name}_bytes": size for name, size in sizes.items()}
    del facts["host_alias_bytes"]
    total = sum(facts[f"{kind}_bytes"] for kind in KINDS) - 2 * facts["alias_bytes"]
    return facts | {
        "generated_code_bytes": 0,
        "peak_bytes": total,
        "total_bytes": total,
    }


def _kinds(words: str) -> tuple[str, ...]:
    """What an allocation holds; an argument that becomes a result is all three."""
    result = "maybe-live-out" in words
    if ", parameter " in words:
        return ("argument", "output", "alias") if result else ("argument",)
    return ("output",) if result else ("temp",)
