"""PromQL in small pieces: the labels that every series carries, selectors, rates and quantiles.

Scraping gives the service's own series the labels that Knative's components put on theirs, so that one set of
variables filters both and they can be joined without renaming.
"""

from typing import Final

NAMESPACE: Final = "k8s_namespace_name"
SERVICE: Final = "kn_service_name"
REVISION: Final = "kn_revision_name"
LABELS: Final = (NAMESPACE, SERVICE, REVISION)

JOB: Final = "knative-diffusion"
"""The ``job`` label of the pods that have a device."""
FRONT: Final = "knative-diffusion-front"
"""The ``job`` label of fronts, which export the same series: :func:`of` tells them apart."""
ACTIVATOR: Final = "activator"
QUEUE_PROXY: Final = "queue-proxy"
AUTOSCALER: Final = "autoscaler"

CHOSEN: Final = f'{NAMESPACE}=~"$namespace", {SERVICE}=~"$service", {REVISION}=~"$revision"'
RATE: Final = "$__rate_interval"

FAILURES: Final = "queue_full|memory_full|draining|not_ready|deadline|out_of_memory|device_lost|error"
"""Outcomes that count against the service; a bad request or a cancelled one does not."""


ASKED: Final = ("sd_requests_total", "sd_http_requests_total", "sd_request_duration_seconds")
"""What clients ask for. Behind a front each request is a job of a pod too, which is left out: it counts once."""


def of(name: str, **matchers: str) -> str:
    """The series ``name`` of the chosen namespace, service and revision, narrowed by label.

    A value with ``|`` or ``.`` in it is a regular expression. Without a ``job``, ours are those of pods with a device;
    what clients ask for is counted where they ask, at a front or at a pod.
    """
    narrowed = [
        f'{label}{"=~" if set(value) & set("|.") else "="}"{value}"' for label, value in matchers.items()
    ]
    if name.startswith(ASKED) and "endpoint" not in matchers:
        narrowed.append('endpoint!="job"')
    elif name.startswith(("sd_", "process_")) and "job" not in matchers:
        narrowed.append(f'job="{JOB}"')
    return f"{name}{{{', '.join((CHOSEN, *narrowed))}}}"


def rate(name: str, window: str = RATE, **matchers: str) -> str:
    """Increase per second of the counter ``name`` over ``window``."""
    return f"rate({of(name, **matchers)}[{window}])"


def increase(name: str, window: str = RATE, **matchers: str) -> str:
    """Increase of the counter ``name`` over ``window``."""
    return f"increase({of(name, **matchers)}[{window}])"


def total(expression: str, *by: str) -> str:
    """The sum of ``expression``, kept apart by the labels ``by``."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def ratio(part: str, whole: str) -> str:
    """``part`` / ``whole`` with no result, instead of NaN, where there is no whole."""
    return f"{part} / ({whole} > 0)"


def quantile(q: float, histogram: str, *by: str, window: str = RATE, **matchers: str) -> str:
    """The ``q`` quantile (0..1) of ``histogram``; no result where nothing was observed."""
    buckets = total(rate(f"{histogram}_bucket", window, **matchers), *by, "le")
    return f"histogram_quantile({q:g}, {buckets}) >= 0"


def mean(histogram: str, window: str = RATE, **matchers: str) -> str:
    """The mean of what ``histogram`` observed."""
    seconds, count = (total(rate(f"{histogram}_{part}", window, **matchers)) for part in ("sum", "count"))
    return ratio(seconds, count)


def legend(label: str) -> str:
    """A legend that shows the value of ``label``."""
    return f"{{{{{label}}}}}"
