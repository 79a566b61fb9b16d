"""Weights on devices, and one compiled program for each shape of pass.

Two ways to use a mesh. Untiled pictures are split by rows over the axis `space`, and a
batch over the other axes; XLA's partitioner exchanges halos. Of tiles each device gets
one, by `shard_map` of the program for one tile, so that results do not depend on the
number of devices, bit for bit.
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
# Groups of tiles that are queued on an accelerator while the host prepares the next.
# Not on a CPU, where two programs share one thread pool and may deadlock.
IN_FLIGHT = 2
# Compiled programs that are kept in memory; one of the full-size networks has 10 MB.
MAX_PROGRAMS = 64


class Programs:
    """Compiled passes over placed weights."""

    def __init__(self, recipe: Recipe, params: Params, mesh: Mesh | None, batch: int):
        """Place the weights on every device.

        Args:
            recipe: what a pass does.
            params: host arrays as `forward.make_pass` takes them.
            mesh: any axes of type Auto; None is the first device.
            batch: pictures of an untiled pass for every device along the other axes.
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
        self._compiled: dict[Any, Any] = {}  # least recently used first
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
            # Replicated: no sum is split over devices, so all meshes get equal bits.
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
        self, inputs: Iterable[np.ndarray], size: tuple[int, int], moments: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(sr_hwc, spread_2) of each tile of one picture, in order; no colour fix.

        While devices work on some tiles, the next are taken from `inputs`.
        """
        what = f"a tile of {size[1]}x{size[0]} pixels"
        program = self._tile_program(size, moments)
        memory.require(program, self._tiles_at, what)
        max_queued = 1 if self._platform == "cpu" else IN_FLIGHT
        queued: collections.deque = collections.deque()
        with memory.errors(what):
            for count, up_bhwc in _groups(inputs, size, self.mesh.size):
                if len(queued) == max_queued:
                    yield from _fetch(*queued.popleft())
                up = jax.device_put(up_bhwc, self._tiles_at)
                queued.append((count, program(self._params, up, moments)))
            while queued:
                yield from _fetch(*queued.popleft())

    def stage_seconds(
        self, size: tuple[int, int], color_fix: color.ColorFix
    ) -> dict[str, float]:
        """Seconds of each stage of one pass over one picture, run separately.

        Each is compiled on its own and run twice; the second run is timed. Results are
        cached by size.
        """
        if (size, color_fix) in self._seconds:
            return self._seconds[size, color_fix]
        x = jax.device_put(np.full((1, *size, 3), 0.5, np.float32), self._everywhere)
        up, seconds = x, {}
        stages = forward.make_stages(self.recipe)
        stages["colour"] = lambda params, y: color.fix(color_fix, y, up)
        for name, stage in stages.items():
            with jax.set_mesh(self.mesh):
                lowered = jax.jit(stage).lower(self._params, x)
            program = cpu_compiler.compiled(lowered, self._platform)
            jax.block_until_ready(program(self._params, x))
            begin = time.perf_counter()
            x = jax.block_until_ready(program(self._params, x))
            seconds[name] = time.perf_counter() - begin
        self._seconds[size, color_fix] = seconds
        return seconds

    def _untiled_program(self, size):
        def lower():
            up = _shape((self.batch_size, *size, 3), jnp.float32, self._pictures_at)
            outs = self._pictures_at, self._batch_at
            jitted = jax.jit(forward.make_pass(self.recipe), out_shardings=outs)
            return jitted.lower(self._params, up)

        return self._program(("untiled", size), lower)

    def _finish_program(self, size, color_fix):
        """A program of its own: another colour fix does not recompile the networks."""

        def corrected(sr_bhwc, up_bhwc, hw_b2, strengths):
            # Masks the margin and the padding out of the colour statistics.
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
            # shard_map: each device runs the program of one tile.
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
            while len(self._compiled) > MAX_PROGRAMS:
                del self._compiled[next(iter(self._compiled))]
            return program

    def compile_untiled(self, size: tuple[int, int], color_fix: color.ColorFix) -> None:
        """Compile the programs of an untiled pass."""
        self._untiled_program(size)
        self._finish_program(size, color_fix)

    def compile_tiles(self, size: tuple[int, int], sample: tuple[int, int]) -> None:
        """Compile the programs of tiles and of their statistics.

        Args:
            sample: number and side of the samples.
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
    """Colour fix of strength strengths[0], then blended by strengths[1]."""
    fixed = color.fix(color_fix, sr_bhwc, up_bhwc, mask_bhw, strengths[0])
    return color.blend(jnp.clip(fixed, 0, 1), up_bhwc, strengths[1])


def _shape(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _groups(inputs, size, devices):
    """(count, [devices, *size, 3]): one tile a device, the last group padded."""
    inputs = iter(inputs)
    while group := list(itertools.islice(inputs, devices)):
        up_bhwc = np.zeros((devices, *size, 3), np.float32)
        up_bhwc[: len(group)] = group
        yield len(group), up_bhwc


def _fetch(count, result):
    sr_bhwc, spread_b2 = jax.device_get(result)
    yield from zip(sr_bhwc[:count], spread_b2[:count], strict=True)
