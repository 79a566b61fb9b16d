"""Run pictures through compiled programs: in one pass, or by tiles."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gendr_jax.image_io import Image, arrays, resize
from gendr_jax.restore import estimate, memory, tiled, tiling
from gendr_jax.restore.options import Options
from gendr_jax.restore.programs import Programs
from gendr_jax.restore.tiled import Progress
from gendr_jax.restore.tiling import Layout


class Passes:
    """Chooses the layout of pictures, and runs the programs."""

    def __init__(self, programs: Programs, options: Options):
        """Compiles and allocates nothing."""
        self._programs, self._options = programs, options
        self._strengths = options.color_fix_strength, options.strength
        # A picture that is split over devices needs no tiles.
        spread = programs.space > 1 and options.tile == "auto"
        self._tile = 0 if spread else options.tile

    def layouts(self, height: int, width: int) -> Iterator[Layout]:
        """Layouts of an output of this size, in the order to try.

        Raises:
            InputError: tiles are not allowed, and one pass exceeds `max_pixels`.
        """
        programs, multiple = self._programs, self._programs.recipe.size_multiple
        if self._tile == 0:
            limit = self._options.max_pixels * programs.space
            yield estimate.one_pass(height, width, multiple, limit)
            return
        free = memory.share(programs.mesh.devices.flatten().tolist())
        for tile in estimate.tiles_to_try(programs.recipe, self._tile, free):
            yield tiling.layout(
                height, width, tile, self._options.tile_overlap, multiple
            )

    def restore(
        self, images: Sequence[Image], plans: list[Layout], progress: Progress
    ) -> list[Image]:
        """Pictures of any sizes, in order.

        Args:
            plans: the first layout to try for each; replaced by the one used.
        """
        restored_by_index: dict[int, Image] = {}
        for i, plan in enumerate(plans):
            if plan.tiled:
                restored_by_index[i], plans[i] = self._by_tiles(
                    images[i], plan, progress
                )
        for group in self._groups(plans):
            size = plans[group[0]].pass_hw
            outputs_hw = [(plans[i].height, plans[i].width) for i in group]
            try:
                outputs = self._untiled([images[i] for i in group], outputs_hw, size)
            except memory.TooLarge:
                if self._tile == 0:
                    raise
                outputs = []
                for i in group:
                    output, plans[i] = self._by_tiles(images[i], plans[i], progress)
                    outputs.append(output)
            for i, output in zip(group, outputs, strict=True):
                restored_by_index[i] = output
        return [restored_by_index[i] for i in range(len(images))]

    def tile_picture(
        self,
        size_hw: tuple[int, int],
        enlarged: tiled.Enlarged,
        store: tiled.Store,
        emit: Callable[[int, int, np.ndarray], None],
        progress: Progress,
    ) -> Layout:
        """See `Restorer.tile_picture`."""
        plans = [p for p in self.layouts(*size_hw) if p.tiled]
        if not plans:
            raise memory.TooLarge(
                f"a picture of {size_hw[1]}x{size_hw[0]} exceeds memory in one pass. "
                + memory.REMEDY
            )
        for plan in plans:
            try:
                tiled.restore(self._programs, plan, enlarged, store, progress)
                break
            except memory.TooLarge:
                if plan == plans[-1]:
                    raise
        fix = self._options.color_fix
        tiled.correct(plan, enlarged, store, fix, self._strengths, emit)
        return plan

    def warm_up(self, plan: Layout) -> None:
        """Compile the programs of this layout."""
        if plan.tiled:
            side = tiled.sample_side(plan, self._programs.recipe.size_multiple)
            sample = tiled.SAMPLES**2, side
            self._programs.compile_tiles(plan.pass_hw, sample)
        else:
            self._programs.compile_untiled(plan.pass_hw, self._options.color_fix)

    def _groups(self, plans: list[Layout]) -> Iterator[list[int]]:
        """Batches of untiled pictures with equal shapes of pass."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for i, plan in enumerate(plans):
            if not plan.tiled:
                shapes.setdefault(plan.pass_hw, []).append(i)
        batch = self._programs.batch_size
        for _, indices in sorted(shapes.items()):
            for start in range(0, len(indices), batch):
                yield indices[start : start + batch]

    def _untiled(
        self,
        images: list[Image],
        outputs_hw: list[tuple[int, int]],
        size: tuple[int, int],
    ) -> list[Image]:
        """One pass over pictures of one padded size."""
        batch = self._programs.batch_size
        up_bhwc = np.zeros((batch, *size, 3), np.float32)
        hw_b2 = np.ones((batch, 2), np.int32)
        alphas = []
        for i, (image, hw) in enumerate(zip(images, outputs_hw, strict=True)):
            rgb, alpha = arrays.to_unit(image)
            hw_b2[i] = hw
            up = tiled.MemoryStore(np.clip(resize.bicubic(rgb, hw), 0, 1))
            region = (-tiling.MARGIN, -tiling.MARGIN, *size)
            up_bhwc[i] = resize.mirrored_region(up.read, hw, region)
            alphas.append(None if alpha is None else _enlarged(alpha, hw))
        sr_bhwc, spread_b2 = self._programs.untiled(
            up_bhwc, hw_b2, self._options.color_fix, self._strengths
        )
        for spread in spread_b2[: len(images)]:
            tiled.require_content(spread, self._programs.recipe.dtype)
        crops = [
            tuple(slice(tiling.MARGIN, tiling.MARGIN + side) for side in hw)
            for hw in outputs_hw
        ]
        return [
            arrays.from_unit(sr_bhwc[i][crops[i]], alphas[i], one)
            for i, one in enumerate(images)
        ]

    def _by_tiles(
        self, image: Image, plan: Layout, progress: Progress
    ) -> tuple[Image, Layout]:
        size = plan.height, plan.width
        rgb, alpha = arrays.to_unit(image)

        def enlarged(top: int, left: int, height: int, width: int) -> np.ndarray:
            region = (top, left, height, width)
            x = resize.bicubic_region(source.read, rgb.shape[:2], size, region)
            return np.clip(x, 0, 1)

        source, store = tiled.MemoryStore(rgb), tiled.MemoryStore.zeros(*size)
        final = tiled.MemoryStore.zeros(*size)
        plan = self.tile_picture(size, enlarged, store, final.write, progress)
        alpha = None if alpha is None else _enlarged(alpha, size)
        return arrays.from_unit(final.pixels_hwc, alpha, image), plan


def _enlarged(alpha_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    return resize.bicubic(alpha_hw[..., None], size_hw)[..., 0]
