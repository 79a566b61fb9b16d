"""Chromium driven over a pipe by its own protocol: no package, no port.

Real clicks and keys, every console message, every request.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SECONDS = 60


def chromium():
    """Its path; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    path = os.environ.get("GENDR_CHROMIUM") or found
    if path is None:
        pytest.skip("no Chromium (set GENDR_CHROMIUM)")
    return path


class Tab:
    """One page.

    Attributes:
        complaints: errors and warnings of the console, exceptions, violations.
        requests: every address that was asked for, but data: ones.
    """

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self._count, self._session = 0, None
        self.complaints, self.requests = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """One command; its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._send(message)
        while True:
            answer = self._receive()
            self._hear(answer)
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _hear(self, event):
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(params["exceptionDetails"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.complaints.append(params["args"])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"])
            case "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith("data:"):
                    self.requests.append(url)

    def size(self, width, height, *, dark=False, mobile=False):
        """The window, and what the page is told of the user's taste."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=mobile, **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def goto(self, path):
        """Open a file and wait until it is complete."""
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def wait(self, condition):
        end = time.monotonic() + SECONDS
        while not self.eval(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def eval(self, expression):
        """The value of some JavaScript."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, expression):
        """With the mouse, on the middle of an element."""
        x, y = self.eval(
            f"(() => {{ const e = {expression};"
            "const middle = {block: 'center', inline: 'center', behavior: 'instant'};"
            "e.scrollIntoView(middle);"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        point = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **point)

    def screenshot(self, path, *, whole=False):
        """A PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_page(folder):
    """A tab of a fresh browser whose profile lives in `folder`."""
    program = chromium()
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    flags = "--headless=new --no-sandbox --disable-gpu --no-first-run"
    command = [program, *flags.split(), f"--user-data-dir={folder}"]
    # The protocol speaks on descriptors 3 and 4; the shell moves ours there.
    wiring = f'exec 3<&{to_read} 4>&{from_write}; exec "$@"'
    browser = subprocess.Popen(
        ["bash", "-c", wiring, "bash", *command, "--remote-debugging-pipe"],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    with os.fdopen(to_write, "wb", 0) as out, os.fdopen(from_read, "rb") as answers:

        def send(message):
            out.write(json.dumps(message).encode() + b"\0")

        def receive():
            text = bytearray()
            while (byte := answers.read(1)) != b"\0":
                assert byte, "the browser has gone"
                text += byte
            return json.loads(text)

        try:
            yield Tab(send, receive)
        finally:
            browser.terminate()
            browser.wait(30)
