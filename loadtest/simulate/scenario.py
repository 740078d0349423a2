"""What a scenario file says: traffic, service, pods, cluster, autoscaling, prices.

Autoscaling keys are Knative's own annotation names (``target-burst-capacity``), with its spelling of
durations (``"1m30s"``) or plain seconds; those of ``ray`` are Ray Serve's (``upscale_delay_s``). A file that
does not fit raises :class:`ScenarioError` with one sentence a fault.
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from loadtest.durations import in_seconds
from loadtest.simulate.distributions import Constant, Distribution

SHIPPED = Path(__file__).parent / "scenarios"


class ScenarioError(ValueError):
    """A scenario that cannot be used; the text says what to change."""


def parse_duration(value: object) -> object:
    """A duration as text in seconds; anything else as it is, for pydantic to judge."""
    return in_seconds(value) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
PositiveSeconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class Closed(_Section):
    """``hey -n requests -c concurrency``: each worker sends its share one after the other."""

    kind: Literal["closed"]
    requests: int = Field(ge=1, le=10_000_000)
    concurrency: int = Field(ge=1, le=100_000)
    think: Distribution = Constant(value=0.0)

    @model_validator(mode="after")
    def _enough(self) -> "Closed":
        if self.requests < self.concurrency:
            raise ValueError(
                f"{self.requests} requests cannot keep {self.concurrency} workers busy: "
                "raise requests or lower concurrency"
            )
        return self


class Open(_Section):
    """A rate that does not wait for answers: evenly spaced (``constant``) or random (``poisson``)."""

    kind: Literal["constant", "poisson"]
    rate: float = Field(gt=0, description="requests per second")
    duration: PositiveSeconds


class Daily(_Section):
    """``images-per-day`` images over each of ``days`` days, spread by ``curve`` (24 hourly weights)."""

    kind: Literal["daily"]
    images_per_day: int = Field(ge=1, le=100_000_000)
    days: int = Field(default=1, ge=1, le=31)
    curve: list[Annotated[float, Field(ge=0)]] = Field(
        default=[3, 2, 2, 1, 1, 2, 3, 4, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 8, 7, 6, 4]
    )

    @field_validator("curve")
    @classmethod
    def _hours(cls, curve: list[float]) -> list[float]:
        if len(curve) != 24 or sum(curve) == 0:
            raise ValueError(f"curve has {len(curve)} weights: give 24, one an hour, not all zero")
        return curve


class Trace(_Section):
    """Recorded arrivals: a text file of ``seconds`` or ``seconds,service seconds`` lines, rising."""

    kind: Literal["trace"]
    file: Path


Traffic = Annotated[Closed | Open | Daily | Trace, Field(discriminator="kind")]


class Service(_Section):
    """The work: seconds a request holds its GPU, and what is lost around it."""

    time: Distribution
    network: Seconds = 0.005
    cancel_latency: Seconds = 1.0  # the GPU works on this long after its client has gone
    client_timeout: Seconds = 0.0  # 0: clients wait for ever


class Pods(_Section):
    """How pods come and go."""

    start: Distribution  # from container start to ready: load the model, warm up
    overhead: Distribution = Constant(value=1.1)  # create, schedule, start containers
    image_pull: Distribution = Constant(value=0.0)  # first pod on each node
    readiness_period: Seconds = 1.0  # kubelet learns of readiness within this
    drain: Seconds = 30.0  # queue-proxy: quiet seconds before the application is told to stop
    stop: Seconds = 1.0  # from there to the GPU being free
    initial: int = Field(default=0, ge=0, le=10_000)  # ready at the start
    deploying: bool = False  # the revision is new: initial-scale pods start at once


class Cluster(_Section):
    """What there is to run on, and how requests travel."""

    gpu_quota: int = Field(ge=1, le=10_000)
    gpus_per_node: int = Field(default=1, ge=1, le=64)
    warm_nodes: int | None = Field(default=None, ge=0)  # None: every node of the quota is there
    node_provisioning: Distribution = Constant(value=0.0)
    node_idle: Seconds = 600.0
    activators: int = Field(default=1, ge=1, le=20)
    addressing: Literal["pods", "cluster-ip"] = "pods"
    kube_proxy_lag: Seconds = 1.0
    ingress_policy: Literal["round-robin", "least-request"] = "round-robin"
    programming: Seconds = 1.0  # from a change of mode to requests taking the other way


class Autoscaling(_Section):
    """The Knative settings of a Service and of config-autoscaler, by their own names."""

    container_concurrency: int = Field(default=1, ge=1, le=1000)
    timeout_seconds: float = Field(default=300.0, gt=0, le=600)
    metric: Literal["concurrency", "rps"] = "concurrency"
    target: float | None = Field(default=None, ge=0.01)
    target_utilization_percentage: float = Field(default=70.0, ge=1, le=100)
    target_burst_capacity: float = Field(default=211.0, ge=-1)
    window: Annotated[float, BeforeValidator(parse_duration), Field(ge=6, le=3600)] = 60.0
    panic_window_percentage: float = Field(default=10.0, ge=1, le=100)
    panic_threshold_percentage: float = Field(default=200.0, ge=110, le=1000)
    min_scale: int = Field(default=0, ge=0)
    max_scale: int = Field(default=0, ge=0)
    initial_scale: int = Field(default=1, ge=0)
    activation_scale: int = Field(default=0, ge=0)
    scale_down_delay: Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=3600)] = 0.0
    scale_to_zero_pod_retention_period: Annotated[
        float, BeforeValidator(parse_duration), Field(ge=0, le=3600)
    ] = 0.0
    scale_to_zero_grace_period: Seconds = 30.0
    enable_scale_to_zero: bool = True
    max_scale_up_rate: float = Field(default=1000.0, gt=1)
    max_scale_down_rate: float = Field(default=2.0, gt=1)
    activator_capacity: float = Field(default=100.0, ge=1)
    progress_deadline: Seconds = 600.0
    metric_aggregation_algorithm: Literal["linear", "weighted-exponential"] = "linear"

    @field_validator("container_concurrency", mode="before")
    @classmethod
    def _limited(cls, value: object) -> object:
        if value == 0:
            raise ValueError("0 means no limit, which a GPU does not have: set 1")
        return value

    @field_validator("target_burst_capacity")
    @classmethod
    def _burst(cls, value: float) -> float:
        if -1 < value < 0:
            raise ValueError(f"{value:g} is neither -1 (activator always in the path) nor 0 or more")
        return value

    @field_validator("activation_scale")
    @classmethod
    def _activation(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 is what happens anyway: set 2 or more, or leave it out")
        return value

    @model_validator(mode="after")
    def _bounds(self) -> "Autoscaling":
        if self.max_scale and self.min_scale > self.max_scale:
            raise ValueError(
                f"min-scale ({self.min_scale}) is above max-scale ({self.max_scale}): raise max-scale or "
                f"lower min-scale"
            )
        return self


class RayServe(BaseModel):
    """Ray Serve's settings of the GPU deployment, by their own names (``autoscaling_config`` and its neighbours).

    They hold where ``platform`` is ``ray``; the defaults are those of ``service.ray``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    target_ongoing_requests: float = Field(default=1.0, gt=0)
    max_ongoing_requests: int = Field(default=1, ge=1, le=1000)
    metrics_interval_s: PositiveSeconds = 10.0
    look_back_period_s: PositiveSeconds = 30.0
    upscaling_factor: float = Field(default=1.0, gt=0)
    downscaling_factor: float = Field(default=1.0, gt=0)
    upscale_delay_s: Seconds = 30.0
    downscale_delay_s: Seconds = 600.0
    downscale_to_zero_delay_s: Seconds | None = None
    aggregation_function: Literal["mean", "max", "min"] = "mean"
    initial_backoff_s: PositiveSeconds = 0.025
    max_backoff_s: PositiveSeconds = 0.05
    graceful_shutdown_wait_loop_s: PositiveSeconds = 2.0
    graceful_shutdown_timeout_s: Seconds = 660.0
    request_timeout_s: PositiveSeconds = 300.0  # SD_REQUEST_TIMEOUT: Serve itself sets no limit

    @model_validator(mode="after")
    def _bounds(self) -> "RayServe":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas}): raise "
                f"max_replicas or lower min_replicas"
            )
        return self


class FrontSettings(_Section):
    """A front before the fleet: ``SD_UPSTREAM_CONCURRENCY``, ``SD_QUEUE_SIZE``, ``SD_UPSTREAM_TRIES``."""

    concurrency: int = Field(4, ge=1)
    queue_size: int = Field(100, ge=0)
    tries: int = Field(10, ge=1)


class Cost(_Section):
    """Money: what a GPU costs an hour, and whether pods or whole nodes are billed."""

    per_gpu_hour: float = Field(default=1.0, ge=0)
    currency: str = "USD"
    billing: Literal["pods", "nodes"] = "pods"


class Scenario(_Section):
    """One thing to simulate."""

    name: str = ""
    description: str = ""
    seed: int = Field(default=1, ge=0)
    platform: Literal["knative", "ray"] = "knative"
    traffic: Traffic
    service: Service
    pods: Pods
    cluster: Cluster
    autoscaling: Autoscaling = Autoscaling()
    front: FrontSettings | None = None  # none: clients reach the fleet itself
    ray: RayServe = RayServe()
    cost: Cost = Cost()
    tail: Seconds = 0.0  # simulated on after the last answer

    @model_validator(mode="after")
    def _fits(self) -> "Scenario":
        if self.pods.initial > self.cluster.gpu_quota:
            raise ValueError(
                f"pods.initial ({self.pods.initial}) is above cluster.gpu-quota ({self.cluster.gpu_quota}): "
                f"lower it"
            )
        least = (
            ("autoscaling.min-scale", self.autoscaling.min_scale)
            if self.platform == "knative"
            else ("ray.min_replicas", self.ray.min_replicas)
        )
        if least[1] > self.cluster.gpu_quota:
            raise ValueError(
                f"{least[0]} ({least[1]}) is above cluster.gpu-quota ({self.cluster.gpu_quota}): some of these "
                f"pods would stay pending; lower {least[0].rpartition('.')[2]}"
            )
        return self

    @property
    def concurrency(self) -> int:
        """Requests that one pod works on at once."""
        ray, knative = self.ray.max_ongoing_requests, self.autoscaling.container_concurrency
        return knative if self.platform == "knative" else ray

    @property
    def timeout(self) -> float:
        """Seconds after which a request is given up by the service."""
        ray, knative = self.ray.request_timeout_s, self.autoscaling.timeout_seconds
        return knative if self.platform == "knative" else ray


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section that ``location`` (of an unknown key) points into."""
    options: list[type[BaseModel]] = [model]
    for step in location[:-1]:
        found: list[type[BaseModel]] = []
        for option in options:
            for name, info in option.model_fields.items():
                if step in (name, info.alias):
                    found += _models_in(info.annotation)
        options = found or options
    return sorted({info.alias or name for o in options for name, info in o.model_fields.items()})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]


def _sentence(error: Any) -> str:
    """One fault as a sentence that names the key and what to change."""
    location = tuple(error["loc"])
    where = ".".join(str(part) for part in location)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where} is missing: add it"
    if error["type"] == "extra_forbidden":
        known = _known_keys(Scenario, location)
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here are {', '.join(known)}"
        return f"{where} is not a key of a scenario: {hint}"
    given = error.get("input")
    shown = f" (it is {given!r})" if isinstance(given, str | int | float | bool | type(None)) else ""
    return f"{where}{shown}: {message[0].lower() + message[1:]}" if where else message


def parse(data: object, *, source: str = "scenario") -> Scenario:
    """A scenario from plain data (as YAML or JSON gives it). Raises :class:`ScenarioError`."""
    if not isinstance(data, dict):
        raise ScenarioError(f"{source}: a scenario is a mapping with traffic, service, pods and cluster")
    try:
        return Scenario.model_validate(data)
    except ValidationError as e:
        faults = [_sentence(error) for error in e.errors()]
        raise ScenarioError("\n".join(f"{source}: {fault}" for fault in faults)) from e


def load_data(path: Path) -> dict[str, Any]:
    """The mapping in a scenario file, YAML or JSON; a bare name is looked up among the shipped ones.

    A trace's ``file`` is taken relative to the scenario. Raises :class:`ScenarioError`.
    """
    if not path.exists() and path.name == str(path) and (SHIPPED / f"{path.stem}.yaml").exists():
        path = SHIPPED / f"{path.stem}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise ScenarioError(
            f"{path} cannot be read ({getattr(e, 'strerror', None) or e}): "
            f"give the path of a scenario file, or one of {shipped}"
        ) from e
    try:
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, json.JSONDecodeError) as e:
        raise ScenarioError(f"{path} is neither YAML nor JSON: {' '.join(str(e).split())}") from e
    if not isinstance(data, dict):
        raise ScenarioError(f"{path}: a scenario is a mapping with traffic, service, pods and cluster")
    traffic = data.get("traffic")
    if isinstance(traffic, dict) and isinstance(traffic.get("file"), str):
        traffic["file"] = str(path.parent / traffic["file"])
    data.setdefault("name", path.stem)
    return data


def load(path: Path) -> Scenario:
    """The scenario in a file. Raises :class:`ScenarioError`."""
    return parse(load_data(path), source=str(path))
