"""A backend on Ray for the contract: the port in this process, the replicas on a cluster of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from service.core.lifecycle import Lifecycle
from service.metrics import Metrics
from service.settings import Settings
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve_here
from tests.ray.cluster import ENVIRONMENT, cluster


@contextmanager
def on_ray() -> Iterator[LiveServer]:
    """An ingress of this process before one replica with a fake engine."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
            environment.setenv(name, ENVIRONMENT[name])
        yield from _served()


def _served() -> Iterator[LiveServer]:
    import ray
    from ray import serve

    from service.backends.ray import RayBackend
    from service.ray import deployments

    with cluster() as head:
        ray.init(address=head.address, namespace="serve", log_to_driver=False, configure_logging=False)
        try:
            serve.start(proxy_location="Disabled")
            scaling = {"min_replicas": 1, "max_replicas": 1, "target_ongoing_requests": 1}
            engine = partial(FakeEngine, step_time=0.01)
            application = deployments.build(
                Settings.read(device="cpu"),
                engine,
                autoscaling_config=scaling,
                ray_actor_options={"num_cpus": 0.1},
            )
            serve.run(application, name="contract", route_prefix=None)
            handle = serve.get_deployment_handle("Gpu", "contract")

            def backend(settings: Settings, lifecycle: Lifecycle, metrics: Metrics) -> Any:
                return RayBackend(
                    handle, deployments.control, lifecycle, metrics,
                    concurrency=1, queue_size=settings.queue_size, seconds=settings.request_timeout,
                    tries=3, largest_event=10**9,
                )  # fmt: skip

            with serve_here(make_backend=backend) as live:
                yield live
            serve.shutdown()  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()
