"""The manifests for KubeRay and Karpenter, rendered by kubectl, against Ray, the service, and each other.

No package ships the schema of a RayService: its rules are here. ``serveConfigV2`` is read by Ray's own schema.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.ray import deployments
from service.settings import PREFIX, Settings

Object = dict[str, Any]

schema = pytest.importorskip("ray.serve.schema")

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
TARGETS = [".", "karpenter", "page"]
KUBERNETES = "1.37"
OURS = {"ray.io/v1", "monitoring.coreos.com/v1", "karpenter.sh/v1", "karpenter.k8s.aws/v1"}

# What KubeRay's webhook and API server know; a field that is spelt otherwise is dropped silently.
FIELDS = {
    "spec": {
        "deploymentUnhealthySecondThreshold", "excludeHeadPodFromServeSvc", "rayClusterConfig",
        "rayClusterDeletionDelaySeconds", "serveConfigV2", "serveService", "serviceUnhealthySecondThreshold",
        "suspend", "upgradeStrategy",
    },
    "rayClusterConfig": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
        "headServiceAnnotations", "rayVersion", "suspend", "workerGroupSpecs",
    },
    "autoscalerOptions": {
        "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext",
        "upscalingMode", "version", "volumeMounts",
    },
    "headGroupSpec": {
        "enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template",
    },
    "workerGroupSpec": {
        "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
        "replicas", "resources", "scaleStrategy", "suspend", "template",
    },
}  # fmt: skip


@cache
def rendered(target: str) -> tuple[Object, ...]:
    kubectl = Path(sys.executable).with_name("kubectl")
    shown = subprocess.run(
        [kubectl, "kustomize", KUBERAY / target], capture_output=True, text=True, check=False, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == "", "kustomize warns"
    return tuple(yaml.safe_load_all(shown.stdout))


def one(kind: str, target: str = ".") -> Object:
    (found,) = [item for item in rendered(target) if item["kind"] == kind]
    return found


def cluster() -> Object:
    config: Object = one("RayService")["spec"]["rayClusterConfig"]
    return config


def head() -> Object:
    template: Object = cluster()["headGroupSpec"]["template"]
    return template


def gpu_group() -> Object:
    (group,) = cluster()["workerGroupSpecs"]
    return dict(group)


def serve_config() -> Any:
    return schema.ServeDeploySchema.model_validate(yaml.safe_load(one("RayService")["spec"]["serveConfigV2"]))


def deployment(name: str) -> Any:
    (application,) = serve_config().applications
    (found,) = [each for each in application.deployments if each.name == name]
    return found


def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    (application,) = serve_config().applications
    with monkeypatch.context() as clean:
        for name, value in application.runtime_env["env_vars"].items():
            assert isinstance(value, str)
            clean.setenv(name, value)
        return Settings.read()


# --- forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_core_kinds_are_valid(target: str) -> None:
    for item in rendered(target):
        if item["apiVersion"] not in OURS:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_ray_service_has_known_fields_only() -> None:
    spec, config = one("RayService")["spec"], cluster()
    assert spec.keys() <= FIELDS["spec"]
    assert config.keys() <= FIELDS["rayClusterConfig"]
    assert config["autoscalerOptions"].keys() <= FIELDS["autoscalerOptions"]
    assert config["headGroupSpec"].keys() <= FIELDS["headGroupSpec"]
    assert gpu_group().keys() <= FIELDS["workerGroupSpec"]
    for template in (head(), gpu_group()["template"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True)


def test_pods_may_do_little() -> None:
    for template in (head(), gpu_group()["template"], one("Deployment", "page")["spec"]["template"]):
        assert template["spec"]["enableServiceLinks"] is False
        (container,) = template["spec"]["containers"]
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    for spec in (gpu_group()["template"]["spec"], one("Deployment", "page")["spec"]["template"]["spec"]):
        assert spec["automountServiceAccountToken"] is False


# --- Ray's side ----------------------------------------------------------------------------------------


def test_the_config_is_one_that_serve_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    (application,) = serve_config().applications
    module, _, attribute = application.import_path.partition(":")
    assert (module, attribute) == ("service.ray", "app")
    bound = deployments.build(settings(monkeypatch))
    names = {bound._bound_deployment.name, bound._bound_deployment.init_args[0]._bound_deployment.name}
    assert {each.name for each in application.deployments} == names


def test_one_gpu_one_image_at_a_time() -> None:
    gpu = deployment("Gpu")
    assert gpu.max_ongoing_requests == 1
    assert gpu.ray_actor_options.num_gpus == 1
    scaling = gpu.autoscaling_config
    assert scaling["target_ongoing_requests"] == 1
    group = gpu_group()
    assert group["minReplicas"] == 0
    assert group["maxReplicas"] == scaling["max_replicas"] == 4
    assert scaling["min_replicas"] <= group["replicas"] <= group["maxReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert int(container["resources"]["requests"]["cpu"]) > gpu.ray_actor_options.num_cpus, (
        "a proxy runs there too"
    )
    assert cluster()["enableInTreeAutoscaling"] is True
    assert cluster()["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


def test_all_that_ray_may_scale_on_is_handed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch).upstream_concurrency >= deployment("Gpu").autoscaling_config["max_replicas"]


def test_nothing_is_ended_while_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = settings(monkeypatch).request_timeout
    spec = one("RayService")["spec"]
    assert deployment("Gpu").graceful_shutdown_timeout_s > longest
    assert spec["rayClusterDeletionDelaySeconds"] > longest
    for template in (head(), gpu_group()["template"]):
        assert template["spec"]["terminationGracePeriodSeconds"] > longest
        assert template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_versions_are_those_of_the_extra() -> None:
    import ray

    assert cluster()["rayVersion"].rsplit(".", 1)[0] == ray.__version__.rsplit(".", 1)[0]


def test_probes_need_no_program_in_the_image() -> None:
    for template in (head(), gpu_group()["template"]):
        (container,) = template["spec"]["containers"]
        for probe in ("livenessProbe", "readinessProbe"):
            assert set(container[probe]) & {"httpGet", "exec"} == {"httpGet"}


def test_the_head_draws_nothing_and_its_image_is_small() -> None:
    (container,) = head()["spec"]["containers"]
    assert container["image"].endswith("-cpu-ray")
    (worker,) = gpu_group()["template"]["spec"]["containers"]
    assert worker["image"].endswith("-cuda-ray")


# --- Karpenter's side ------------------------------------------------------------------------------------


def test_workers_land_on_the_pool_and_nothing_else_does() -> None:
    pool = one("NodePool", "karpenter")["spec"]["template"]
    worker = gpu_group()["template"]["spec"]
    assert worker["nodeSelector"].items() <= pool["metadata"]["labels"].items()
    for taint in pool["spec"]["taints"]:
        assert any(
            toleration["key"] == taint["key"] and toleration["effect"] == taint["effect"]
            for toleration in worker["tolerations"]
        )
    needed = {each["key"]: each["values"] for each in pool["spec"]["requirements"]}
    assert needed["karpenter.k8s.aws/instance-family"] == ["g5"]


def test_karpenter_never_takes_a_node_from_under_a_drawing_pod() -> None:
    spec = one("NodePool", "karpenter")["spec"]
    assert spec["disruption"]["consolidationPolicy"] == "WhenEmpty"
    assert spec["template"]["spec"]["expireAfter"] == "Never"
    assert "terminationGracePeriod" not in spec["template"]["spec"], "it would win over do-not-disrupt"
    assert spec["limits"]["nvidia.com/gpu"] == str(gpu_group()["maxReplicas"])


def test_the_pool_names_its_class() -> None:
    reference = one("NodePool", "karpenter")["spec"]["template"]["spec"]["nodeClassRef"]
    node_class = one("EC2NodeClass", "karpenter")
    assert reference == {
        "group": node_class["apiVersion"].partition("/")[0],
        "kind": node_class["kind"],
        "name": node_class["metadata"]["name"],
    }
    assert node_class["spec"]["metadataOptions"]["httpTokens"] == "required"


# --- the network, metrics, the page ------------------------------------------------------------------------


def labels_of_pods() -> list[dict[str, str]]:
    ray = [template["metadata"]["labels"] for template in (head(), gpu_group()["template"])]
    page: dict[str, str] = one("Deployment", "page")["spec"]["template"]["metadata"]["labels"]
    # KubeRay adds this one to the head's pod.
    return [*(each | {"ray.io/node-type": "head"} for each in ray), page]


@pytest.mark.parametrize("target", [".", "page"])
def test_network_policies_and_monitors_select_pods_that_exist(target: str) -> None:
    seen = 0
    for item in rendered(target):
        if item["kind"] in ("NetworkPolicy", "PodMonitor"):
            selector = item["spec"].get("podSelector") or item["spec"]["selector"]
            seen += 1
            assert any(selector["matchLabels"].items() <= labels.items() for labels in labels_of_pods())
    assert seen


def test_the_page_may_talk_to_the_service_and_knows_its_name() -> None:
    page = one("Deployment", "page")["spec"]["template"]
    policy = next(
        item
        for item in rendered(".")
        if item["kind"] == "NetworkPolicy" and "Ingress" in item["spec"]["policyTypes"]
    )
    allowed = [
        peer["podSelector"]["matchLabels"]
        for rule in policy["spec"]["ingress"]
        if {"port": 8000} in rule.get("ports", [])
        for peer in rule["from"]
        if "podSelector" in peer
    ]
    assert any(labels.items() <= page["metadata"]["labels"].items() for labels in allowed)
    (container,) = page["spec"]["containers"]
    assert f"http://{one('RayService')['metadata']['name']}-serve-svc:8000" in container["args"]


def test_our_series_get_the_names_and_labels_that_dashboards_read() -> None:
    (endpoint,) = one("PodMonitor")["spec"]["podMetricsEndpoints"]
    ports = {
        port["name"]
        for template in (head(), gpu_group()["template"])
        for port in template["spec"]["containers"][0]["ports"]
    }
    assert endpoint["port"] in ports
    keep, strip, pod, *_ = endpoint["metricRelabelings"]
    for name in ("ray_sd_requests_total", "ray_serve_deployment_queued_queries", "ray_node_gpus_utilization"):
        assert re.fullmatch(keep["regex"], name), name
    assert not re.fullmatch(keep["regex"], "ray_tasks")
    assert re.fullmatch(strip["regex"], "ray_sd_requests_total")[1] == "sd_requests_total"  # type: ignore[index]
    assert not re.fullmatch(strip["regex"], "ray_serve_deployment_queued_queries")
    assert pod["targetLabel"] == "pod"
    assert re.fullmatch(pod["regex"], "sd_requests_total;abcdefgh")[1] == "abcdefgh"  # type: ignore[index]
    targets = {each["targetLabel"] for each in endpoint["relabelings"] if "targetLabel" in each}
    assert {"job", "k8s_namespace_name", "kn_service_name", "kn_revision_name"} <= targets


def test_words_name_settings_and_files_that_exist() -> None:
    texts = [path.read_text() for path in (KUBERAY / "README.md", ROOT / "docs" / "ray.md")]
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for text in texts:
        assert set(re.findall(r"\bSD_[A-Z_]+\w", text)) <= known
    for link in re.findall(r"\]\(([^)#:]+)\)", texts[0]):
        assert (KUBERAY / link).exists(), link
