"""Plain Prometheus and the operator give the series the same labels, and only what is ours is scraped."""

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import stand
from dashboards.query import Prometheus
from dashboards.series import ACTIVATOR, AUTOSCALER, FRONT, JOB, LABELS, QUEUE_PROXY
from service.metrics import Metrics
from tests.dashboards.cluster import MONITORS, from_config, from_monitors, pods
from tests.dashboards.conftest import World, need
from tests.dashboards.replay import exposition, replay

WANTED = {
    JOB: {"k8s_namespace_name": "default", "kn_service_name": "lean", "kn_revision_name": "lean-00001"},
    FRONT: {"k8s_namespace_name": "default", "kn_service_name": "front", "kn_revision_name": "front-00001"},
    QUEUE_PROXY: {
        "k8s_namespace_name": "default",
        "kn_service_name": "lean",
        "kn_revision_name": "lean-00001",
    },
    ACTIVATOR: {},
    AUTOSCALER: {},
}


@pytest.fixture(scope="module", params=["prometheus.yml", "monitors"])
def scraped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Prometheus configured either way, that has scraped the same pods."""
    need("prometheus")
    metrics = Metrics()
    metrics.request_done("txt2img", "ok", 2.0)
    with ExitStack() as stack:
        ports = [stack.enter_context(exposition(made.render)) for made in (metrics, Metrics())]
        ports += [stack.enter_context(replay(name, 1)) for name in ("queue-proxy", "activator", "autoscaler")]
        cluster = pods(*ports)
        jobs = (
            from_config(cluster) if request.param == "prometheus.yml" else from_monitors(cluster, "default")
        )
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        url = stack.enter_context(stand.prometheus(config, tmp_path_factory.mktemp("scraped")))
        api = Prometheus(url)
        stack.callback(api.close)
        for _ in range(100):
            targets = api.get("targets", state="active")["activeTargets"]
            if targets and all(target["health"] != "unknown" for target in targets):
                break
            time.sleep(0.1)
        yield api


def test_only_our_pods_and_ports_are_targets_with_knative_s_labels(scraped: Prometheus) -> None:
    targets = scraped.get("targets", state="active")["activeTargets"]
    by_job = {target["labels"]["job"]: target for target in targets}
    assert len(targets) == len(by_job) == 5
    for job, wanted in WANTED.items():
        assert by_job[job]["health"] == "up", by_job[job]["lastError"]
        labels = by_job[job]["labels"]
        assert {name: labels[name] for name in LABELS if name in labels} == wanted
        assert labels["pod"] in ("lean-00001-a", "front-00001-a", "activator-0", "autoscaler-0")


def test_no_label_of_a_series_is_pushed_aside(scraped: Prometheus) -> None:
    """A target label of the same name renames the series' own to exported_…; then panels find nothing."""
    names = scraped.get("labels")
    # queue-proxy's target_info names the pod's revision a second time; nothing reads that.
    moved = {name for name in names if name.startswith("exported_")}
    kept = {name for name in moved if not all(s["__name__"] == "target_info" for s in _having(scraped, name))}
    assert kept == set()
    (counted,) = scraped.instant(
        'sd_requests_total{endpoint="txt2img", outcome="ok", job="knative-diffusion"}', time.time()
    )
    assert counted.last == 1


def _having(api: Prometheus, label: str) -> list[dict[str, str]]:
    return list(api.get("series", **{"match[]": f'{{{label}!=""}}'}))


def test_knative_s_series_join_ours_without_renaming(world: World) -> None:
    joined = world.api.instant(
        f"sum by ({', '.join(LABELS)}) (kn_revision_pods_count) / on ({', '.join(LABELS)}) "
        "revision:sd_pods:count",
        world.window.end,
    )
    assert [series.labels["kn_service_name"] for series in joined] == ["lean"]


def test_the_component_builds_with_the_namespace_of_its_user(tmp_path: Path) -> None:
    outside = tmp_path / "overlay"
    outside.mkdir()
    component = Path("/".join([".."] * len(outside.parts[1:]))) / MONITORS.relative_to("/")
    (outside / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "images",
                "components": [str(component)],
            }
        )
    )
    done = subprocess.run(
        [need("kubectl"), "kustomize", str(outside)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    kinds = sorted(one["kind"] for one in found)
    assert kinds == ["ConfigMap"] * 4 + ["PodMonitor"] * 3 + ["PrometheusRule"] + ["ServiceMonitor"] * 2
    for one in found:
        assert one["metadata"]["namespace"] == "images"
        if one["kind"] == "ConfigMap":
            assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
            ((name, text),) = one["data"].items()
            assert name.endswith(".json")
            # kubectl apply keeps a copy in an annotation, which may not exceed 256 KiB.
            assert len(text) < 200_000
        if one["kind"] == "ServiceMonitor":
            assert one["spec"]["namespaceSelector"] == {"matchNames": ["knative-serving"]}
