"""launch/gke-jobset.yaml: its form, its policies, its sizes and its command."""

import math
import re

import pytest

from tests.helpers.launch_runs import LAUNCH, accept


@pytest.fixture
def jobset():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((LAUNCH / "gke-jobset.yaml").read_text())


def test_jobset_has_the_form_of_one(jobset):
    assert jobset.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", jobset["metadata"]["name"])
    assert jobset["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    (group,) = jobset["spec"]["replicatedJobs"]
    assert group.keys() == {"name", "replicas", "template"}
    assert type(group["replicas"]) is int and group["replicas"] >= 1


def test_jobset_starts_again_but_after_a_usage_error(jobset):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy works with no other
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = pod["containers"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": container["name"],
            "operator": "In",
            "values": [2],
        },
    }


def test_jobset_takes_every_chip_of_the_slice(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    where = pod["nodeSelector"]
    dimensions = where["cloud.google.com/gke-tpu-topology"].split("x")
    known = {"tpu-v5-lite-podslice": 2, "tpu-v5p-slice": 3, "tpu-v6e-slice": 2}
    assert len(dimensions) == known[where["cloud.google.com/gke-tpu-accelerator"]]
    (container,) = pod["containers"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"] == {"google.com/tpu": 4}
    hosts = math.prod(map(int, dimensions)) // 4
    assert job["parallelism"] == job["completions"] == hosts
    assert job["completionMode"] == "Indexed"


def test_jobset_hosts_in_its_comment():
    text = (LAUNCH / "gke-jobset.yaml").read_text()
    pairs = re.findall(r"([0-9]+(?:x[0-9]+)+): ([0-9]+) hosts", text)
    assert len(pairs) == 8
    for topology, hosts in pairs:
        assert math.prod(map(int, topology.split("x"))) // 4 == int(hosts), topology


def test_jobset_stops_softly_and_mounts_what_it_reads(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert job["template"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    attributes = volume["csi"]["volumeAttributes"]
    assert all(isinstance(value, str) for value in attributes.values())
    paths = [a for a in container["args"] if "=/" in a]
    assert len(paths) == 5
    assert all(f"={mount['mountPath']}/" in a for a in paths)


def test_jobset_command(jobset, monkeypatch):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["launch/train.sh"]
    chips = job["parallelism"] * 4
    values, _ = accept(container["args"], monkeypatch, chips=chips)
    assert values.workdir.startswith("gs://")
