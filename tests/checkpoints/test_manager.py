"""Checkpoints: exact on any mesh, damage is found, the newest good one is used."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gendr_jax import sharding
from gendr_jax.checkpoints import manager as checkpoints
from gendr_jax.checkpoints.manifest import digests, fingerprint
from gendr_jax.errors import InputError, UsageError

# Orbax leaves a coroutine behind where a file that it needs is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:.*was never awaited:RuntimeWarning",
)

CLOCK = {"seed": 7, "data_index": 3}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    key: jax.Array
    student: dict[str, Any]
    opt: Any
    ema: dict[str, Any]


def make_state(seed=0, width=128):
    key = jax.random.key(seed)
    params = {
        "conv": {"0": {"kernel": jax.random.normal(key, (3, 3, 8, width))}},
        "bias": jnp.arange(width, dtype=jnp.float32),
        "half": jax.random.normal(key, (width, 2 * width), jnp.bfloat16),
    }
    return State(
        jnp.int32(3),
        key,
        params,
        optax.adamw(1e-3).init(params),
        jax.tree.map(lambda x: x * 2, params),
    )


def abstract(state, mesh):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(lambda: state),
        sharding.tree_shardings(state, mesh, min_size=64),
    )


def place(state, spec, devices=None):
    mesh = sharding.make_mesh(spec, devices)
    target = abstract(state, mesh)
    placed = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, target)
    return placed, target


def save(folder, *steps, spec="data=2,fsdp=4", meta=None):
    with_state = {}
    manager = checkpoints.Manager(folder, keep=9)
    for step in steps:
        state = dataclasses.replace(make_state(step), step=jnp.int32(step))
        placed, _ = place(state, spec)
        manager.save(step, placed, clock=CLOCK, meta=meta or {})
        with_state[step] = state
    manager.close()
    return with_state


def restore(folder, like, spec="data=8", **kwargs):
    _, target = place(like, spec)
    manager = checkpoints.Manager(folder, keep=9)
    try:
        return manager.restore(target, **kwargs)
    finally:
        manager.close()


def assert_same(a, b):
    def same(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

    jax.tree.map(same, a, b)


def data_files(step_folder):
    files = [p for p in (step_folder / "state").rglob("d/*") if p.is_file()]
    return sorted(files, key=lambda p: p.stat().st_size)


def flip_byte(step_folder):
    """In the middle of the largest data file; Orbax itself does not notice."""
    file = data_files(step_folder)[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_hundreds_of_sharded_arrays_are_hashed():
    """All at once, their programs would wait for each other's devices on a CPU."""
    mesh = sharding.make_mesh("data=2,fsdp=4", jax.devices())
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    array = jax.device_put(np.ones((64, 128), np.float32), rows)
    hashes = digests({f"a{i:03}": array for i in range(400)})
    assert len(hashes) == 400 and len(set(hashes.values())) == 1


def test_fingerprint_is_the_same_on_every_mesh():
    state = make_state()
    want = fingerprint(state)
    for spec in ("data=8", "data=2,fsdp=4", "fsdp=8"):
        assert fingerprint(place(state, spec)[0]) == want
    assert fingerprint(place(state, "", jax.devices()[:1])[0]) == want


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "int8"]
)
def test_every_single_bit_shows(dtype):
    raw = np.zeros((5, 28), np.uint8)

    def digest(bytes_hw):
        return digests({"x": jnp.asarray(bytes_hw.view(jnp.dtype(dtype)))})["x"][0]

    seen = {digest(raw)}
    for byte in (0, 1, 17, raw.size - 1):
        for bit in range(8):
            changed = raw.copy()
            changed.flat[byte] ^= 1 << bit
            seen.add(digest(changed))
    assert len(seen) == 1 + 4 * 8


def test_booleans_have_a_digest():
    x = np.zeros(9, bool)
    assert digests({"x": x})["x"] != digests({"x": ~x})["x"]


def test_order_shape_and_name_show():
    x = jnp.arange(6.0)
    prints = {
        fingerprint({"x": x}),
        fingerprint({"x": x[::-1]}),
        fingerprint({"x": x.reshape(2, 3)}),
        fingerprint({"y": x}),
        fingerprint({"x": x.astype(jnp.int32)}),
    }
    assert len(prints) == 5


def test_values_that_are_not_finite_are_counted():
    x = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf])
    assert digests({"x": x, "i": jnp.arange(3)})["x"][1] == 3
    assert digests({"i": jnp.arange(3)})["i"][1] == 0


@pytest.mark.parametrize("spec", ["data=8", "data=4,fsdp=2", "fsdp=8"])
def test_restores_onto_another_mesh_exactly(tmp_path, spec):
    saved = save(tmp_path, 3)[3]
    step, state = restore(tmp_path, saved, spec)
    assert step == 3
    assert_same(saved, state)
    assert isinstance(state, State)
    wanted = place(saved, spec)[1]
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_restores_onto_one_device(tmp_path):
    saved = save(tmp_path, 3)[3]
    _, target = place(saved, "", jax.devices()[:1])
    manager = checkpoints.Manager(tmp_path)
    step, state = manager.restore(target)
    manager.close()
    assert step == 3
    assert_same(saved, state)


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """Training goes on in the same buffers while the save is being written."""
    state, _ = place(make_state(), "data=2,fsdp=4")
    before = jax.device_get(jax.tree.map(jnp.copy, state.student))
    manager = checkpoints.Manager(tmp_path)
    manager.save(1, state, clock=CLOCK, meta={})
    grow = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    student = state.student
    for _ in range(5):
        student = grow(student)
    manager.close()
    _, restored = restore(tmp_path, make_state())
    assert_same(before, restored.student)


def test_nothing_saved_is_none_and_only_the_newest_are_kept(tmp_path):
    assert restore(tmp_path, make_state()) is None
    manager = checkpoints.Manager(tmp_path, keep=2)
    for step in (1, 2, 5):
        manager.save(step, {"x": jnp.ones(3)}, clock=CLOCK, meta={})
    manager.save(5, {"x": jnp.zeros(3)}, clock=CLOCK, meta={})  # there already
    manager.wait()
    assert manager.steps == [2, 5]
    target = jax.eval_shape(lambda: {"x": jnp.ones(3)})
    assert float(manager.restore(target)[1]["x"][0]) == 1.0
    manager.close()


def test_a_state_that_is_not_finite_is_not_written(tmp_path):
    manager = checkpoints.Manager(tmp_path)
    state = {"a": {"x": jnp.ones(3)}, "b": jnp.array([jnp.nan])}
    with pytest.raises(FloatingPointError, match="not finite: b$"):
        manager.save(1, state, clock=CLOCK, meta={})
    manager.close()
    assert manager.steps == []


def cut(folder):
    file = data_files(folder)[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def change_manifest(folder):
    path = folder / "_CHECKPOINT_METADATA"
    content = json.loads(path.read_text())
    content["custom_metadata"]["clock"]["data_index"] += 1
    path.write_text(json.dumps(content))


DAMAGE = {
    "flipped byte": flip_byte,
    "file cut in half": cut,
    "file gone": lambda folder: data_files(folder)[-1].unlink(),
    "arrays gone": lambda folder: shutil.rmtree(folder / "state"),
    "metadata gone": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
    "metadata cut": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text("{"),
    "manifest changed": change_manifest,
    "empty folder": empty,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_walks_back_over_a_damaged_checkpoint(tmp_path, name):
    folder = tmp_path / checkpoints.FOLDER
    saved = save(folder, 3, 6)
    DAMAGE[name](folder / "6")
    assert checkpoints.describe(tmp_path)["step"] == 3
    with pytest.warns(UserWarning, match="checkpoint 6 is damaged"):
        step, state = restore(folder, saved[3])
    assert step == 3
    assert_same(saved[3], state)
    assert (folder / "6.damaged-0").is_dir() and not (folder / "6").exists()
    # The number is free again.
    assert save(folder, 6) and restore(folder, saved[3])[0] == 6


def test_all_damaged_is_an_error_and_never_a_fresh_start(tmp_path):
    folder = tmp_path / checkpoints.FOLDER
    saved = save(folder, 3, 6)
    flip_byte(folder / "3")
    cut(folder / "6")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(UsageError, match="every checkpoint under .* is damaged"),
    ):
        restore(folder, saved[3])
    assert (folder / "3").is_dir() and (folder / "6").is_dir()
    with pytest.raises(InputError, match="no good checkpoint"):
        checkpoints.describe(tmp_path)


def test_another_tree_is_refused_with_the_difference(tmp_path):
    saved = save(tmp_path, 3)[3]
    student = {
        "conv": {"0": {"kernel": jnp.zeros((3, 3, 8, 64))}},
        "half": saved.student["half"].astype(jnp.float32),
        "extra": jnp.zeros(2),
    }
    with pytest.raises(UsageError) as caught:
        restore(tmp_path, dataclasses.replace(saved, student=student))
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "missing student/extra",
        "unexpected student/bias",
        "student/conv/0/kernel is float32[3, 3, 8, 128], now float32[3, 3, 8, 64]",
        "student/half is bfloat16[128, 256], now float32[128, 256]",
    ):
        assert part in message, part
    assert restore(tmp_path, saved)[0] == 3


def test_accept_sees_the_meta_and_can_refuse(tmp_path):
    saved = save(tmp_path, 3, meta={"config": {"steps": 5}})[3]
    seen = []
    assert restore(tmp_path, saved, accept=seen.append)[0] == 3
    assert seen == [{"config": {"steps": 5}}]

    def refuse(meta):
        raise UsageError("no")

    with pytest.raises(UsageError, match="^no$"):
        restore(tmp_path, saved, accept=refuse)


def test_describe(tmp_path):
    config = {"kind": "cid"}
    saved = save(tmp_path / "a" / checkpoints.FOLDER, 3, 6, meta={"config": config})
    found = checkpoints.describe(tmp_path / "a")
    sizes = {"arrays": 3, "elements": 3 * 3 * 8 * 128 + 128 + 128 * 256}
    assert found["step"] == 6 and found["config"] == config
    assert found["roles"]["student"] == found["roles"]["ema"] == sizes
    assert found["roles"]["opt"]["arrays"] == 7
    assert set(found["roles"]) == {"student", "opt", "ema"}
    assert found["dtypes"] == ["bfloat16", "float32", "int32", "key<fry>"]
    assert found["damaged"] == {}
    # Equal content on another mesh, and from another folder.
    save(tmp_path / "b" / checkpoints.FOLDER, 6, spec="fsdp=8", meta={"config": {}})
    assert checkpoints.describe(tmp_path / "b")["fingerprint"] == found["fingerprint"]
    flip_byte(tmp_path / "a" / checkpoints.FOLDER / "6")
    older = checkpoints.describe(tmp_path / "a")
    assert older["step"] == 3 and 6 in older["damaged"]
    assert older["fingerprint"] != found["fingerprint"]
    assert checkpoints.describe(tmp_path / "a", verify=False)["step"] == 6
    assert saved.keys() == {3, 6}


def test_describe_wants_a_workdir(tmp_path):
    with pytest.raises(InputError, match="has no checkpoints"):
        checkpoints.describe(Path(tmp_path))


def test_describe_on_one_device_what_eight_have_saved(tmp_path):
    save(tmp_path / checkpoints.FOLDER, 3, spec="fsdp=8")
    here = checkpoints.describe(tmp_path)["fingerprint"]
    code = (
        "import sys, jax\n"
        "from gendr_jax.checkpoints import manager as checkpoints\n"
        "assert jax.device_count() == 1\n"
        "print(checkpoints.describe(sys.argv[1])['fingerprint'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == here, run.stderr
