"""N + N steps are 2 N, bit for bit, in the real steps of all three stages.

Compared by the fingerprint of `gendr inspect`: every array of every role, both moments
of its Adam, averages, and the position in the data. The networks are toys with the
interface of the real ones; `test_processes.py` and `tools/kill_test.py` run real ones.
"""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from gendr_jax import nets, sharding
from gendr_jax.checkpoints import manager
from gendr_jax.models.heads import PatchDiscriminator
from gendr_jax.train.run import loop
from gendr_jax.train.run.loop import RunSettings, run
from gendr_jax.train.stage import Stage
from gendr_jax.train.stages import base, distill
from gendr_jax.train.stages import vae as vae_steps
from tests.helpers.linear_run import waiting
from tests.helpers.metric_lines import without_times
from tests.helpers.tiny_stages import (
    ToyVAE,
    batch,
    fewer_passes,
    gather_on,
    parts,
    random,
    settings,
)

STAGES = ("vae", "base", "distill")
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Each start compiles the step anew; keep the program between them."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path_factory.mktemp("x")), 0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # jax keeps an open one past its setting


def vae_stage(mesh):
    s = settings("vae", adversarial_start=2)  # the discriminator begins on the way
    vae, disc = (
        nets.build(ToyVAE, s.vae),
        nets.build(PatchDiscriminator, s.discriminator),
    )
    init = vae_steps.make_init(s, vae, disc)
    step = vae_steps.make_step(s, vae, disc, gather_on(mesh), lambda x: x)
    return init, step, {}, {"vae": random(vae, 0)}


def base_stage(mesh):
    s = settings("base")
    declared, frozen = parts(s, mesh)
    begin = {
        "unet": random(declared.unet, 3),
        "projector": random(declared.projector, 4),
    }
    make = base.make_init(s, declared), base.make_step(s, declared)
    return *make, frozen, begin


def distill_stage(mesh):
    s = settings("distill", kind="cida", warmup_steps=1, adversarial_start=2)
    declared, frozen = parts(s, mesh)
    step = distill.Distill(s, declared).step
    begin = {"unet": random(declared.unet, 3)}
    return distill.make_init(s, declared), step, frozen, begin


MAKERS = {"vae": vae_stage, "base": base_stage, "distill": distill_stage}


def batches(start):
    k = start
    while True:
        rows = batch(4, seed=k) | {
            "index": jnp.arange(4 * k, 4 * k + 4, dtype="uint32")
        }
        yield {name: np.asarray(x) for name, x in rows.items()}
        k += 1


def train(stage, workdir, steps, spec="data=1"):
    count = int(np.prod([int(part[-1]) for part in spec.split(",")]))
    mesh = sharding.make_mesh(spec, jax.devices()[:count])
    init, step, frozen, begin = MAKERS[stage](mesh)
    made = Stage(init, step, frozen, lambda *args: {}, lambda *args: None, begin)
    told = RunSettings(steps=steps, batch_size=4, log_every=1, checkpoint_every=0)
    with jax.default_prng_impl("threefry2x32"):
        return run(made, batches, told, mesh=mesh, workdir=workdir, progress=False)


@pytest.mark.parametrize(
    "stage",
    [
        "vae",
        pytest.param("base", marks=pytest.mark.slow),
        pytest.param("distill", marks=pytest.mark.slow),
    ],
)
def test_two_halves_are_one_whole(tmp_path, stage, monkeypatch):
    """The first half ends by SIGTERM, in the middle of a run that was to be longer."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(stage, whole, 6)
    with monkeypatch.context() as patch:
        kill = {2: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        patch.setattr(loop, "Feed", waiting(kill))
        assert train(stage, cut, 6).reason == "sigterm"
    half = manager.describe(cut)
    assert 1 <= half["step"] < 6
    assert train(stage, cut, 6).step == 6
    a, b = manager.describe(whole), manager.describe(cut)
    assert a["fingerprint"] == b["fingerprint"] != half["fingerprint"]
    assert without_times(whole) == without_times(cut) and len(without_times(cut)) == 6


@pytest.mark.slow
def test_on_another_mesh_the_same_within_rounding(tmp_path):
    """Same samples, same random numbers; sums are made in another order."""
    whole = train("distill", tmp_path / "whole", 4)
    train("distill", tmp_path / "cut", 2)
    moved = train("distill", tmp_path / "cut", 4, "data=2,fsdp=2")
    for a, b in zip(*map(jax.tree.leaves, (whole.state, moved.state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    for a, b in zip(
        without_times(tmp_path / "whole"), without_times(tmp_path / "cut"), strict=True
    ):
        for name in (n for n in a if n.startswith("loss")):
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
