"""The front's manifests: what has to agree between it, Redis and the service behind it, and that its image is slim."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from service.settings import Settings
from tests.knative.test_manifests import (
    GRACE_FOR_EXIT,
    KNATIVE,
    QUEUE_PROXY_KEEP_ALIVE,
    QUIET_PERIOD,
    ROOT,
    WITH_FRONT,
    annotations,
    environment,
    knative_service,
    network_policy,
    rendered,
    revision,
)
from tests.live import free_port
from tests.state.conftest import RedisServer, require_redis

FRONT = "knative-diffusion-front"
REDIS = "knative-diffusion-redis"
PASSWORD = "0123456789abcdef"

pytestmark = pytest.mark.parametrize("target", WITH_FRONT)


def container(target: str) -> dict[str, Any]:
    found: dict[str, Any] = revision(target, FRONT)["containers"][0]
    return found


def settings_of(target: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the kubelet would make the environment: ``$(NAME)`` is another variable's value."""
    with monkeypatch.context() as clean:
        for name, value in environment(container(target)).items():
            clean.setenv(name, value.replace("$(REDIS_PASSWORD)", PASSWORD))
        return Settings.read()


def stateful_set(target: str) -> dict[str, Any]:
    (found,) = [item for item in rendered(target) if item["kind"] == "StatefulSet"]
    return found


def redis_container(target: str) -> dict[str, Any]:
    found: dict[str, Any] = stateful_set(target)["spec"]["template"]["spec"]["containers"][0]
    return found


def option(target: str, name: str) -> str:
    command = redis_container(target)["command"]
    value: str = command[command.index(name) + 1]
    return value


def test_the_front_is_the_only_door(target: str) -> None:
    key = "networking.knative.dev/visibility"
    assert knative_service(target)["metadata"]["labels"][key] == "cluster-local"
    assert key not in knative_service(target, FRONT)["metadata"]["labels"]
    outward = [item for item in rendered(target) if item["kind"] == "Service" and "spec" in item]
    assert all(item["spec"].get("type", "ClusterIP") == "ClusterIP" for item in outward)


def test_jobs_go_to_the_service_as_many_as_it_has_pods(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(target, monkeypatch)
    service = knative_service(target)["metadata"]
    (address,) = settings.upstream.values()
    assert address == f"http://{service['name']}.{service['namespace']}.svc.cluster.local"
    assert settings.upstream_concurrency == int(annotations(target)["autoscaling.knative.dev/max-scale"])


def test_revision_rules(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, settings = revision(target, FRONT), settings_of(target, monkeypatch)
    assert spec["containerConcurrency"] == 0
    assert spec["timeoutSeconds"] == spec["responseStartTimeoutSeconds"] <= 600
    assert settings.request_timeout <= spec["timeoutSeconds"]
    assert QUIET_PERIOD + settings.drain_timeout + GRACE_FOR_EXIT <= spec["timeoutSeconds"]
    assert settings.keep_alive > QUEUE_PROXY_KEEP_ALIVE
    assert not {"nodeSelector", "tolerations", "runtimeClassName"} & spec.keys()
    assert not any("/" in name for name in container(target)["resources"]["limits"]), "a front has no device"
    knobs = knative_service(target, FRONT)["spec"]["template"]["metadata"]["annotations"]
    assert int(knobs["autoscaling.knative.dev/min-scale"]) >= 1


def test_sessions_are_the_same_on_both_sides(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = environment(revision(target)["containers"][0])
    front = environment(container(target))
    for name in ("SD_SESSION_COOKIE", "SD_SESSION_TTL", "SD_REQUEST_TIMEOUT", "SD_PORT"):
        assert front[name] == behind[name]


def test_state_is_where_the_front_looks_for_it(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(target, monkeypatch)
    assert settings.state_url is not None
    url = urlsplit(settings.state_url.get_secret_value())
    (service,) = [
        item for item in rendered(target) if item["kind"] == "Service" and item["metadata"]["name"] == REDIS
    ]
    assert (url.scheme, url.hostname, url.password) == ("redis", service["metadata"]["name"], PASSWORD)
    (port,) = service["spec"]["ports"]
    (declared,) = redis_container(target)["ports"]
    assert url.port == port["port"] == declared["containerPort"]
    assert port["targetPort"] == declared["name"]
    template = stateful_set(target)["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert stateful_set(target)["spec"]["serviceName"] == service["metadata"]["name"]


def test_the_password_is_in_a_secret_that_the_readme_makes(target: str) -> None:
    wanted = {"name": REDIS, "key": "password"}
    for one in (container(target), redis_container(target)):
        (given,) = [item["valueFrom"]["secretKeyRef"] for item in one["env"] if "valueFrom" in item]
        assert given == wanted
    assert not [item for item in rendered(target) if item["kind"] == "Secret"], "a password in a repository"
    text = (KNATIVE / target / "README.md").read_text()
    assert f"create secret generic {wanted['name']} --from-literal={wanted['key']}=" in text


def test_who_may_talk_to_whom(target: str) -> None:
    front = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": FRONT}}}
    policy = network_policy(target, REDIS)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"from": [front], "ports": [{"port": 6379}]}]
    assert not policy.get("egress")
    behind = network_policy(target, "knative-diffusion")["spec"]["ingress"]
    assert {"from": [front], "ports": [{"port": 8000}]} in behind
    egress = network_policy(target, FRONT)["spec"]["egress"]
    reached = {
        rule["to"][0]["podSelector"]["matchLabels"].get("app.kubernetes.io/name"): rule["ports"]
        for rule in egress
        if "podSelector" in rule["to"][0]
    }
    assert reached[REDIS] == [{"port": 6379}]
    assert reached["knative-diffusion"] == [{"port": 8000}]
    opened = {
        port["port"]
        for rule in network_policy(target, FRONT)["spec"]["ingress"]
        if "from" not in rule
        for port in rule["ports"]
    }
    assert opened == {8012, 8013, 8112}, "the front's own port is for Prometheus"


@contextmanager
def as_in_the_manifest(target: str, folder: Path) -> Iterator[RedisServer]:
    """Redis with the arguments of the manifest; only port and folder are others."""
    command = [word.replace("$(REDISCLI_AUTH)", PASSWORD) for word in redis_container(target)["command"]]
    assert command[0] == "redis-server"
    command[command.index("--dir") + 1] = str(folder)
    server = RedisServer(folder, *command[1:])
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_redis_runs_with_these_arguments(target: str, tmp_path: Path) -> None:
    require_redis()
    with as_in_the_manifest(target, tmp_path) as server:
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis(port=server.port, password=PASSWORD) as known:
            config = known.config_get()
            assert config["appendonly"] == "yes"
            assert config["maxmemory-policy"] == "volatile-ttl"
            assert int(config["maxmemory"]) == 256 * 2**20
        probe = redis_container(target)["readinessProbe"]["exec"]["command"]
        script = probe[2].replace("redis-cli", f"{shutil.which('redis-cli')} -p {server.port}")
        for password, code in ((PASSWORD, 0), ("wrong", 1)):
            shown = subprocess.run([*probe[:2], script], env={"REDISCLI_AUTH": password}, capture_output=True)
            assert shown.returncode == code
    limit = redis_container(target)["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) >= 2 * int(option(target, "--maxmemory").removesuffix("mb"))


_SLIM = """
import asyncio, sys
for name in {left_out!r}:
    sys.modules[name] = None
sys.path.insert(0, {root!r})
import httpx
from service.app import create_app
from service.settings import Settings

async def main():
    app = create_app(Settings.read(upstream="http://127.0.0.1:{port}"))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            for path in ("readyz", "sdapi/v1/options", "sdapi/v1/samplers", "sdapi/v1/sd-models", "sdapi/v1/memory",
                         "sdapi/v1/progress", "sdapi/v1/loras", "openapi.json", "metrics"):
                answer = await client.get("/" + path)
                assert answer.status_code == 200, (path, answer.status_code, answer.text)

asyncio.run(main())
print("answered")
"""


def test_the_image_has_all_that_a_front_needs(target: str) -> None:
    """What the Dockerfile leaves out is not importable here either."""
    (listed,) = re.findall(r"left_out = '([^']+)'\.split", (ROOT / "Dockerfile").read_text())
    modules = {"huggingface-hub": "huggingface_hub", "nvidia-ml-py": "pynvml"}
    left_out = [modules.get(name, name) for name in listed.split()]
    assert "torch" in left_out
    program = _SLIM.format(
        left_out=[*left_out, "service.engine", "service.demo_model"], root=str(ROOT), port=free_port()
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "answered" in shown.stdout
