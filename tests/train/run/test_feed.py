"""Batches read ahead by a thread: same order, limits, errors, an orderly end."""

import itertools
import multiprocessing
import threading
import time

import jax
import numpy as np
import pytest

from gendr_jax import sharding
from gendr_jax.data import pipeline, sources
from gendr_jax.errors import UsageError
from gendr_jax.train.run import feed as feed_lib
from gendr_jax.train.run.feed import Feed, first_rows

PATIENCE = 20.0


class Source:
    """Batch k is full of k. Batches from `stop` on wait until `gate` is opened."""

    def __init__(self, end=10**6, stop=10**6, error=None, rows=8):
        self.end, self.stop, self.error, self.rows = end, stop, error, rows
        self.gate, self.made, self.closed = threading.Event(), 0, 0

    def __call__(self, start):
        def generate():
            try:
                for k in range(start, self.end):
                    if k >= self.stop:
                        assert self.gate.wait(PATIENCE)
                    self.made += 1
                    yield {"x": np.full((self.rows, 2), k, np.float32)}
                if self.error:
                    raise self.error
            finally:
                self.closed += 1

        return generate()


def until(condition):
    """Wait for another thread; fails after a time that no machine needs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.001)


@pytest.fixture
def mesh():
    return sharding.make_mesh("data=2,fsdp=4")


def numbers(feed, count):
    return [int(np.asarray(feed.next()["x"])[0, 0]) for _ in range(count)]


def threads():
    return [t for t in threading.enumerate() if t.name == "feed"]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_order_is_that_of_the_source(mesh, ahead):
    feed = Feed(Source(), 7, mesh, ahead=ahead)
    batch = feed.next()["x"]
    assert batch.shape == (8, 2) and batch.sharding == sharding.batch_sharding(mesh)
    assert numbers(feed, 20) == list(range(8, 28))
    feed.close()


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_so_many_batches_wait_and_no_more(mesh, ahead):
    """While a step is slow, the next batches come; the source then rests."""
    source = Source()
    feed = Feed(source, 0, mesh, ahead=ahead)
    for taken in range(3):
        until(lambda k=taken: source.made == k + ahead)
        time.sleep(0.05)
        assert source.made == taken + ahead
        feed.next()
    feed.close()


def test_a_slow_step_does_not_wait(mesh):
    """Two batches are handed out while the source stands still behind them."""
    source = Source(stop=2)
    feed = Feed(source, 0, mesh)
    until(lambda: feed._ready.qsize() == 2)
    assert numbers(feed, 2) == [0, 1]
    assert feed.waited < PATIENCE / 10  # did not have to wait for the gate
    source.gate.set()
    assert numbers(feed, 1) == [2]
    feed.close()


def test_a_slow_source_is_waited_for(mesh):
    source = Source(stop=0)
    feed = Feed(source, 0, mesh)
    timer = threading.Timer(0.3, source.gate.set)
    begun = time.perf_counter()
    timer.start()
    assert numbers(feed, 1) == [0]
    assert 0.2 < feed.waited <= time.perf_counter() - begun
    feed.close()


def test_an_error_comes_after_the_batches_before_it(mesh):
    source = Source(end=3, error=RuntimeError("worker died"))
    feed = Feed(source, 0, mesh)
    assert numbers(feed, 3) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="worker died"):
            feed.next()
    feed.close()
    assert source.closed == 1 and not threads()


def test_data_that_end_are_an_error(mesh):
    feed = Feed(Source(end=2), 0, mesh)
    assert numbers(feed, 2) == [0, 1]
    with pytest.raises(UsageError, match="the data ended before the last step"):
        feed.next()
    feed.close()


def test_a_batch_that_does_not_divide_is_an_error_in_the_step(mesh):
    feed = Feed(Source(rows=6), 0, mesh)
    with pytest.raises(UsageError, match="batch of 6 .* does not divide over 8"):
        feed.next()
    feed.close()
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_ends_the_thread_and_the_source(mesh, taken):
    source = Source()
    feed = Feed(source, 0, mesh)
    numbers(feed, taken)
    feed.close()
    assert source.closed == 1 and not threads()
    feed.close()
    assert source.closed == 1


def test_closing_waits_for_a_read_under_way(mesh):
    source = Source(stop=1)
    feed = Feed(source, 0, mesh)
    numbers(feed, 1)
    threading.Timer(0.1, source.gate.set).start()
    feed.close()
    assert source.closed == 1 and not threads()


def test_a_read_that_hangs_does_not_hold_the_end(mesh, monkeypatch, caplog):
    monkeypatch.setattr(feed_lib, "CLOSE_SECONDS", 0.05)
    source = Source(stop=0)
    feed = Feed(source, 0, mesh)
    feed.close()
    assert "hung" in caplog.text and threads()[0].daemon
    source.gate.set()
    until(lambda: not threads())
    assert source.closed == 1


def test_worker_processes_start_and_end_in_the_thread(mesh):
    pictures = [np.full((12, 12, 3), k, np.uint8) for k in range(9)]

    def batches(start, workers=2):
        return pipeline.batches(
            sources.arrays(pictures),
            batch_size=8,
            crop=8,
            seed=0,
            start=start,
            workers=workers,
        )

    feed = Feed(batches, 3, mesh)
    for want in itertools.islice(batches(3, workers=0), 4):
        batch = feed.next()
        for name in want:
            np.testing.assert_array_equal(np.asarray(batch[name]), want[name])
    assert len(multiprocessing.active_children()) >= 2
    feed.close()
    until(lambda: not multiprocessing.active_children())
    assert not threads()


def test_iterators_without_close_do(mesh):
    rows = np.zeros((8, 2), np.float32)
    feed = Feed(lambda start: iter([{"x": rows}] * 9), 0, mesh)
    assert numbers(feed, 2) == [0, 0]
    feed.close()
    assert not threads()


def test_first_rows_are_of_the_very_first_batch(mesh):
    source = Source(rows=16)
    rows = first_rows(source, mesh, 3)["x"]
    assert rows.shape == (8, 2) and not jax.device_get(rows).any()
    assert source.closed == 1 and source.made == 1
