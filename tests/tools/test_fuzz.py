"""tools/fuzz.py: what dies or hangs is said, and the next call works."""

import os
import time

from tools.fuzz import Worker


def act(what):
    if what == "die":
        os._exit(1)
    if what == "hang":
        time.sleep(1000)
    if what == "fill":
        try:
            return "full", str(len(bytearray(4 << 30)))
        except MemoryError:
            return "memory", ""
    return "fine", what


def test_it_goes_on_after_the_worst():
    worker = Worker(act, seconds=60, limit=2 << 30)
    assert worker("a") == ("fine", "a")
    assert worker("fill") == ("memory", "")
    assert worker("die") == ("crash", "")
    assert worker("b") == ("fine", "b")
    worker._seconds = 0.5
    assert worker("hang") == ("hang", "")
    worker._seconds = 60
    assert worker("c") == ("fine", "c")
    assert 0 < worker.peak < 2
    worker.close()
