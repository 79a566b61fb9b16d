"""The loop on a small linear model, for tests of what surrounds a step."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gendr_jax import sharding
from gendr_jax.train.run.feed import Feed
from gendr_jax.train.run.loop import RunSettings, run
from gendr_jax.train.stage import Stage

TX = optax.adam(1e-2)
WIDTH = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict[str, jax.Array]
    opt: Any
    ema: dict[str, jax.Array]


def init(key, start):
    params = {"w": jax.random.normal(key, (WIDTH, WIDTH)) + start["w"]}
    ema = jax.tree.map(jnp.copy, params)
    return State(jnp.int32(0), params, TX.init(params), ema)


def step(state, frozen, batch, key, poison=()):
    """Noisy regression; the loss is NaN at the steps in `poison`."""
    key = jax.random.fold_in(key, state.step)

    def loss_fn(params):
        noise = jax.random.normal(key, batch["x"].shape)
        error = (batch["x"] + noise) @ params["w"] - batch["x"] @ frozen["teacher"]
        bad = jnp.isin(state.step + 1, jnp.asarray(poison, jnp.int32))
        return jnp.mean(jnp.square(error)) * jnp.where(bad, jnp.nan, 1.0)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt = TX.update(grads, state.opt)
    params = optax.apply_updates(state.params, updates)
    ema = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, state.ema, params)
    ok = jnp.isfinite(loss)
    new = jax.tree.map(
        lambda n, o: jnp.where(ok, n, o),
        (params, opt, ema),
        (state.params, state.opt, state.ema),
    )
    metrics = {"loss": loss, "skipped_student": 1.0 - ok.astype(jnp.float32)}
    return State(state.step + 1, *new), metrics


def sample(state, frozen, batch, key):
    image = jnp.broadcast_to(
        batch["x"].reshape(-1, 8, 8, 1), (len(batch["x"]), 8, 8, 3)
    )
    return {"zebra": jax.nn.sigmoid(image), "ant": image * 0 + 0.5}


def export(state, frozen, folder):
    folder.mkdir(exist_ok=True)
    np.save(folder / "w.npy", np.asarray(state.ema["w"]))


def stage(**changes):
    frozen = {"teacher": np.eye(WIDTH, dtype=np.float32)}
    begin = {"w": np.full((WIDTH, WIDTH), 0.5, np.float32)}
    whole = Stage(init, step, frozen, sample, export, begin)
    return dataclasses.replace(whole, **changes)


class Batches:
    """Batch k depends on k alone; remembers what was opened and closed."""

    def __init__(self, size=16, end=10**9, at=None):
        self.size, self.end, self.at = size, end, at or {}
        self.opened, self.closed = [], 0

    def __call__(self, start):
        self.opened.append(start)

        def generate():
            try:
                for k in range(start, self.end):
                    self.at.get(k, lambda: None)()
                    rng = np.random.default_rng(k)
                    x = rng.normal(size=(self.size, WIDTH))
                    yield {"x": x.astype(np.float32)}
            finally:
                self.closed += 1

        return generate()


def waiting(at):
    """A Feed that does at[k]() in the loop's own thread before it hands out batch k."""

    class Waiting(Feed):
        def __init__(self, batches, start, mesh):
            super().__init__(batches, start, mesh)
            self.count = start

        def next(self):
            at.get(self.count, lambda: None)()
            self.count += 1
            return super().next()

    return Waiting


def settings(**changes):
    values = {"steps": 6, "log_every": 1, "checkpoint_every": 0, **changes}
    return RunSettings(batch_size=16, **values)


def train(workdir, spec="data=2,fsdp=4", batches=None, of=None, **changes):
    return run(
        of or stage(),
        batches or Batches(),
        settings(**changes),
        mesh=sharding.make_mesh(spec),
        workdir=workdir,
        progress=False,
    )


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def run_file(workdir):
    return json.loads((workdir / "run.json").read_text())


def losses(workdir):
    return {line["step"]: line["loss"] for line in lines(workdir)}


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)
