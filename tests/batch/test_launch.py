"""A launched batch, by W&B's own ``wandb launch-agent``: from an item in the queue to the Job that a cluster gets.

Real are the agent, its check of the queue's configuration, its macros, and what it adds to the Job. The servers at both
ends are stand-ins, so three things are not shown: that W&B takes the queue's configuration as it is, how it fills in
``{{…}}`` (done here by hand, within the limits that the variables name), and a cluster that runs the Job.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.batch.conftest import ROOT, SMALL, batch, environment, lines_of, write_rows
from tests.batch.standins import Cluster, Queue, running
from tests.fakes import FakeEngine
from tests.knative.test_manifests import KUBERNETES
from tests.live import serve

LAUNCH = ROOT / "knative/batch/launch"
IMAGE = "registry.example.com/knative-diffusion:0.2.0-cuda-batch"


def variables() -> dict[str, dict[str, Any]]:
    """The schemas of the queue's template variables."""
    found = json.loads((LAUNCH / "template-variables.json").read_text())
    return {name: variable["schema"] for name, variable in found.items()}


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """The queue's configuration with its variables filled in."""
    text = (LAUNCH / "queue.json").read_text()
    found = json.loads(re.sub(r"\{\{(\w+)\}\}", lambda one: str(values[one[1]]), text))
    assert isinstance(found, dict)
    return found


def test_the_queue_is_one_in_json_and_in_yaml() -> None:
    assert json.loads((LAUNCH / "queue.json").read_text()) == yaml.safe_load(
        (LAUNCH / "queue.yaml").read_text()
    )


def test_variables_are_used_and_have_limits() -> None:
    used = set(re.findall(r"\{\{(\w+)\}\}", (LAUNCH / "queue.json").read_text()))
    assert used == variables().keys()
    for name, schema in variables().items():
        assert schema.keys() in ({"type", "default", "minimum", "maximum"}, {"type", "default", "enum"}), name
        if "enum" in schema:
            assert schema["default"] in schema["enum"]
        else:
            assert schema["minimum"] <= schema["default"] <= schema["maximum"]


@pytest.mark.timeout(240)
def test_a_launched_batch(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", **SMALL}])
    spec = json.loads((LAUNCH / "job.json").read_text())
    spec["overrides"]["run_config"] |= {"input": str(rows), "steps": 2}
    item = {
        **spec,
        "docker": {"docker_image": IMAGE},
        "resource": "kubernetes",
        "resource_args": {"kubernetes": filled({name: one["default"] for name, one in variables().items()})},
        "project": "pictures", "entity": "team", "author": "user", "run_id": "run18", "name": "a run",
    }  # fmt: skip
    with running(queue := Queue(item)), running(cluster := Cluster()):
        (tmp_path / ".kube").mkdir()
        (tmp_path / ".kube/config").write_text(kubeconfig(cluster.url))
        # Outside a cluster the agent wants to know that AWS's client is installed, and does not use it.
        (tmp_path / "awscli.py").touch()
        config = yaml.safe_load((LAUNCH / "config.yaml").read_text()) | {"entity": "team"}
        (tmp_path / "launch-config.yaml").write_text(yaml.safe_dump(config))
        ended = subprocess.run(
            [sys.executable, "-m", "wandb", "launch-agent", "--config", tmp_path / "launch-config.yaml"],
            cwd=tmp_path, capture_output=True, text=True, timeout=200,
            env=environment(
                WANDB_BASE_URL=queue.url, WANDB_API_KEY="a" * 40, HOME=str(tmp_path), PYTHONPATH=str(tmp_path),
                WANDB_DIR=str(tmp_path), WANDB_DATA_DIR=str(tmp_path), WANDB_CONFIG_DIR=str(tmp_path),
                WANDB_MODE="offline",
            ),
        )  # fmt: skip
    said = ended.stdout + ended.stderr
    assert queue.failed == [], said
    assert queue.unknown == []
    assert [one["itemId"] for one in queue.acknowledged] == ["item"]

    (job,) = cluster.made["jobs"]
    job["metadata"] = {k: v for k, v in job["metadata"].items() if k not in ("uid", "resourceVersion")}
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    assert job["metadata"]["namespace"] == "diffusion"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert container["args"] == ["batch", "--out", "/results/run18"]
    assert "command" not in container, "the image's own"
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["priorityClassName"] == "diffusion-batch"
    assert "${" not in json.dumps(job)
    assert "{{" not in json.dumps(job)

    # The Role lets it do all of that, in this namespace.
    (role,) = [one for one in yaml.safe_load_all((LAUNCH / "rbac.yaml").read_text()) if one["kind"] == "Role"]
    allowed = {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert cluster.calls <= allowed
    assert {("create", "batch", "jobs"), ("watch", "batch", "jobs"), ("watch", "", "pods")} <= cluster.calls
    assert cluster.elsewhere == []

    # And the batch with what the agent put into its environment makes what was asked for.
    given = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert json.loads(given["WANDB_CONFIG"])["steps"] == 2
    launched = {name: value for name, value in given.items() if name.startswith("WANDB_")} | {
        "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_DATA_DIR": str(tmp_path),
    }  # fmt: skip
    with serve(FakeEngine()) as live:
        out = tmp_path / "results/run18"
        ended = batch("--out", out, "--upstream", live.url, variables=launched)
    assert ended.returncode == 0, ended.stderr
    (line,) = lines_of(out)
    assert (line["request"]["steps"], line["request"]["cfg_scale"]) == (2, 7)


def kubeconfig(server: str) -> str:
    """A configuration for ``server`` without credentials."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": {"server": server}}],
            "users": [{"name": "me", "user": {}}],
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"securityContext": {"runAsUser": 10001}},
        {"serviceAccountName": "knative-diffusion"},
        {"automountServiceAccountToken": True},
    ],
)
def test_what_the_agent_refuses_is_not_in_the_queue(change: dict[str, Any]) -> None:
    from wandb.sdk.launch.errors import LaunchError
    from wandb.sdk.launch.utils import validate_kubernetes_resource_args

    config = filled({name: one["default"] for name, one in variables().items()})
    validate_kubernetes_resource_args(config)
    config["spec"]["template"]["spec"] |= change
    with pytest.raises(LaunchError):
        validate_kubernetes_resource_args(config)
