"""The common size at which a ground truth and its results are compared.

Some test sets have truths whose sides are not multiples of the scale (Set14, BSD100,
Manga109): inputs were made from the truth cropped at the right and bottom, or from all
of it, so results are a few pixels smaller or larger than the truth. All are cropped at
the right and bottom to the smallest; a size that differs from the truth by more than
`most_cut` pixels is an error.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """Sizes of one picture, height and width.

    Attributes:
        size_hw: at which it is compared.
        uncut_hw: of results before they are cut: the enlarged input, else size_hw.
        truth_hw: of the truth before it is cut, if there is one.
        most: by how many pixels a result may differ from the truth.
    """

    size_hw: Size
    uncut_hw: Size
    truth_hw: Size | None = None
    most: int = 0

    def takes(self, shape_hw: Size) -> bool:
        """Whether a result of this size can be compared once it is cut."""
        if shape_hw in (self.size_hw, self.uncut_hw):
            return True
        return self.truth_hw is not None and near(shape_hw, self.truth_hw, self.most)

    @property
    def cut(self) -> int:
        """Largest number of pixels that a side of the truth is cut by."""
        truth_hw = self.truth_hw or self.size_hw
        return max(a - b for a, b in zip(truth_hw, self.size_hw, strict=True))


def most_cut(scale: float) -> int:
    """Largest remainder of a side modulo the scale."""
    return max(0, math.ceil(scale) - 1)


def near(one_hw: Size, other_hw: Size, most: int) -> bool:
    """Whether no side differs by more than `most` pixels."""
    return all(abs(a - b) <= most for a, b in zip(one_hw, other_hw, strict=True))


def fit(
    truth_hw: Size, enlarged_hw: Size | None, results: Iterable[Size], scale: float
) -> Fit:
    """The fit of a truth, its enlarged input (`near` to it) and results of any size."""
    most = most_cut(scale)
    candidates = [truth_hw] + ([enlarged_hw] if enlarged_hw else [])
    candidates += [size_hw for size_hw in results if near(size_hw, truth_hw, most)]
    height, width = (min(sides) for sides in zip(*candidates, strict=True))
    size_hw = height, width
    return Fit(size_hw, enlarged_hw or size_hw, truth_hw, most)


def describe_cuts(fits: Iterable[Fit]) -> str:
    """How many truths were cut and by how much, for the protocol."""
    all_fits = list(fits)
    cuts = [each_fit.cut for each_fit in all_fits if each_fit.cut]
    most = max((each_fit.most for each_fit in all_fits), default=0)
    if not cuts:
        return "no truth cut"
    by = f"{min(cuts)} to {max(cuts)}" if min(cuts) < max(cuts) else f"{cuts[0]}"
    return (
        f"{len(cuts)} of {len(all_fits)} truths cut at the right or at the bottom, by "
        f"{by} pixels, to the size that results share (more than {most} are refused)"
    )
