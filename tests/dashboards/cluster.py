"""Pods as Kubernetes' discovery describes them to Prometheus, for running the scrape configurations without a cluster.

Debian's Prometheus is built without Kubernetes discovery. Here the same ``__meta_kubernetes_*`` labels reach it
through static targets, so that the relabelling of ``prometheus.yml`` and of the monitors is Prometheus' own.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

DASHBOARDS: Final = Path(__file__).parents[2] / "dashboards"
MONITORS: Final = DASHBOARDS / "kustomize"


@dataclass(frozen=True)
class Pod:
    """A pod: ``ports`` maps (container, name of its port) to the port on 127.0.0.1 that stands for it."""

    name: str
    namespace: str
    labels: dict[str, str]
    ports: dict[tuple[str, str], int]
    phase: str = "Running"
    service_ports: dict[str, str] = field(default_factory=dict)
    """Names of the ports in the Service over this pod, by the name of the container's port."""

    def targets(self) -> list[dict[str, Any]]:
        """One static target for each declared port."""
        about = {
            "__meta_kubernetes_namespace": self.namespace,
            "__meta_kubernetes_pod_name": self.name,
            "__meta_kubernetes_pod_phase": self.phase,
        }
        for label, value in self.labels.items():
            about[f"__meta_kubernetes_pod_label_{_plain(label)}"] = value
            about[f"__meta_kubernetes_pod_labelpresent_{_plain(label)}"] = "true"
            about[f"__meta_kubernetes_service_label_{_plain(label)}"] = value
            about[f"__meta_kubernetes_service_labelpresent_{_plain(label)}"] = "true"
        return [
            {
                "targets": [f"127.0.0.1:{number}"],
                "labels": about
                | {
                    "__meta_kubernetes_pod_container_name": container,
                    "__meta_kubernetes_pod_container_port_name": port,
                    "__meta_kubernetes_endpoint_port_name": self.service_ports.get(port, ""),
                    "__meta_kubernetes_service_name": self.labels.get("app", ""),
                },
            }
            for (container, port), number in self.ports.items()
        ]


def _plain(label: str) -> str:
    return re.sub(r"\W", "_", label)


def pods(service: int, front: int, queue_proxy: int, activator: int, autoscaler: int) -> list[Pod]:
    """A serving pod, a front, Knative's activator and autoscaler, and pods that must not be scraped."""
    ours = {
        "app.kubernetes.io/name": "knative-diffusion",
        "serving.knative.dev/service": "lean",
        "serving.knative.dev/revision": "lean-00001",
    }
    user, side = ("diffusion", "user-port"), ("queue-proxy", "http-usermetric")
    autometric, queue = ("queue-proxy", "http-autometric"), ("queue-proxy", "queue-port")
    control = {"metrics": "http-metrics"}
    return [
        Pod("lean-00001-a", "default", ours, {user: service, side: queue_proxy, autometric: 1, queue: 1}),
        Pod(
            "front-00001-a",
            "default",
            {
                "app.kubernetes.io/name": "knative-diffusion-front",
                "serving.knative.dev/service": "front",
                "serving.knative.dev/revision": "front-00001",
            },
            {user: front, side: 1, autometric: 1, queue: 1},
        ),
        Pod("lean-00001-gone", "default", ours, {user: 1, side: 1}, phase="Succeeded"),
        Pod("seed-00001-x", "default", {"serving.knative.dev/service": "seed"}, {user: 1, side: 1}),
        Pod(
            "activator-0",
            "knative-serving",
            {"app": "activator"},
            {("activator", "metrics"): activator, ("activator", "http1"): 1},
            service_ports=control,
        ),
        Pod(
            "autoscaler-0",
            "knative-serving",
            {"app": "autoscaler"},
            {("autoscaler", "metrics"): autoscaler, ("autoscaler", "websocket"): 1},
            service_ports=control,
        ),
        Pod(
            "activator-0",
            "elsewhere",
            {"app": "activator"},
            {("activator", "metrics"): 1},
            service_ports=control,
        ),
    ]


def _seen(cluster: list[Pod], namespaces: list[str] | None) -> list[dict[str, Any]]:
    return [t for pod in cluster if namespaces is None or pod.namespace in namespaces for t in pod.targets()]


def from_config(cluster: list[Pod]) -> list[dict[str, Any]]:
    """The scrape configs of ``prometheus.yml``, with ``cluster`` in the place of Kubernetes' discovery."""
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        (discovery,) = job.pop("kubernetes_sd_configs")
        assert discovery.pop("role") == "pod"
        job["static_configs"] = _seen(cluster, discovery.pop("namespaces", {}).get("names"))
        assert not discovery
    return list(config["scrape_configs"])


def from_monitors(cluster: list[Pod], namespace: str) -> list[dict[str, Any]]:
    """What the Prometheus operator makes of our monitors in ``namespace``, with ``cluster`` for discovery.

    Its own rules come first (selector, port, phase, namespace, container, pod, job, endpoint), then ours.
    """
    jobs = []
    for path in sorted(MONITORS.glob("*monitor*.yaml")):
        monitor = yaml.safe_load(path.read_text())
        spec, of_pods = monitor["spec"], monitor["kind"] == "PodMonitor"
        kind, key = ("pod", "podMetricsEndpoints") if of_pods else ("service", "endpoints")
        port_label = "pod_container_port_name" if of_pods else "endpoint_port_name"
        (endpoint,) = spec[key]
        rules: list[dict[str, Any]] = [
            _keep(f"{kind}_label_{_plain(label)}", value)
            for label, value in spec["selector"]["matchLabels"].items()
        ]
        rules.append(_keep(port_label, endpoint["port"]))
        rules.append({**_keep("pod_phase", "Failed|Succeeded"), "action": "drop"})
        copied = [("namespace", "namespace"), ("pod_container_name", "container"), ("pod_name", "pod")]
        if not of_pods:
            copied.append(("service_name", "service"))
        rules += [{"source_labels": [f"__meta_kubernetes_{a}"], "target_label": b} for a, b in copied]
        rules.append({"target_label": "job", "replacement": f"{namespace}/{monitor['metadata']['name']}"})
        rules.append({"target_label": "endpoint", "replacement": endpoint["port"]})
        names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
        rules += [{names.get(k, k): v for k, v in rule.items()} for rule in endpoint["relabelings"]]
        where = spec.get("namespaceSelector", {}).get("matchNames", [namespace])
        jobs.append(
            {
                "job_name": monitor["metadata"]["name"],
                "metrics_path": endpoint["path"],
                "relabel_configs": rules,
                "static_configs": _seen(cluster, where),
            }
        )
    return jobs


def _keep(label: str, value: str) -> dict[str, Any]:
    return {"source_labels": [f"__meta_kubernetes_{label}"], "action": "keep", "regex": value}
