"""gendr demo: the engine behind the page, and the page in a real browser.

The browser needs Gradio, Playwright and Chromium (GENDR_CHROMIUM names it, otherwise it
is looked for), and is left out without them.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.cli import main as main_lib
from gendr_jax.demo import engine as engine_lib
from gendr_jax.demo.engine import Engine
from gendr_jax.errors import InputError
from gendr_jax.image_io import resize
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.weights import folder
from tests.helpers.tiny_restorer import weights

ROOT = Path(__file__).resolve().parents[2]
PORT, WEIGHTS = 7893, weights()


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A blue to red ramp of 48 x 32."""
    y, x = np.mgrid[0:32, 0:48] / 48
    pixels = (255 * np.dstack([x, y, 1 - x])).astype(np.uint8)
    path = tmp_path_factory.mktemp("photograph") / "ramp.png"
    Pil.fromarray(pixels).save(path)
    return path


# ---- the engine


def test_an_engine_shows_before_and_after_and_gives_the_file(photograph):
    opened, heard = [], []

    def open_restorer(tile):
        opened.append(tile)
        return Restorer(WEIGHTS, dtype="float32", tile=tile)

    engine = Engine(open_restorer)
    options = {"scale": 2, "tile": "auto", "strength": 1.0}
    progress = {"progress": lambda part, text: heard.append(part)}
    result = engine.run(photograph, **options, **progress)
    assert result.file.name == "ramp_x2.png" and "96 x 64" in result.text
    restored = image_io.read(result.file).pixels_hwc
    small = image_io.read(photograph).pixels_hwc.astype(np.float32) / 255
    plain = np.clip(resize.bicubic(small, (64, 96)), 0, 1) * 255
    before = image_io.read(result.before).pixels_hwc
    np.testing.assert_allclose(before, plain, atol=0.51)
    np.testing.assert_array_equal(image_io.read(result.after).pixels_hwc, restored)
    assert heard == sorted(heard) and heard[-1] == 0.9
    # Strength 0 is the plain enlargement; no other restorer is needed for it.
    none = engine.run(photograph, **{**options, "strength": 0.0})
    np.testing.assert_allclose(image_io.read(none.file).pixels_hwc, plain, atol=0.51)
    assert opened == ["auto"]
    with pytest.raises(InputError, match="does not exist"):
        engine.run(photograph.with_name("absent.png"), **options)
    assert photograph.exists() and engine.folder in result.file.parents


def test_an_engine_keeps_few_results_and_none_in_the_end(photograph, monkeypatch):
    monkeypatch.setattr(engine_lib, "KEPT", 2)
    with Engine(lambda tile: Restorer(WEIGHTS, dtype="float32", tile=tile)) as engine:
        files = [
            engine.run(photograph, scale=1, tile="auto", strength=1.0).file
            for _ in range(3)
        ]
        assert [file.exists() for file in files] == [False, True, True]
    assert not engine.folder.exists()


def test_another_tile_opens_no_other_restorer(photograph):
    opened = []

    def open_restorer(tile):
        opened.append(tile)
        return Restorer(WEIGHTS, dtype="float32", tile=tile)

    with Engine(open_restorer) as engine:
        first, second = engine.open("auto"), engine.open(128)
        assert opened == ["auto"]
        assert second.spec.tiling == "128" and first.spec.tiling == "auto"
        assert engine.open(128) is second


def test_an_engine_keeps_few_of_the_files_that_are_dropped(photograph, monkeypatch):
    monkeypatch.setattr(engine_lib, "DROPPED_KEPT", 2)
    with Engine(lambda tile: Restorer(WEIGHTS, dtype="float32", tile=tile)) as engine:
        dropped = engine.folder / engine_lib.DROPPED
        for i in range(4):
            (dropped / str(i)).mkdir(parents=True)
            shutil.copy(photograph, dropped / str(i) / "a.png")
            os.utime(dropped / str(i) / "a.png", (i, i))
        options = {"scale": 1, "tile": "auto", "strength": 1.0}
        engine.run(dropped / "0" / "a.png", **options)
        left = [i for i in range(4) if (dropped / str(i) / "a.png").exists()]
        assert left == [0, 2, 3]  # the one in use stays


def test_no_place_of_the_server_is_told(photograph):
    with Engine(None) as engine:
        inside = f"{engine.folder}/x1/ramp.png: No space left on device"
        text = engine.public(f"{inside}. {photograph} is damaged", photograph)
        assert text == "ramp.png: No space left on device. ramp.png is damaged"
        other = engine.public("[Errno 13] Permission denied: '/srv/app/x y.png'", "a")
        assert other == "[Errno 13] Permission denied: 'x y.png'"


def test_an_engine_refuses_what_it_could_not_hold(photograph, monkeypatch):
    monkeypatch.setattr(engine_lib, "LARGEST", 48 * 32)
    engine = Engine(None)  # not even opened
    with pytest.raises(InputError, match="would have 96x64 pixels"):
        engine.run(photograph, scale=2, tile="auto", strength=1.0)


def test_the_page_says_what_it_needs(capsys):
    assert main_lib.main(["demo", "--weights", ""]) == 2
    assert "--weights is empty" in capsys.readouterr().err
    assert main_lib.main(["demo", "--weights", "absent"]) == 2
    assert "no weights folder absent" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags, message in (
            (["--port", "99999"], "--port is 99999, it goes from 1 to 65535"),
            (["--port", port], f"127.0.0.1:{port} cannot be had"),
            (["--host", "no such host"], "no such host:7860 cannot be had"),
        ):
            assert main_lib.main(["demo", "--weights", "absent", *flags]) == 2
            (error,) = capsys.readouterr().err.splitlines()
            assert message in error


# ---- the page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A served page and a browser that reaches nothing else: (page, asked for)."""
    pytest.importorskip("gradio", reason="no Gradio: pip install gendr_jax[demo]")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    found = (shutil.which(name) for name in ("chromium", "google-chrome"))
    chromium = os.environ.get("GENDR_CHROMIUM") or next(filter(None, found), None)
    if chromium is None:
        pytest.skip("no Chromium (set GENDR_CHROMIUM)")
    base, w = tmp_path_factory.mktemp("demo"), WEIGHTS
    nets = {n: (w.configs[n], w.params[n]) for n in ("unet", "vae")}
    options = {"prediction": w.prediction, "t_star": w.t_star}
    folder.save(base / "w", kind="restorer", prompt=w.prompt, **nets, **options)
    command = ["-m", "gendr_jax.cli.main", "demo", "--weights", str(base / "w")]
    (base / "tmp").mkdir()
    server = subprocess.Popen(
        [sys.executable, *command, "--port", str(PORT)],
        cwd=ROOT,
        env={
            **os.environ,
            "GENDR_CACHE": "1",
            "GENDR_CACHE_DIR": str(base / "cache"),
            "TMPDIR": str(base / "tmp"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = f"http://127.0.0.1:{PORT}"
    try:
        _wait_for(address, server)
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"]
            )
            tab, outside = browser.new_page(), []

            def route(way):
                url = way.request.url
                if url.startswith((address, "data:", "blob:")):
                    way.continue_()
                else:
                    outside.append(url)
                    way.abort()

            tab.route("**/*", route)
            tab.set_default_timeout(120_000)
            tab.goto(address)
            tab.wait_for_selector("#restore")
            yield tab, outside
            browser.close()
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=30)
    # Neither photographs nor results stay, and no error was more than a message.
    assert not os.listdir(base / "tmp") and "Traceback" not in errors


def _wait_for(address, server):
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no page: {server.stderr.read() if server.poll() is not None else ''}")


@pytest.mark.slow
def test_drop_wait_slide_download(page, photograph, tmp_path):
    tab, outside = page
    assert tab.is_disabled("#restore")
    tab.set_input_files("#photograph input[type=file]", photograph)
    tab.wait_for_selector("#photograph >> text=ramp")
    tab.click("#restore")
    tab.wait_for_selector("#said >> text=48 x 32 to 192 x 128 pixels")
    tab.wait_for_function(
        "[...document.querySelectorAll('#slider img')].filter("
        "image => image.naturalWidth == 192 && image.clientHeight > 50).length == 2"
    )
    # The second picture is cut where the line is; it follows the mouse.
    over = "#slider img >> nth=1"
    box = tab.locator(over).bounding_box()
    before = tab.locator(over).get_attribute("style")
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 4, middle, steps=5)
    tab.mouse.up()
    tab.wait_for_function(
        "before => document.querySelectorAll('#slider img')[1]"
        ".getAttribute('style') != before",
        arg=before,
    )
    if screenshot := os.environ.get("GENDR_SCREENSHOT"):
        tab.screenshot(path=screenshot)
    with tab.expect_download() as told:
        tab.click("#download")
    told.value.save_as(tmp_path / "got.png")
    assert told.value.suggested_filename == "ramp_x4.png"
    assert image_io.read(tmp_path / "got.png").pixels_hwc.shape == (128, 192, 3)
    # Another photograph: the old result is not taken for its own.
    tab.click("#photograph button[aria-label=Clear]")
    tab.wait_for_function("!document.querySelector('#slider img')")
    assert tab.is_disabled("#restore") and not tab.inner_text("#said").strip()
    assert not outside


@pytest.mark.slow
def test_a_bad_file_is_told_on_the_page(page, tmp_path):
    tab, outside = page
    (tmp_path / "text.png").write_text("hello")
    tab.reload()
    tab.set_input_files("#photograph input[type=file]", tmp_path / "text.png")
    tab.wait_for_selector("#photograph >> text=text")
    tab.click("#restore")
    told = tab.wait_for_selector("text=is not a supported image file").inner_text()
    assert told.startswith("text.png is not")  # without the folder it was put into
    assert not outside
