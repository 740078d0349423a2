"""Every target under knative/, rendered by kubectl, against schemas, Knative's rules, and the service itself."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.knative_serving.serving import v1 as serving

from service import __version__
from service.metrics import Metrics
from service.settings import PREFIX, Settings

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
KNATIVE = ROOT / "knative"
TARGETS = sorted(
    path.parent.relative_to(KNATIVE).as_posix()
    for path in KNATIVE.rglob("kustomization.yaml")
    if not {"components", "batch"}
    & set(path.relative_to(KNATIVE).parts)  # those of batch have tests of their own
)
SERVING = [target for target in TARGETS if target not in ("cluster", "base/account")]
OVERLAYS = [target for target in SERVING if target.count("/") == 1]
KUBERNETES = "1.37"
RESERVED_PORTS = {8008, 8012, 8013, 8022, 8112, 9090, 9091}
QUIET_PERIOD = 30
"""Seconds without a request that queue-proxy waits for before the service gets its SIGTERM."""
QUEUE_PROXY_KEEP_ALIVE = 90
GRACE_FOR_EXIT = 15
"""Seconds that must be left between the end of the drain and SIGKILL."""
FIELDS_BEHIND_FLAGS = {
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "tolerations": "kubernetes.podspec-tolerations",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "affinity": "kubernetes.podspec-affinity",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "securityContext": "kubernetes.podspec-securitycontext",
    "initContainers": "kubernetes.podspec-init-containers",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostPID": "kubernetes.podspec-hostpid",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
}


@cache
def rendered(target: str) -> tuple[Object, ...]:
    kubectl = Path(sys.executable).with_name("kubectl")
    shown = subprocess.run(
        [kubectl, "kustomize", KNATIVE / target], capture_output=True, text=True, check=False, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == "", "kustomize warns"
    return tuple(yaml.safe_load_all(shown.stdout))


def is_knative(item: Object) -> bool:
    return str(item["apiVersion"]).startswith("serving.knative.dev/")


def knative_service(target: str, name: str = "knative-diffusion") -> Object:
    (found,) = [item for item in rendered(target) if is_knative(item) and item["metadata"]["name"] == name]
    return found


KNATIVE_TARGETS = [target for target in SERVING if any(map(is_knative, rendered(target)))]


WITH_FRONT = ("overlays/front", "overlays/cpu-demo-front")


def revision(target: str, name: str = "knative-diffusion") -> Object:
    spec: Object = knative_service(target, name)["spec"]["template"]["spec"]
    return spec


def pods(target: str) -> Iterator[tuple[str, Object]]:
    """The spec of every kind of pod that a target makes, with its owner's kind."""
    for item in rendered(target):
        if "template" in item.get("spec", {}):
            yield (
                item["kind"] + ("" if not is_knative(item) else " of Knative"),
                item["spec"]["template"]["spec"],
            )


def containers(target: str) -> Iterator[tuple[str, Object]]:
    for kind, pod in pods(target):
        for container in pod["containers"]:
            yield kind, container


def servers(target: str) -> Iterator[Object]:
    for _, container in containers(target):
        if container["command"][:4] in (
            ["python", "-m", "service", "serve"],
            ["python", "-m", "service", "front"],
        ):
            yield container


def environment(container: Object) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}


def annotations(target: str) -> dict[str, str]:
    found: dict[str, str] = knative_service(target)["spec"]["template"]["metadata"]["annotations"]
    return found


def differences(there: Any, back: Any, path: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(back, dict):
        for key in there.keys() | back.keys():
            if key not in back:
                yield f"{path}/{key} is dropped"
            elif key not in there:
                yield f"{path}/{key} is made up"
            else:
                yield from differences(there[key], back[key], f"{path}/{key}")
    elif isinstance(there, list) and isinstance(back, list) and len(there) == len(back):
        for index, (one, other) in enumerate(zip(there, back, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif type(there) is not type(back) or there != back:
        yield f"{path}: {there!r} becomes {back!r}"


def through_the_model(service: Object) -> Any:
    # Strict: in lax mode the model's union of int and str takes "1" for a number and trips over its own pattern.
    model = serving.Service.model_validate(service, strict=True)
    return model.model_dump(by_alias=True, exclude_unset=True, mode="json")


# --- schemas ---------------------------------------------------------------------------------------


def test_all_targets_are_here() -> None:
    named = {"cpu-demo", "gpu", "ack", "cgpu", "nvidia-shared", "weights-pvc", "front", "cpu-demo-front"}
    assert named <= {target.removeprefix("overlays/") for target in OVERLAYS}
    assert {"base", "cluster", "overlays/cgpu/deployment", "overlays/weights-pvc/fetch"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_core_kinds_are_valid(target: str) -> None:
    for item in rendered(target):
        if not is_knative(item):
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_knative_kinds_are_valid(target: str) -> None:
    for service in filter(is_knative, rendered(target)):
        assert list(differences(service, through_the_model(service))) == []


def test_a_misspelt_field_of_knative_is_noticed() -> None:
    service = knative_service("base")
    template = service["spec"]["template"]
    wrong = {
        **service,
        "spec": {"template": {**template, "spec": {**template["spec"], "containerConcurency": 1}}},
    }
    assert list(differences(wrong, through_the_model(wrong))) == [
        "/spec/template/spec/containerConcurency is dropped"
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_everything_is_in_its_namespace(target: str) -> None:
    for item in rendered(target):
        if item["kind"] not in ("Namespace", "PersistentVolume"):
            assert item["metadata"]["namespace"] == (
                "knative-serving" if target == "cluster" else "diffusion"
            )


# --- Knative's rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_revision_rules(target: str) -> None:
    service, spec = knative_service(target), revision(target)
    assert not [key for key in service["metadata"].get("annotations", {}) if "autoscaling.knative.dev" in key]
    assert spec["containerConcurrency"] == 1
    assert spec["timeoutSeconds"] == spec["responseStartTimeoutSeconds"] <= 600
    assert "idleTimeoutSeconds" not in spec
    assert len(spec["containers"]) == 1
    (port,) = spec["containers"][0]["ports"]
    assert port["containerPort"] not in RESERVED_PORTS
    assert "hostPort" not in port


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_autoscaling(target: str) -> None:
    prefix = "autoscaling.knative.dev/"
    knobs = {
        key.removeprefix(prefix): value
        for key, value in annotations(target).items()
        if key.startswith(prefix)
    }
    assert set(knobs) <= {
        "class",
        "metric",
        "target-utilization-percentage",
        "target-burst-capacity",
        "window",
        "min-scale",
        "max-scale",
        "scale-to-zero-pod-retention-period",
    }
    assert all(isinstance(value, str) for value in annotations(target).values())
    assert knobs["class"] == "kpa.autoscaling.knative.dev"
    assert knobs["metric"] == "concurrency"
    assert knobs["target-utilization-percentage"] == "100"
    assert knobs["target-burst-capacity"] == "-1"
    assert knobs["min-scale"] == "0"
    assert int(knobs["max-scale"]) >= 1
    assert 6 <= seconds(knobs["window"]) <= 3600
    assert 0 <= seconds(knobs["scale-to-zero-pod-retention-period"]) <= 3600
    assert (
        seconds(annotations(target)["serving.knative.dev/progress-deadline"])
        > revision(target)["timeoutSeconds"]
    )


def seconds(duration: str) -> int:
    matched = re.fullmatch(r"(\d+)([smh])", duration)
    assert matched, duration
    return int(matched[1]) * {"s": 1, "m": 60, "h": 3600}[matched[2]]


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_probes(target: str) -> None:
    (container,) = revision(target)["containers"]
    # Nothing but the path: any period, threshold or timeout turns the quick probing of queue-proxy off.
    assert container["readinessProbe"] == {"httpGet": {"path": "/readyz"}}
    assert "startupProbe" not in container
    liveness = container["livenessProbe"]
    assert liveness["httpGet"] == {"path": "/livez"}
    assert liveness["timeoutSeconds"] >= 5
    assert liveness["failureThreshold"] >= 6


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_feature_flags_are_listed(target: str) -> None:
    spec = revision(target)
    needed = {flag for field, flag in FIELDS_BEHIND_FLAGS.items() if field in spec}
    assert not spec.keys() & {"terminationGracePeriodSeconds", "lifecycle"}
    for volume in spec.get("volumes", []):
        kind = next(key for key in volume if key != "name")
        if kind == "persistentVolumeClaim":
            needed.add("kubernetes.podspec-persistent-volume-claim")
            assert volume[kind]["readOnly"] is True
        else:
            assert kind == "emptyDir"
    for container in spec["containers"]:
        for item in container.get("env", []):
            if "fieldRef" in item.get("valueFrom", {}):
                needed.add("kubernetes.podspec-fieldref")
    listed = KNATIVE / target / "config-features.yaml"
    flags = yaml.safe_load(listed.read_text())["data"] if listed.exists() else {}
    assert flags == dict.fromkeys(sorted(needed), "enabled")
    if target == "base" or target.startswith("overlays/cpu-demo"):
        assert flags == {}


# --- the pod -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", SERVING)
def test_containers_may_do_little(target: str) -> None:
    seen = 0
    for _, container in containers(target):
        seen += 1
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == 10001
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        assert "memory" in container["resources"]["limits"]
    assert seen


@pytest.mark.parametrize("target", SERVING)
def test_pods_have_no_token_and_no_service_links(target: str) -> None:
    accounts = {
        item["metadata"]["name"]: item for item in rendered(target) if item["kind"] == "ServiceAccount"
    }
    for _, pod in pods(target):
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("target", SERVING)
def test_no_kubernetes_service_is_named_like_the_settings(target: str) -> None:
    prefix = PREFIX.rstrip("_").lower()
    assert not [
        item for item in rendered(target) if item["kind"] == "Service" and item["metadata"]["name"] == prefix
    ]


@pytest.mark.parametrize("target", SERVING)
def test_images_are_pinned(target: str) -> None:
    named = yaml.safe_load((KNATIVE / "components/images/kustomization.yaml").read_text())["images"]
    repositories = {image["newName"] for image in named}
    for _, container in containers(target):
        name, at, digest = container["image"].partition("@")
        if container["command"][0] != "python":  # not ours
            assert at
        if at:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
        else:
            name, _, tag = container["image"].rpartition(":")
            assert tag in (f"{__version__}-cuda", f"{__version__}-cpu", f"{__version__}-front")
            assert tag.endswith("-front") is (container["command"][3] == "front")
        if container["command"][0] != "python":
            continue
        assert name in repositories
        wants_gpu = any("gpu" in key or "mig" in key for key in container["resources"]["limits"])
        assert container["image"].endswith("-cuda") is wants_gpu


@pytest.mark.parametrize("target", SERVING)
def test_commands_are_exec_form(target: str) -> None:
    for _, container in containers(target):
        assert (
            container["command"][:3] == ["python", "-m", "service"]
            or container["command"][0] == "redis-server"
        )
        assert "args" not in container


@pytest.mark.parametrize("target", SERVING)
def test_extended_resources_are_whole_numbers_said_once(target: str) -> None:
    for _, container in containers(target):
        devices = {name: value for name, value in container["resources"]["limits"].items() if "/" in name}
        assert all(re.fullmatch(r"[1-9]\d*", value) for value in devices.values())
        assert len({name.partition("/")[0] for name in devices}) <= 1, "one vendor's way of asking at a time"
        if "aliyun.com/gpu-core.percentage" in devices:
            assert int(devices["aliyun.com/gpu-core.percentage"]) % 5 == 0


# --- the service's own settings ------------------------------------------------------------------------


@pytest.mark.parametrize("target", SERVING)
def test_settings_exist_and_can_be_read(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for _, container in containers(target):
        names = [item["name"] for item in container.get("env", [])]
        assert len(names) == len(set(names)), "a variable is set twice"
        with monkeypatch.context() as clean:
            for name, value in environment(container).items():
                assert isinstance(value, str)
                clean.setenv(name, value)
            Settings.read()


def settings_of(container: Object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    with monkeypatch.context() as clean:
        for name, value in environment(container).items():
            clean.setenv(name, value)
        return Settings.read()


@pytest.mark.parametrize("target", SERVING)
def test_values_that_belong_together(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in servers(target):
        settings = settings_of(container, monkeypatch)
        (port,) = container["ports"]
        assert settings.host == "0.0.0.0"
        assert settings.port == port["containerPort"]
        if settings.upstream:  # it computes nothing
            continue
        requested, limit = (container["resources"][kind].get("cpu") for kind in ("requests", "limits"))
        if limit is None:  # nothing tells the service what is its own
            assert settings.cpu_threads == int(requested)
        else:  # it reads the limit itself, and rounds it up
            assert settings.cpu_threads == 0
            assert int(requested) <= int(limit)
        if settings.models_dir:
            mounted = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert mounted[str(settings.models_dir)]["readOnly"] is True
            assert Path(settings.model).is_relative_to(settings.models_dir)


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_timeouts_fit_into_each_other(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = revision(target)
    (container,) = spec["containers"]
    settings = settings_of(container, monkeypatch)
    grace = spec["timeoutSeconds"]  # Knative makes it the pod's
    assert settings.request_timeout <= spec["timeoutSeconds"]
    assert QUIET_PERIOD + settings.drain_timeout + GRACE_FOR_EXIT <= grace
    assert settings.keep_alive > QUEUE_PROXY_KEEP_ALIVE


def test_deployment_fits_together(monkeypatch: pytest.MonkeyPatch) -> None:
    items = {item["kind"]: item for item in rendered("overlays/cgpu/deployment")}
    pod = items["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = settings_of(container, monkeypatch)
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause + settings.drain_timeout + GRACE_FOR_EXIT <= pod["terminationGracePeriodSeconds"]
    labels = items["Deployment"]["spec"]["template"]["metadata"]["labels"]
    service = items["Service"]["spec"]
    assert items["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    (port,) = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert service["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == settings.session_ttl
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    knative = revision("overlays/cgpu")["containers"][0]
    assert container["resources"] == knative["resources"]


def test_cookie_of_ack_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    service = knative_service("overlays/ack")
    settings = settings_of(revision("overlays/ack")["containers"][0], monkeypatch)
    prefix = "serving.knative.dev.alibabacloud/"
    given = service["metadata"]["annotations"]
    assert given == {
        f"{prefix}affinity": "cookie",
        f"{prefix}cookie-name": settings.session_cookie,
        f"{prefix}cookie-timeout": str(int(settings.session_ttl)),
    }
    assert annotations("overlays/ack")["k8s.aliyun.com/eci-use-specs"].startswith("ecs.")
    assert annotations("overlays/ack")["autoscaling.knative.dev/max-scale"] == "10"


def test_weights_that_are_fetched_are_those_that_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    items = {item["kind"]: item for item in rendered("overlays/weights-pvc/fetch")}
    pod = items["Job"]["spec"]["template"]["spec"]
    (job,) = pod["containers"]
    (server,) = revision("overlays/weights-pvc")["containers"]
    settings = settings_of(server, monkeypatch)
    model = job["command"][4]
    assert job["command"][:4] == ["python", "-m", "service", "fetch"]
    assert settings.model == f"{environment(job)['SD_MODELS_DIR']}/checkpoints/{model.rpartition('/')[2]}"
    assert environment(server)["HF_HUB_OFFLINE"] == "1"
    claim = items["PersistentVolumeClaim"]["metadata"]["name"]
    claims = [
        volume["persistentVolumeClaim"]
        for spec in (pod, revision("overlays/weights-pvc"))
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [{"claimName": claim}, {"claimName": claim, "readOnly": True}]
    assert (
        items["PersistentVolumeClaim"]["spec"]["volumeName"] == items["PersistentVolume"]["metadata"]["name"]
    )


# --- the network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", SERVING)
def test_network_policies_select_pods_that_exist(target: str) -> None:
    labels = [
        item["spec"]["template"]["metadata"]["labels"]
        for item in rendered(target)
        if "template" in item.get("spec", {})
    ]
    for item in rendered(target):
        if item["kind"] == "NetworkPolicy":
            wanted = item["spec"]["podSelector"]["matchLabels"].items()
            assert any(wanted <= there.items() for there in labels), item["metadata"]["name"]


def network_policy(target: str, name: str) -> Object:
    (found,) = [
        item
        for item in rendered(target)
        if item["kind"] == "NetworkPolicy" and item["metadata"]["name"] == name
    ]
    return found


@pytest.mark.parametrize("target", KNATIVE_TARGETS)
def test_nobody_goes_around_queue_proxy(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = network_policy(target, "knative-diffusion")
    port = settings_of(revision(target)["containers"][0], monkeypatch).port
    opened: dict[int, list[str]] = {}
    for rule in policy["spec"]["ingress"]:
        sources = [
            next(iter((peer.get("namespaceSelector") or peer["podSelector"])["matchLabels"].values()))
            for peer in rule.get("from", [])
        ]
        for item in rule["ports"]:
            opened.setdefault(item["port"], []).extend(sources or ["anywhere"])
    fronts = ["knative-diffusion-front"] if target in WITH_FRONT else []
    assert opened[port] == ["monitoring", *fronts]
    assert "knative-serving" in opened[8012]
    assert opened[9090] == ["knative-serving"]


# --- the cluster, and what is said in words ------------------------------------------------------------------


def test_cluster_settings() -> None:
    data = {item["metadata"]["name"]: item for item in rendered("cluster")}
    assert data["config-network"]["data"] == {"mesh-compatibility-mode": "disabled"}
    assert data["config-deployment"]["data"] == {"pod-is-always-schedulable": "true"}
    assert data["config-observability"]["data"] == {
        "metrics-protocol": "prometheus",
        "request-metrics-protocol": "prometheus",
    }
    assert data["activator"]["spec"]["maxReplicas"] == 1


@pytest.mark.parametrize("target", ["base", "cluster", *OVERLAYS])
def test_readmes_have_five_lines_and_right_paths(target: str) -> None:
    title, *lines = (KNATIVE / target / "README.md").read_text().splitlines()
    assert title == f"# {target.rpartition('/')[2]}"
    assert len(lines) == 5
    assert all(line.strip() for line in lines)
    text = "\n".join(lines)
    mentioned = set(re.findall(r"knative/[\w./-]*\w", text))
    assert [path for path in mentioned if "ksvc" not in path and not (ROOT / path).exists()] == []
    assert set(re.findall(r"SD_[A-Z_]+\w", text)) <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_readme_links_and_names() -> None:
    text = (KNATIVE / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (KNATIVE / link).exists(), link
    assert set(re.findall(r"SD_[A-Z_]+\w", text)) <= {PREFIX + name.upper() for name in Settings.model_fields}
    for target in (*OVERLAYS, "base", "cluster"):
        assert f"]({target}/README.md)" in text


def test_series_in_words_and_alerts_exist() -> None:
    exposition = Metrics().render().decode()
    there = set(re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE)) | {"sd_gpu_memory_bytes"}
    texts = [*KNATIVE.rglob("*.md"), KNATIVE / "cluster" / "clusterip-fallback.yaml"]
    mentioned = {name for path in texts for name in re.findall(r"\bsd_\w+", path.read_text())}
    assert mentioned <= there | {name + "_total" for name in there}


@pytest.mark.parametrize("target", OVERLAYS)
def test_service_can_be_removed_without_its_namespace(target: str) -> None:
    """By the command in the README, which names kinds and a label."""
    text = (KNATIVE / "README.md").read_text()
    (kinds, label) = re.findall(r"^kubectl -n diffusion delete (\S+) -l (\S+)$", text, re.MULTILINE)[0]
    key, _, value = label.partition("=")
    removed = {
        "ksvc" if is_knative(item) else item["kind"].lower()
        for item in rendered(target)
        if item["metadata"].get("labels", {}).get(key) == value
    }
    assert removed <= set(kinds.split(","))
    left = [item for item in rendered(target) if item["metadata"].get("labels", {}).get(key) != value]
    assert [item["kind"] for item in left] == ["Namespace"]


def test_a_dry_run_has_its_namespace_and_account_first() -> None:
    assert {item["kind"] for item in rendered("base/account")} == {"Namespace", "ServiceAccount"}


def test_restarted_is_what_reads_its_settings_when_it_starts() -> None:
    for name in ("README.md", "kustomization.yaml"):
        text = (KNATIVE / "cluster" / name).read_text()
        assert "rollout restart deployment/activator deployment/autoscaler" in text


def test_runtime_class_is_named_where_it_is_needed() -> None:
    for target in OVERLAYS:
        wanted = revision(target).get("runtimeClassName")
        text = (KNATIVE / target / "README.md").read_text()
        assert wanted is None or f"RuntimeClass `{wanted}`" in text
