"""The manifests of batches: Jobs, volumes, priorities, the agent of W&B Launch, and Kueue's objects.

Kubernetes' own kinds are checked against their schemas. Kueue's have none in any package, so rules here say what they
must be, field by field.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service import __version__
from service.batch import errors
from service.batch.readers import read
from tests.knative.test_manifests import KNATIVE, KUBERNETES, ROOT, Object, rendered

BATCH = KNATIVE / "batch"
TARGETS = sorted(path.parent.name for path in BATCH.glob("*/kustomization.yaml"))
KUEUE = "kueue.x-k8s.io/"


def objects(target: str) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = {}
    for item in rendered(f"batch/{target}"):
        found.setdefault(item["kind"], []).append(item)
    return found


def job() -> Object:
    (found,) = objects("job")["Job"]
    return found


def container(template: Object) -> Object:
    (found,) = template["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_kinds_of_kubernetes_are_valid(target: str) -> None:
    for item in rendered(f"batch/{target}"):
        if not item["apiVersion"].startswith(KUEUE):
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("target", TARGETS)
def test_everything_is_in_its_namespace_and_labelled(target: str) -> None:
    cluster_wide = {
        "Namespace",
        "PersistentVolume",
        "PriorityClass",
        "ResourceFlavor",
        "ClusterQueue",
        "WorkloadPriorityClass",
    }
    for item in rendered(f"batch/{target}"):
        assert item["metadata"].get("namespace") == (None if item["kind"] in cluster_wide else "diffusion")
        assert (
            item["kind"] == "Namespace"
            or item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "knative-diffusion"
        )


def test_pods_may_do_little() -> None:
    (agent,) = objects("launch")["Deployment"]
    for template in (job()["spec"]["template"], agent["spec"]["template"]):
        pod, one = template["spec"], container(template)
        assert pod["enableServiceLinks"] is False
        context = one["securityContext"]
        assert context["runAsUser"] == context["runAsGroup"] == 10001
        assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "tmp", "mountPath": "/tmp"} in one["volumeMounts"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in one["volumeMounts"]} == volumes
    assert job()["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_shards_are_the_jobs_completions() -> None:
    spec = job()["spec"]
    command = container(spec["template"])["command"]
    assert spec["completionMode"] == "Indexed"
    assert command[command.index("--shards") + 1] == str(spec["completions"])


def test_the_jobs_rules_are_the_commands_exit_codes() -> None:
    rules = {
        (rule["action"], code)
        for rule in job()["spec"]["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert rules == {("FailJob", errors.UNUSABLE), ("FailIndex", errors.SOME_FAILED)}
    (first, *_) = job()["spec"]["podFailurePolicy"]["rules"]
    assert first["action"] == "Ignore"
    assert first["onPodConditions"][0]["type"] == "DisruptionTarget"


def test_rows_of_the_example_can_be_read(tmp_path: Path) -> None:
    (rows,) = objects("job")["ConfigMap"]
    for name, text in rows["data"].items():
        (tmp_path / name).write_text(text)
    assert len(read(tmp_path / "rows.yaml")) == 36
    volume = next(one for one in job()["spec"]["template"]["spec"]["volumes"] if one["name"] == "rows")
    assert volume["configMap"]["name"] == rows["metadata"]["name"]


def test_a_batch_yields_to_the_service() -> None:
    (priority,) = objects("common")["PriorityClass"]
    assert priority["value"] < 0, "pods without a class have 0"
    assert priority["preemptionPolicy"] == "Never"
    queue = yaml.safe_load((BATCH / "launch/queue.yaml").read_text())
    for template in (job()["spec"]["template"], queue["spec"]["template"]):
        assert template["spec"]["priorityClassName"] == priority["metadata"]["name"]
    for service in rendered("base"):
        if service["kind"] == "Service":
            assert "priorityClassName" not in service["spec"]["template"]["spec"]


def test_claims_bind_to_their_volumes_and_are_those_that_pods_mount() -> None:
    found = objects("common")
    volumes = {one["metadata"]["name"]: one for one in found["PersistentVolume"]}
    claims = {one["metadata"]["name"]: one for one in found["PersistentVolumeClaim"]}
    for claim in claims.values():
        volume = volumes[claim["spec"]["volumeName"]]
        assert claim["spec"]["storageClassName"] == ""
        assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadWriteMany"]
        assert claim["spec"]["resources"]["requests"] == volume["spec"]["capacity"]
        assert "hard" in volume["spec"]["mountOptions"]
    queue = yaml.safe_load((BATCH / "launch/queue.yaml").read_text())
    for template in (job()["spec"]["template"], queue["spec"]["template"]):
        mounted = {
            v["persistentVolumeClaim"]["claimName"]
            for v in template["spec"]["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert mounted == claims.keys()
        variables = {one["name"]: one["value"] for one in container(template)["env"]}
        paths = {mount["name"]: mount["mountPath"] for mount in container(template)["volumeMounts"]}
        assert variables["HF_HOME"] == paths["hub"]


# --- Kueue -------------------------------------------------------------------------------------------------

FIELDS = {
    "ResourceFlavor": set(),
    "LocalQueue": {"clusterQueue"},
    "ClusterQueue": {"namespaceSelector", "queueingStrategy", "resourceGroups", "preemption"},
}
"""The fields of each kind's spec that are used here; a misspelt one is none of them."""


def test_kueues_objects_fit_together() -> None:
    found = objects("kueue")
    assert all(item["apiVersion"] == KUEUE + "v1beta2" for items in found.values() for item in items)
    for kind, fields in FIELDS.items():
        for item in found[kind]:
            assert set(item.get("spec", {})) == fields
    (cluster,), (local,), (flavor,) = found["ClusterQueue"], found["LocalQueue"], found["ResourceFlavor"]
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    assert cluster["spec"]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "diffusion"}
    assert cluster["spec"]["queueingStrategy"] in ("StrictFIFO", "BestEffortFIFO")
    assert set(cluster["spec"]["preemption"]) == {"withinClusterQueue", "reclaimWithinCohort"}
    (group,) = cluster["spec"]["resourceGroups"]
    assert set(group) == {"coveredResources", "flavors"}
    (quotas,) = group["flavors"]
    assert quotas["name"] == flavor["metadata"]["name"]
    assert [one["name"] for one in quotas["resources"]] == group["coveredResources"]
    assert all(set(one) == {"name", "nominalQuota"} for one in quotas["resources"])
    # A Job that asks for something that no quota covers is never admitted.
    asked = container(job()["spec"]["template"])["resources"]
    assert asked["requests"].keys() | asked["limits"].keys() <= set(group["coveredResources"])


def test_jobs_wait_in_a_line_that_exists() -> None:
    found = objects("kueue")
    lines = {item["metadata"]["name"] for item in found["LocalQueue"]}
    priorities = {item["metadata"]["name"] for item in found["WorkloadPriorityClass"]}
    labels = job()["metadata"]["labels"]
    assert labels[KUEUE + "queue-name"] in lines
    assert labels[KUEUE + "priority-class"] in priorities
    assert job()["metadata"]["annotations"] == {KUEUE + "job-min-parallelism": "1"}
    queue = yaml.safe_load((BATCH / "launch/queue.yaml").read_text())
    assert queue["metadata"]["labels"][KUEUE + "queue-name"] in lines
    variables = yaml.safe_load((BATCH / "launch/template-variables.json").read_text())
    assert set(variables["priority"]["schema"]["enum"]) == priorities


# --- W&B Launch ----------------------------------------------------------------------------------------------


def test_the_agent_is_bound_to_its_role_here_alone() -> None:
    found = objects("launch")
    (account,), (role,), (binding,) = found["ServiceAccount"], found["Role"], found["RoleBinding"]
    (agent,) = found["Deployment"]
    assert agent["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "diffusion"}
    ]
    assert "ClusterRole" not in found
    for rule in role["rules"]:
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not any("serving.knative.dev" in group for group in rule["apiGroups"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pydantic, by W&B's own class
def test_the_agents_configuration_is_one() -> None:
    from wandb.sdk.launch.agent.config import AgentConfig

    (config,) = objects("launch")["ConfigMap"]
    said = yaml.safe_load(config["data"]["launch-config.yaml"])
    AgentConfig(**said)
    mounted = container(objects("launch")["Deployment"][0]["spec"]["template"])
    assert mounted["command"][-1].startswith(mounted["volumeMounts"][1]["mountPath"] + "/launch-config.yaml")


# --- words ---------------------------------------------------------------------------------------------------


@cache
def help_text() -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "service", "batch", "--help"], capture_output=True, text=True, check=True, cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
    )  # fmt: skip
    return shown.stdout


def test_options_in_manifests_and_words_exist() -> None:
    queue = yaml.safe_load((BATCH / "launch/queue.yaml").read_text())
    arguments = [
        *container(job()["spec"]["template"])["command"],
        *container(queue["spec"]["template"])["args"],
    ]
    written = {one for one in arguments if one.startswith("--")}
    written |= set(re.findall(r"service batch [^`\n]*?(--[a-z-]+)", (ROOT / "docs/batch.md").read_text()))
    assert [option for option in sorted(written) if option not in help_text()] == []


@pytest.mark.parametrize("target", TARGETS)
def test_readmes_have_five_lines_and_right_paths(target: str) -> None:
    title, *lines = (BATCH / target / "README.md").read_text().splitlines()
    assert title == f"# {target}"
    assert len(lines) == 5
    mentioned = set(re.findall(r"knative/[\w./-]*\w", "\n".join(lines)))
    assert [path for path in mentioned if not (ROOT / path).exists()] == []


def test_images_in_words_are_this_version() -> None:
    texts = [*BATCH.rglob("*.md"), KNATIVE / "components/images/kustomization.yaml"]
    tags = {
        tag
        for page in texts
        for tag in re.findall(r"\d+\.\d+\.\d+-(?:cuda|cpu|agent)(?:-\w+)?", page.read_text())
    }
    assert tags
    assert {tag.partition("-")[0] for tag in tags} == {__version__}


def test_links_lead_somewhere() -> None:
    for page in BATCH.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
    assert "](batch/README.md)" in (KNATIVE / "README.md").read_text()
