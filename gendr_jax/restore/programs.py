"""Weights on devices, and one compiled program for each shape of pass.

Two ways over a mesh. A whole picture is split by rows over the axis `space`, and
pictures of a batch over the other axes; the partitioner exchanges halos. Tiles go one
to a device, each through the program of one tile, so that their bits do not depend on
how many devices there are.
"""

import collections
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gendr_jax import cpu_compiler
from gendr_jax.nets import Params
from gendr_jax.restore import color, forward, memory, tiling
from gendr_jax.restore.forward import Recipe

SPACE = "space"
# Groups of tiles that an accelerator has at hand while the host prepares the next. On a
# CPU two programs at once share one pool of threads, and have been seen to block it.
IN_FLIGHT = 2
# Compiled programs that stay in memory; one of the full-size networks takes some 10 MB.
MOST_PROGRAMS = 64


class Programs:
    """Compiled passes over placed weights."""

    def __init__(self, recipe: Recipe, params: Params, mesh: Mesh | None, batch: int):
        """Place the weights on every device.

        Args:
            recipe: what a pass does.
            params: host arrays as `forward.make_pass` takes them.
            mesh: any axes of type Auto; None is the first device.
            batch: pictures of a whole pass for every device along the other axes.
        """
        if mesh is None:
            first = np.array(jax.devices()[:1])
            mesh = Mesh(first, ("data",), axis_types=(AxisType.Auto,))
        self.recipe, self.mesh = recipe, mesh
        self.space = mesh.shape.get(SPACE, 1)
        self.batch_size = batch * (mesh.size // self.space)
        axes = tuple(name for name in mesh.axis_names if name != SPACE)
        rows = (SPACE,) if self.space > 1 else ()
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._pictures_at = NamedSharding(mesh, PartitionSpec(axes, *rows))
        self._batch_at = NamedSharding(mesh, PartitionSpec(axes))
        self._tiles_at = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._params = jax.device_put(params, self._everywhere)
        self._platform = mesh.devices.flat[0].platform
        self._compiled: dict[Any, Any] = {}  # the longest unused first
        self._lock = threading.RLock()
        self._seconds: dict[Any, dict[str, float]] = {}

    def untiled(
        self,
        up_bhwc: np.ndarray,
        hw_b2: np.ndarray,
        color_fix: color.ColorFix,
        strengths: tuple[float, float],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(sr_bhwc, spread_b2) of a full batch, with its colour fix."""
        size = up_bhwc.shape[1:3]
        what = f"a pass of {size[1]}x{size[0]} pixels"
        program = self._untiled_program(size)
        corrected = self._finish_program(size, color_fix)
        memory.require(program, self._pictures_at, what)
        with memory.errors(what):
            up = jax.device_put(up_bhwc, self._pictures_at)
            hw = jax.device_put(hw_b2, self._batch_at)
            values = jax.device_put(np.asarray(strengths, np.float32), self._everywhere)
            sr, spread_b2 = program(self._params, up)
            return jax.device_get((corrected(sr, up, hw, values), spread_b2))

    def statistics(self, samples_bhwc: np.ndarray) -> Any:
        """The moments of a picture from samples of it, on every device."""
        what = f"statistics of {len(samples_bhwc)} samples"
        shape = jax.ShapeDtypeStruct(
            samples_bhwc.shape, jnp.float32, sharding=self._everywhere
        )

        def lower():
            # The same on every device: no sum is split, so all meshes find the same.
            local = jax.shard_map(
                forward.make_statistics(self.recipe),
                mesh=self.mesh,
                in_specs=(PartitionSpec(), PartitionSpec()),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
            return jax.jit(local).lower(self._params, shape)

        program = self._program(("statistics", samples_bhwc.shape), lower)
        memory.require(program, self._everywhere, what)
        with memory.errors(what):
            samples = jax.device_put(samples_bhwc, self._everywhere)
            return jax.block_until_ready(program(self._params, samples))

    def tiles(
        self, parts: Iterable[np.ndarray], size: tuple[int, int], moments: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(sr_hwc, spread_2) of each part of one picture, in order; no colour fix.

        While devices work on some parts, the next are taken from `parts`.
        """
        what = f"a tile of {size[1]}x{size[0]} pixels"
        program = self._tile_program(size, moments)
        memory.require(program, self._tiles_at, what)
        room = 1 if self._platform == "cpu" else IN_FLIGHT
        waiting: collections.deque = collections.deque()
        with memory.errors(what):
            for count, up_bhwc in _groups(parts, size, self.mesh.size):
                if len(waiting) == room:
                    yield from _fetch(*waiting.popleft())
                up = jax.device_put(up_bhwc, self._tiles_at)
                waiting.append((count, program(self._params, up, moments)))
            while waiting:
                yield from _fetch(*waiting.popleft())

    def stage_seconds(
        self, size: tuple[int, int], color_fix: color.ColorFix
    ) -> dict[str, float]:
        """Seconds of each stage of one pass of this size, run apart, one picture.

        Each is compiled alone and run twice; the second run counts. A size is timed
        once.
        """
        if (size, color_fix) in self._seconds:
            return self._seconds[size, color_fix]
        x = jax.device_put(np.full((1, *size, 3), 0.5, np.float32), self._everywhere)
        up, found = x, {}
        stages = forward.make_stages(self.recipe)
        stages["colour"] = lambda params, y: color.fix(color_fix, y, up)
        for name, stage in stages.items():
            with jax.set_mesh(self.mesh):
                lowered = jax.jit(stage).lower(self._params, x)
            program = cpu_compiler.compiled(lowered, self._platform)
            jax.block_until_ready(program(self._params, x))
            begin = time.perf_counter()
            x = jax.block_until_ready(program(self._params, x))
            found[name] = time.perf_counter() - begin
        self._seconds[size, color_fix] = found
        return found

    def _untiled_program(self, size):
        def lower():
            up = _shape((self.batch_size, *size, 3), jnp.float32, self._pictures_at)
            outs = self._pictures_at, self._batch_at
            jitted = jax.jit(forward.make_pass(self.recipe), out_shardings=outs)
            return jitted.lower(self._params, up)

        return self._program(("untiled", size), lower)

    def _finish_program(self, size, color_fix):
        """Apart from the networks, which another colour fix shall not compile again."""

        def corrected(sr_bhwc, up_bhwc, hw_b2, strengths):
            # The margin and what fills the pass up have no say in colours.
            rows = jnp.arange(size[0])[None, :, None] - tiling.MARGIN
            columns = jnp.arange(size[1])[None, None, :] - tiling.MARGIN
            inside = (rows >= 0) & (rows < hw_b2[:, 0, None, None])
            inside &= (columns >= 0) & (columns < hw_b2[:, 1, None, None])
            return finish(color_fix, sr_bhwc, up_bhwc, inside, strengths)

        def lower():
            batch = self.batch_size
            x = _shape((batch, *size, 3), jnp.float32, self._pictures_at)
            hw = _shape((batch, 2), jnp.int32, self._batch_at)
            strengths = _shape((2,), jnp.float32, self._everywhere)
            jitted = jax.jit(corrected, out_shardings=self._pictures_at)
            return jitted.lower(x, x, hw, strengths)

        return self._program(("finish", size), lower)

    def _tile_program(self, size, moments):
        def lower():
            up = _shape((self.mesh.size, *size, 3), jnp.float32, self._tiles_at)
            # Manual shards: what a device runs is the program of one tile.
            local = jax.shard_map(
                forward.make_pass(self.recipe),
                mesh=self.mesh,
                in_specs=(PartitionSpec(), self._tiles_at.spec, PartitionSpec()),
                out_specs=self._tiles_at.spec,
                check_vma=False,
            )
            return jax.jit(local).lower(self._params, up, moments)

        return self._program(("tile", size), lower)

    def _program(self, key, lower):
        with self._lock:
            program = self._compiled.pop(key, None)
            if program is None:
                with jax.set_mesh(self.mesh):
                    lowered = lower()
                with memory.errors(f"compiling a pass of {key[1]}"):
                    program = cpu_compiler.compiled(lowered, self._platform)
            self._compiled[key] = program
            while len(self._compiled) > MOST_PROGRAMS:
                del self._compiled[next(iter(self._compiled))]
            return program

    def compile_untiled(self, size: tuple[int, int], color_fix: color.ColorFix) -> None:
        """Have the programs of an untiled pass ready."""
        self._untiled_program(size)
        self._finish_program(size, color_fix)

    def compile_tiles(self, size: tuple[int, int], sample: tuple[int, int]) -> None:
        """Have the programs of tiles ready, and those of their statistics.

        Args:
            sample: how many there are, and their side.
        """
        count, side = sample
        moments = self.statistics(np.zeros((count, side, side, 3), np.float32))
        self._tile_program(size, moments)


def finish(
    color_fix: color.ColorFix,
    sr_bhwc: jax.Array,
    up_bhwc: jax.Array,
    mask_bhw: jax.Array,
    strengths: jax.Array,
) -> jax.Array:
    """Colour fix by strengths[0], then that much of it: strengths[1]."""
    fixed = color.fix(color_fix, sr_bhwc, up_bhwc, mask_bhw, strengths[0])
    return color.blend(jnp.clip(fixed, 0, 1), up_bhwc, strengths[1])


def _shape(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _groups(parts, size, devices):
    """(count, [devices, *size, 3]): one part a device, the last group filled up."""
    parts = iter(parts)
    while group := list(itertools.islice(parts, devices)):
        up_bhwc = np.zeros((devices, *size, 3), np.float32)
        up_bhwc[: len(group)] = group
        yield len(group), up_bhwc


def _fetch(count, result):
    sr_bhwc, spread_b2 = jax.device_get(result)
    yield from zip(sr_bhwc[:count], spread_b2[:count], strict=True)
