"""evaluate/page.py: the file itself, and the page in a real browser.

The browser needs Chromium (GENDR_CHROMIUM names it, otherwise it is looked for), and is
left out without it.
"""

import re

import numpy as np
import pytest

from gendr_jax.evaluate import measuring, methods, page, pairing, results
from gendr_jax.evaluate.gallery import Gallery
from gendr_jax.evaluate.pairing import Folders
from gendr_jax.evaluate.set_metrics import Figure, SetFigures
from gendr_jax.metrics.kinds import Metric, OpenedSet, Settings
from gendr_jax.metrics.table import open_metrics
from tests.helpers import browser
from tests.helpers.tiny_pictures import write

EVIL = "</script><b>x"  # a method's name is text, whatever it is
FAR = OpenedSet(Metric("far", "gt", "lower", 3, "-"), "as sets", lambda sr, gt: 0.0)
WHOLE = SetFigures(
    {"bicubic": {"far": Figure(7.5, 3)}, EVIL: {"far": Figure(9.25, 2)}},
    {"bicubic": {"far": Figure(8.0, 2)}, EVIL: {"far": Figure(9.25, 2)}},
)
NAMES = [f"p{i}.png" for i in (1, 2, 10)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(the file, the results): bicubic, and a method that lacks a picture."""
    root = tmp_path_factory.mktemp("report")
    gt = write(root / "gt", NAMES, (256, 224))
    lr = write(root / "lr", NAMES, (64, 56))
    sr = write(root / "sr", NAMES[:2], (256, 224), noise=20)
    some = [(methods.bicubic("bicubic"), None), (methods.Method(EVIL, "sr", {}), sr)]
    pairs = pairing.pair(Folders(gt, lr, partial=True), some)
    metrics = open_metrics(["psnr", "ssim", "residual"], Settings())
    gallery = Gallery()
    figures = measuring.run(pairs, metrics, on_item=gallery.add)
    about = results.About("GT", "LR", None)
    told = (["a <i>problem"], [FAR], WHOLE)
    found = results.collect(about, pairs.methods, metrics, figures, *told)
    path = root / "report.html"
    path.write_text(page.render(found, metrics, gallery, [FAR]), encoding="utf-8")
    return path, found


@pytest.fixture(scope="module")
def tab(report, tmp_path_factory):
    with browser.open_page(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1280, 900)
        opened.goto(report[0])
        yield opened


def column(tab, i):
    """Figures of a column of the pictures, None where there is none."""
    texts = tab.eval(
        "[...document.querySelectorAll('#images tbody tr')]"
        f".map(row => row.cells[{i}].textContent)"
    )
    return [None if text == "–" else float(text) for text in texts]


def names(tab):
    return tab.eval(
        "[...document.querySelectorAll('#images tbody th')].map(e => e.textContent)"
    )


def head(text):
    return (
        "[...document.querySelectorAll('#images thead button')]"
        f".filter(e => e.textContent === {text!r})[0]"
    )


def test_the_file_needs_nothing_else(report):
    text = report[0].read_text(encoding="utf-8")
    assert not any(f"/*{mark}" in text for mark in ("PAGE.", "PICTURES.", "DATA"))
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", text)
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    assert text.count("</script>") == 2  # none comes from a name


def test_only_a_clear_difference_is_marked(report):
    """Without a browser: one line of the script marks, by what results say is best."""
    text = report[0].read_text(encoding="utf-8")
    assert text.count('"best"') == 2  # the data, and the one cell
    assert "!mixed && data.best[metric.name] === method.name" in text
    assert '"best":{"psnr":null,"ssim":null,"residual":null}' in text


def test_it_opens_without_complaint_or_request(tab, report):
    assert tab.eval("document.title") == f"bicubic · {EVIL}"
    assert tab.eval("document.querySelectorAll('b b, main i i').length") == 0
    assert tab.eval("[...document.images].every(e => e.complete && e.naturalWidth > 0)")
    assert tab.eval("document.images.length") >= 2 * 4 + 3 + 3
    assert not tab.complaints
    assert tab.requests == [report[0].resolve().as_uri()]


def test_a_click_sorts_and_another_turns_the_order(tab):
    assert names(tab) == ["p1", "p2", "p10"]  # 10 is more than 2
    tab.click(head("bicubic"))  # the first of them: psnr
    rising = column(tab, 1)
    assert len(rising) == 3 and rising == sorted(rising)
    assert tab.eval(f"{head('bicubic')}.closest('th').ariaSort") == "ascending"
    tab.click(head("bicubic"))
    assert column(tab, 1) == rising[::-1]
    assert tab.eval(f"{head('bicubic')}.closest('th').ariaSort") == "descending"
    assert tab.eval(f"document.activeElement === {head('bicubic')}")
    # What was not measured comes last both ways.
    for _ in range(2):
        tab.click(head(EVIL))
        figures = column(tab, 2)
        assert figures[2] is None and None not in figures[:2]
    tab.click(head("picture"))
    assert names(tab) == ["p1", "p2", "p10"]


def test_figures_are_those_of_the_results(tab, report):
    images = report[1]["methods"]["bicubic"]["images"]
    tab.click(head("picture"))
    if names(tab)[0] != "p1":
        tab.click(head("picture"))
    shown = dict(zip(names(tab), column(tab, 1), strict=True))
    assert shown == {n: round(own["psnr"], 3) for n, own in images.items()}
    common = report[1]["common"]["methods"][EVIL]["ssim"]["mean"]
    cell = "document.querySelectorAll('#means tbody tr')[1].cells[3]"
    assert tab.eval(f"{cell}.firstChild.textContent") == f"{common:.4f}"
    assert "2 pictures" in tab.eval("document.getElementById('which').textContent")


def texts(tab, table):
    """The rows of a table, a list of the texts of cells each."""
    return tab.eval(
        f"[...document.querySelectorAll('#{table} tr')]"
        ".map(row => [...row.cells].map(e => e.innerText))"
    )


def test_methods_as_a_whole_are_in_the_summary_alone(tab):
    head, bicubic, evil = texts(tab, "means")
    assert head[-1] == "far ↓"
    assert bicubic[-1] == "8.000\nas a whole" and evil[-1] == "9.250\nas a whole"
    assert not any("far" in cell for cell in texts(tab, "paired")[0])
    assert "far" not in tab.eval("document.getElementById('pictures').textContent")
    assert "as sets" in tab.eval("document.getElementById('protocol').textContent")


def test_means_of_different_pictures_are_marked(tab, report):
    mixed, best = "at('means-mixed')", "document.querySelectorAll('#means .best')"
    assert tab.eval(f"{mixed}.hidden") and tab.eval(f"{best}.length") == 0
    tab.eval("data.best = {psnr: 'bicubic'}; drawMeans('common')")
    assert tab.eval(f"{best}.length") == 1
    assert f"{EVIL} has 2 of them" in tab.eval("at('about').textContent")
    assert not tab.eval("at('paired-mixed').hidden")
    tab.click("document.querySelectorAll('#which button')[1]")
    assert not tab.eval(f"{mixed}.hidden") and tab.eval(f"{best}.length") == 0
    assert "do not compare" in tab.eval(f"{mixed}.textContent")
    assert [row[1] for row in texts(tab, "means")[1:]] == ["3", "2"]
    assert texts(tab, "means")[1][-1] == "7.500\nas a whole"
    tab.click("document.querySelectorAll('#which button')[0]")
    tab.eval("data.best = {}; drawMeans('common')")


def test_nothing_is_marked_where_there_is_no_clear_difference(tab, report):
    assert set(report[1]["best"].values()) == {None}  # of two pictures
    assert tab.eval("document.querySelectorAll('.best').length") == 0
    entry = "data.summary.common.bicubic.psnr"
    tab.eval(f"{entry}.n = 1; drawMeans('common')")
    assert "of 1 pictures" in texts(tab, "means")[1][2]
    tab.eval(f"{entry}.n = 2; drawMeans('common')")


def test_the_baseline_can_be_changed(tab, report):
    cell = "document.querySelector('#paired tbody tr').cells[1].firstChild.textContent"
    (psnr,) = (d for d in report[1]["differences"] if d["metric"] == "psnr")
    assert psnr["n"] == 2 and psnr["a"] == "bicubic"
    assert float(tab.eval(cell)) == round(-psnr["mean"], 3)
    select = "document.getElementById('baseline')"
    tab.eval(f"{select}.selectedIndex = 1; {select}.onchange()")
    assert float(tab.eval(cell)) == round(psnr["mean"], 3)


def test_metrics_and_names_can_be_chosen(tab):
    columns = "document.querySelector('#images tbody tr').cells.length"
    before = tab.eval(columns)
    chip = "[...document.querySelectorAll('#chosen button')].at(-1)"
    tab.click(chip)
    assert tab.eval(columns) == before - 2
    tab.click(chip)
    tab.click("document.getElementById('filter')")
    tab.call("Input.insertText", text="P1")
    assert sorted(names(tab)) == ["p1", "p10"]
    tab.eval("filter.value = ''; filter.oninput({target: filter})")


def test_a_long_table_is_drawn_as_it_is_scrolled(tab):
    count = "document.querySelectorAll('#images tbody tr').length"
    more, box = "at('more')", "at('images').parentElement"
    assert tab.eval(f"{more}.hidden") and tab.eval(count) == 3
    # In one breath: an event of scrolling may come at any time after it.
    tab.eval(f"view.step = 1; {box}.style.maxHeight = '120px'")
    assert tab.eval(f"drawImages(), [{count}, {more}.hidden]") == [1, False]
    assert "3 of 3, the first 1 drawn" in tab.eval(
        "drawImages(), at('count').textContent"
    )
    tab.eval(f"{box}.scrollTop = 1000")
    tab.wait(f"{count} > 1")
    for expected in ("p10", "p1"):
        tab.click(head("picture"))  # from the top again
        assert tab.eval(f"{box}.scrollTop") == 0 and names(tab)[0] == expected
    assert tab.eval(f"drawImages(), {more}.click(), [{count}, {more}.hidden]") == [
        3,
        True,
    ]
    assert names(tab) == ["p1", "p2", "p10"]
    tab.eval(f"view.step = 100; {box}.style.maxHeight = ''; drawImages()")


def test_crops_are_shown_pixel_for_pixel(tab):
    sizes = "[...document.querySelectorAll('figure img')].map(e => e.clientWidth)"
    assert set(tab.eval(sizes)) == {192}
    tab.click("document.querySelectorAll('#zoom button')[1]")
    assert set(tab.eval(sizes)) == {384}
    labels = (
        "[...document.querySelectorAll('.card figcaption b')].map(e => e.textContent)"
    )
    assert tab.eval(labels)[:4] == ["input", "bicubic", EVIL, "truth"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_phones_and_follows_the_theme(tab, report, width, dark):
    tab.size(width, 800, dark=dark, mobile=width < 600)
    tab.goto(report[0])
    assert tab.eval("document.documentElement.scrollWidth") <= width
    colours = tab.eval(
        "(() => { const s = getComputedStyle(document.body);"
        "return [s.backgroundColor, s.color]; })()"
    )
    ground, ink = (
        np.mean([int(n) for n in re.findall(r"\d+", c)[:3]]) for c in colours
    )
    assert (ground < ink) == dark and abs(ground - ink) > 150
    assert not tab.complaints


def test_one_method_alone(tmp_path, tab):
    sr = write(tmp_path / "sr", ["a.png"], (20, 30))
    pairs = pairing.pair(Folders(), [(methods.Method("ours", "sr", {}), sr)])
    metrics = open_metrics(["sharpness"], Settings())
    gallery = Gallery(0)
    figures = measuring.run(pairs, metrics, on_item=gallery.add)
    found = results.collect(results.About(), pairs.methods, metrics, figures, [])
    path = tmp_path / "one.html"
    path.write_text(page.render(found, metrics, gallery), encoding="utf-8")
    tab.goto(path)
    assert tab.eval("document.getElementById('crops')") is None
    assert tab.eval("document.querySelectorAll('#images tbody tr').length") == 1
    assert not tab.complaints


def test_figures_of_wholes_alone(tmp_path, tab):
    sr = write(tmp_path / "sr", ["a.png", "b.png"], (20, 30))
    pairs = pairing.pair(Folders(), [(methods.Method("ours", "sr", {}), sr)])
    whole = SetFigures({"ours": {"far": Figure(7.5, 2)}}, {"ours": {}})
    figures = measuring.run(pairs, [])
    told = ([], [FAR], whole)
    found = results.collect(results.About(), pairs.methods, [], figures, *told)
    path = tmp_path / "whole.html"
    path.write_text(page.render(found, [], Gallery(), [FAR]), encoding="utf-8")
    tab.goto(path)
    assert texts(tab, "means")[1] == ["ours", "2", "7.500\nas a whole"]
    assert names(tab) == ["a", "b"] and not tab.complaints
