"""The size at which a picture is compared: what its truth and all results share.

Test sets have truths that are no multiple of the scale (Set14, BSD100, Manga109): their
inputs are made of the truth cut at the right and at the bottom, or of all of it, and
results are a few pixels smaller or larger than the truth. Everything is then cut at the
right and at the bottom to the smallest of them; what differs from the truth by more
than `most_cut` pixels is no result of this truth.
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
        truth_hw: of the truth before it is cut, where there is one.
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
        """By how many pixels a side of the truth is shortened."""
        truth_hw = self.truth_hw or self.size_hw
        return max(a - b for a, b in zip(truth_hw, self.size_hw, strict=True))


def most_cut(scale: float) -> int:
    """What is left over beside a multiple of the scale."""
    return max(0, math.ceil(scale) - 1)


def near(one_hw: Size, other_hw: Size, most: int) -> bool:
    """Whether no side differs by more than `most` pixels."""
    return all(abs(a - b) <= most for a, b in zip(one_hw, other_hw, strict=True))


def fit(
    truth_hw: Size, enlarged_hw: Size | None, results: Iterable[Size], scale: float
) -> Fit:
    """Of a truth, its enlarged input (`near` to it) and results of any size."""
    most = most_cut(scale)
    known = [truth_hw] + ([enlarged_hw] if enlarged_hw else [])
    known += [size_hw for size_hw in results if near(size_hw, truth_hw, most)]
    height, width = (min(sides) for sides in zip(*known, strict=True))
    size_hw = height, width
    return Fit(size_hw, enlarged_hw or size_hw, truth_hw, most)


def describe_cuts(fits: Iterable[Fit]) -> str:
    """What was cut, for the protocol."""
    every = list(fits)
    cuts = [one.cut for one in every if one.cut]
    most = max((one.most for one in every), default=0)
    if not cuts:
        return "no truth cut"
    by = f"{min(cuts)} to {max(cuts)}" if min(cuts) < max(cuts) else f"{cuts[0]}"
    return (
        f"{len(cuts)} of {len(every)} truths cut at the right or at the bottom, by "
        f"{by} pixels, to the size that results share (more than {most} are refused)"
    )
