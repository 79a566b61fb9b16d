"""docs/data.md names only code that exists and has the numbers of the presets."""

from pathlib import Path

import pytest

from gendr_jax.data.degrade import PRESETS, recipe
from tests.helpers.mentions import missing

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()


def pair(name, first, second):
    """`a-b / c-d` of a range in both passes."""
    ranges = (getattr(order, name) for order in (first, second))
    return " / ".join(f"{low:g}-{high:g}" for low, high in ranges)


def row(name):
    """The line of the table that a recipe has to have."""
    r = recipe(name)
    first, second = r.first, r.second
    sizes = (first.blur.sizes, second.blur.sizes, r.sinc_sizes)
    probs = (first.resize_probs, second.resize_probs)
    cells = [
        f"`{name}`",
        pair("resize", first, second),
        " / ".join(" ".join(f"{p:g}" for p in way) for way in probs),
        *(pair(noise, first, second) for noise in ("gaussian", "poisson", "jpeg")),
        pair("sigma", first.blur, second.blur),
        " / ".join(f"{s[0]}-{s[-1]}" for s in sizes),
        f"{second.blur_prob:g}",
        f"{r.second_prob:g}",
        f"{r.sinc_prob:g}",
    ]
    return f"| {' | '.join(cells)} |"


def test_what_is_named_exists():
    assert missing(PAGE) == []
    assert PAGE.count("`gendr_jax/data/") > 10
    for picture in ("images/degraded.jpg",):
        assert f"({picture})" in PAGE
        assert (Path(__file__).resolve().parents[2] / "docs" / picture).is_file()


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "bicubic"])
def test_table_of_presets(name):
    assert row(name) in PAGE, f"docs/data.md lacks the line {row(name)}"
