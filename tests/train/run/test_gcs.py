"""A run in an object store: real clients (gcsfs, TensorStore), a server in memory.

What this cannot show: rights, quotas, the speed and the failures of the real service.
"""

import json

import pytest
from etils.epath import backend

from gendr_jax.checkpoints import manager
from tests.helpers.fake_gcs import running
from tests.helpers.linear_run import Batches, train

pytest.importorskip("gcsfs")
pytestmark = pytest.mark.filterwarnings("ignore")
RUN = "gs://bucket/run"


@pytest.fixture
def store(monkeypatch):
    with running() as server:
        for name, value in {
            "STORAGE_EMULATOR_HOST": server.url,
            "TENSORSTORE_GCS_HTTP_URL": server.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }.items():
            monkeypatch.setenv(name, value)
        forget()
        yield server
        forget()


def forget():
    """Know as little of the store as a new process does: gcsfs remembers listings."""
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


def content(store, name):
    return store.objects[f"run/{name}"][0]


def test_train_resume_and_walk_back(store, tmp_path):
    whole = train(tmp_path / "whole", steps=6, checkpoint_every=2)
    first = train(RUN, steps=4, checkpoint_every=2, samples_every=4)
    assert (first.step, first.reason) == (4, "done")
    names = {name.removeprefix("run/") for name in store.objects}
    assert {"run.json", "metrics.jsonl", "weights/w.npy"} <= names
    assert "samples/step_000004.png" in names
    assert any(name.startswith("tb/") for name in names)
    assert json.loads(content(store, "run.json"))["stopped"] == "done"
    assert store.written[-1] == "run/run.json"
    # Nothing is renamed: a step counts once its commit file is there, the last of all.
    assert not any("tmp" in name for name in store.objects)
    for step in (2, 4):
        inside = [n for n in store.written if n.startswith(f"run/checkpoints/{step}/")]
        assert inside[-1].endswith("commit_success.txt")

    batches = Batches()
    rest = train(RUN, batches=batches, steps=6, checkpoint_every=2)
    assert rest.step == 6 and batches.opened == [4]
    record = json.loads(content(store, "run.json"))
    assert [s["stopped"] for s in record["starts"]] == ["done", "done"]
    lines = content(store, "metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    a, b = manager.describe(tmp_path / "whole"), manager.describe(RUN)
    assert a["fingerprint"] == b["fingerprint"] and b["step"] == whole.step

    # A step whose commit file is missing does not exist; a damaged one is set aside.
    del store.objects["run/checkpoints/6/commit_success.txt"]
    folder = "run/checkpoints/4/state/"
    largest = max(
        (n for n in store.objects if n.startswith(folder) and "/d/" in n),
        key=lambda n: len(store.objects[n][0]),
    )
    whole_file, generation = store.objects[largest]
    store.objects[largest] = (whole_file[: len(whole_file) // 2], generation)
    forget()
    again = train(RUN, steps=6, checkpoint_every=2)
    assert again.step == 6
    assert json.loads(content(store, "run.json"))["resumed_from"] == 2
    assert any(n.startswith("run/checkpoints/4.damaged-0/") for n in store.objects)
    assert manager.describe(RUN)["fingerprint"] == a["fingerprint"]
