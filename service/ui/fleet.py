"""The fleet tab: who draws, who waits, cold starts and errors, read from the service's own metrics."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from service.ui import fragments
from service.ui.words import Words


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of the exposition."""

    name: str
    labels: dict[str, str]
    value: float


def read(exposition: str) -> list[Sample]:
    """The samples of an exposition in Prometheus' text format."""
    return [
        Sample(sample.name, dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    ]


def show(samples: list[Sample], say: Words, pod: str) -> str:
    """The tab's content as HTML."""
    return (
        fragments.figures(_figures(samples, say, pod))
        + _upstreams(samples, say)
        + fragments.table(
            say("fleet.cold"),
            (say("fleet.part"), say("fleet.seconds")),
            (
                (say.get("part." + one.labels["part"]) or one.labels["part"], f"{one.value:.2f}")
                for one in _named(samples, "sd_cold_start_seconds")
                if one.value
            ),
            say("fleet.none"),
        )
        + fragments.table(
            say("fleet.requests"),
            (say("fleet.kind"), say("fleet.outcome"), say("fleet.count")),
            (
                (one.labels.get("endpoint", ""), one.labels.get("outcome", ""), f"{one.value:.0f}")
                for one in _named(samples, "sd_requests_total")
                if one.value
            ),
            say("fleet.none"),
        )
        + fragments.table(
            say("fleet.errors"),
            (say("fleet.code"), say("fleet.count"), say("fleet.meaning")),
            (
                (one.labels["code"], f"{one.value:.0f}", say.get("problem." + one.labels["code"]) or "")
                for one in _named(samples, "sd_errors_total")
                if one.value
            ),
            say("fleet.no_errors"),
        )
    )


def _figures(samples: list[Sample], say: Words, pod: str) -> Iterator[tuple[str, str]]:
    state = next((one.labels["state"] for one in _named(samples, "sd_lifecycle_state") if one.value), "")
    if state:
        yield say("fleet.state"), say.get(f"status.{state}") or state
    if pod:
        yield say("fleet.pod"), pod
    for one in _named(samples, "sd_model_info"):
        yield say("fleet.model"), one.labels.get("model", "")
        yield say("fleet.device"), f"{one.labels.get('device', '')} {one.labels.get('dtype', '')}"
    running = _sum(samples, "sd_running_seconds")
    drawing = _sum(samples, "sd_in_flight") or 0
    yield (
        say("fleet.drawing"),
        f"{drawing:.0f}" + (f" · {fragments.seconds(running)}" if drawing and running else ""),
    )
    depth, limit = _sum(samples, "sd_queue_depth"), _sum(samples, "sd_queue_limit")
    if depth is not None:
        yield say("fleet.queue"), f"{depth:.0f} / {limit or 0:.0f}"
    yield say("fleet.images"), f"{_sum(samples, 'sd_images_total') or 0:.0f}"
    total, count = (
        _sum(samples, f"sd_request_duration_seconds_{what}", result="ok") for what in ("sum", "count")
    )
    if total is not None and count:
        yield say("fleet.mean"), f"{total / count:.2f} s"
    busy = _sum(samples, "sd_device_seconds_total")
    if busy is not None:
        yield say("fleet.busy"), fragments.seconds(busy)
    memory = {one.labels["kind"]: one.value for one in _named(samples, "sd_gpu_memory_bytes")}
    if memory.get("total"):
        yield say("fleet.memory"), f"{memory.get('used', 0) / 2**30:.1f} / {memory['total'] / 2**30:.1f} GiB"
    if (resident := _sum(samples, "process_resident_memory_bytes")) is not None:
        yield say("fleet.resident"), f"{resident / 2**30:.2f} GiB"


def _upstreams(samples: list[Sample], say: Words) -> str:
    """One row for each service behind a front, whatever its series tell of it; "" where there is none."""
    rows: dict[str, dict[str, float]] = {}
    for one in samples:
        if one.name.startswith("sd_") and "upstream" in one.labels and not one.name.endswith("_bucket"):
            rest = " ".join(value for name, value in one.labels.items() if name != "upstream")
            name = one.name.removeprefix("sd_").removeprefix("front_").removeprefix("upstream_")
            rows.setdefault(one.labels["upstream"], {})[f"{name} {rest}".strip()] = one.value
    if not rows:
        return ""
    return fragments.table(
        say("fleet.upstreams"),
        (say("fleet.upstream"), say("fleet.figure"), say("fleet.count")),
        (
            (upstream, name, f"{value:g}")
            for upstream, told in sorted(rows.items())
            for name, value in sorted(told.items())
            if value
        ),
        say("fleet.none"),
    )


def _named(samples: list[Sample], name: str) -> Iterator[Sample]:
    return (one for one in samples if one.name == name)


def _sum(samples: list[Sample], name: str, **labels: str) -> float | None:
    found = [
        one.value
        for one in _named(samples, name)
        if all(one.labels.get(label) == value for label, value in labels.items())
    ]
    return sum(found) if found else None
