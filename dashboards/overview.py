"""The dashboard *Overview*: is it up, is it answering, is it scaling?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import section, start
from dashboards.panels import Query, lines, number, timeline
from dashboards.series import (
    ACTIVATOR,
    FAILURES,
    FRONT,
    QUEUE_PROXY,
    REVISION,
    legend,
    mean,
    of,
    quantile,
    rate,
    ratio,
    total,
)

ROUTE = "http_server_request_duration_seconds"
COUNTED = f"ok|{FAILURES}"


def _status(pattern: str) -> str:
    """Requests per second at the route whose status matches; 0 where there is traffic but none such."""
    some = total(_route(http_response_status_code=pattern), REVISION)
    return f"{some} or {total(_route(), REVISION)} * 0"


def _route(**matchers: str) -> str:
    """Requests per second at the route."""
    return rate(f"{ROUTE}_count", job=ACTIVATOR, **matchers)


def _by_class(requests: str, code: str) -> str:
    """Requests per second by class of response (2xx, 4xx …), from the first digit of the label ``code``."""
    return f'sum by (class) (label_replace({requests}, "class", "${{1}}xx", "{code}", "(.).*"))'


def build() -> Dashboard:
    """The dashboard."""
    board = start("overview", "Overview", "Is it up, is it answering, is it scaling?")
    section(
        board,
        "Now",
        number(
            "Pods ready",
            "Pods that can take a request now. 0 is normal when nobody asks: the next request wakes one.",
            Query(f"{total(of('sd_lifecycle_state', state='ready|busy'))} or vector(0)"),
            unit="short",
            base="blue",
            steps=((1, "green"),),
        ),
        number(
            "Image requests",
            "Requests for images per minute, over the time range shown.",
            Query(f"{total(rate('sd_requests_total', '$__range'))} * 60"),
            unit="reqpm",
            decimals=1,
        ),
        number(
            "Success",
            "Share of requests for images that got them, over the time range shown. "
            "Bad requests and cancelled ones are not counted.",
            Query(
                ratio(
                    total(rate("sd_requests_total", "$__range", outcome="ok")),
                    total(rate("sd_requests_total", "$__range", outcome=COUNTED)),
                )
            ),
            unit="percentunit",
            base="red",
            steps=((0.95, "orange"), (0.99, "green")),
            decimals=1,
        ),
        number(
            "P95",
            "95 % of images came back within this time, over the time range shown.",
            Query(quantile(0.95, "sd_request_duration_seconds", window="$__range", result="ok")),
            unit="s",
            steps=((30, "orange"), (120, "red")),
            decimals=1,
        ),
        number(
            "Waiting",
            "Requests that wait for the device inside the pods now.",
            Query(total(of("sd_queue_depth"))),
            unit="short",
            steps=((3, "orange"), (10, "red")),
        ),
        number(
            "Alerts",
            "Alerts of this service that are firing now; their runbooks are in the rules.",
            Query('count(ALERTS{alertstate="firing", alertname=~"SD.*"}) or vector(0)'),
            unit="short",
            steps=((1, "red"),),
        ),
    )
    section(
        board,
        "Requests, as the service saw them",
        lines(
            "Image requests by outcome",
            "How requests for images ended. queue_full, not_ready and draining are refusals that may be "
            "retried.",
            Query(f"{total(rate('sd_requests_total'), 'outcome')} > 0", "{{outcome}}"),
            unit="reqps",
            stack=True,
        ),
        lines(
            "Image requests by revision",
            "Requests for images per second; during a rollout two revisions share them.",
            Query(total(rate("sd_requests_total"), REVISION), legend(REVISION)),
            unit="reqps",
            stack=True,
        ),
        lines(
            "Success by revision",
            "Share of requests for images that got them; the dashed line is the objective of 99 %.",
            Query(
                ratio(
                    total(rate("sd_requests_total", outcome="ok"), REVISION),
                    total(rate("sd_requests_total", outcome=COUNTED), REVISION),
                ),
                legend(REVISION),
            ),
            unit="percentunit",
            top=1,
            steps=((0.99, "orange"),),
        ),
        lines(
            "HTTP responses by class",
            "Every HTTP exchange but probes and scrapes, polls and lists too: 4xx is the clients' doing, 5xx ours.",
            Query(_by_class(rate("sd_http_requests_total"), "code"), "{{class}}"),
            unit="reqps",
        ),
    )
    section(
        board,
        "Requests, as clients saw them (Knative's activator)",
        lines(
            "Request volume by revision",
            "All requests through the route, also those that never reached a pod.",
            Query(total(_route(), REVISION), legend(REVISION)),
            unit="reqps",
            stack=True,
        ),
        lines(
            "Responses by class",
            "Responses of the route. More 5xx than the pods count means requests that timed out in a "
            "cold start.",
            Query(_by_class(_route(), "http_response_status_code"), "{{class}}"),
            unit="reqps",
            stack=True,
        ),
        lines(
            "Success at the route",
            "Share of 2xx answers by revision; the dashed line is the objective of 99 %.",
            Query(
                ratio(
                    total(_route(http_response_status_code="2.."), REVISION),
                    total(_route(), REVISION),
                ),
                legend(REVISION),
            ),
            unit="percentunit",
            top=1,
            steps=((0.99, "orange"),),
        ),
        lines(
            "4xx and 5xx at the route",
            "Failed requests per second: 4xx the clients' doing, 5xx the service's or Knative's.",
            Query(_status("4.."), f"4xx {{{{{REVISION}}}}}"),
            Query(_status("5.."), f"5xx {{{{{REVISION}}}}}"),
            unit="reqps",
            steps=((0.1, "red"),),
        ),
    )
    section(
        board,
        "Scaling",
        lines(
            "Pod scaling",
            "What the autoscaler wants against what there is. Pending for long: no free GPU, or a slow "
            "image pull.",
            Query(total(of("kn_revision_pods_desired")), "desired"),
            Query(total(of("kn_revision_pods_requested")), "requested"),
            Query(total(of("kn_revision_pods_count")), "ready"),
            Query(total(of("kn_revision_pods_not_ready_count")), "not ready"),
            Query(total(of("kn_revision_pods_pending_count")), "pending"),
            Query(total(of("kn_revision_pods_terminating_count")), "terminating"),
            unit="short",
        ),
        lines(
            "Ready pods by revision",
            "Each pod holds a GPU. Two revisions at once is a rollout, or an old one that does not reach "
            "zero.",
            Query(total(of("kn_revision_pods_count"), REVISION), legend(REVISION)),
            unit="short",
            stack=True,
        ),
        lines(
            "Concurrency",
            "Requests under way as the autoscaler averages them: over the window (stable) and its last tenth "
            "(panic), against the target per pod.",
            Query(total(of("kn_revision_concurrency_stable")), "stable"),
            Query(total(of("kn_revision_concurrency_panic")), "panic"),
            Query(f"max({of('kn_revision_concurrency_target')})", "target per pod"),
            unit="short",
        ),
        lines(
            "Waiting before the pods",
            "Requests that the activator holds back (queued) or has handed on (active), and those in the "
            "pods' "
            "queue-proxies. Queued without new pods: max-scale is reached.",
            Query(_held("queued"), "queued at activator"),
            Query(_held("active"), "active at activator"),
            Query(total(of("kn_serving_queue_depth", job=QUEUE_PROXY)), "in queue-proxies"),
            unit="short",
            steps=((10, "orange"),),
        ),
        timeline(
            "Panic mode",
            "Red: a burst, the autoscaler only scales up until a whole window has passed.",
            Query(f"max by ({REVISION}) ({of('kn_revision_panic_mode')})", legend(REVISION)),
            states={"0": ("stable", "green"), "1": ("panic", "red")},
        ),
        lines(
            "Time in the pod",
            "Mean time from queue-proxy to the last byte, cold start and waiting not included. "
            "Knative's own histograms end at 10 s, so only their mean is shown.",
            Query(mean("kn_serving_invocation_duration_seconds", job=QUEUE_PROXY), "mean"),
            unit="s",
            height=6,
        ),
    )
    section(
        board,
        "Front, where there is one",
        lines(
            "Jobs by upstream",
            "Jobs that wait at the fronts for a place at an upstream, and those that are there. Waiting at full "
            "places: more pods and a larger SD_UPSTREAM_CONCURRENCY.",
            Query(total(of("sd_upstream_waiting", job=FRONT), "upstream"), "waiting {{upstream}}"),
            Query(total(of("sd_upstream_in_flight", job=FRONT), "upstream"), "there {{upstream}}"),
            unit="short",
        ),
        lines(
            "Longest wait",
            "How long the job that has waited longest has waited. Sessions take turns: one with many jobs waits, "
            "others do not wait for all of them.",
            Query(f"max by (upstream) ({of('sd_upstream_oldest_seconds', job=FRONT)})", "{{upstream}}"),
            unit="s",
            steps=((60, "orange"), (300, "red")),
        ),
        lines(
            "Jobs sent again",
            "Attempts that failed for no fault of the job, by the five most frequent causes. The client sees none of "
            "it, but time.",
            Query(
                f"topk(5, {total(rate('sd_upstream_retries_total', job=FRONT), 'cause')})",
                "{{cause}}",
            ),
            unit="reqps",
            steps=((0.1, "orange"),),
        ),
        lines(
            "Time beside the pods",
            "Mean seconds of a request that passed in no pod: its turn at the front, Knative's queue, cold starts, "
            "and attempts that failed.",
            Query(_beside(), "mean"),
            unit="s",
            steps=((30, "orange"),),
        ),
        lines(
            "Failures of the state",
            "Failures of the store of sessions and tasks (SD_STATE_URL), by kind. While it is away, fronts answer what "
            "they know.",
            Query(total(rate("sd_state_errors_total", job=FRONT), "kind"), "{{kind}}"),
            unit="short",
            steps=((0.1, "red"),),
        ),
        lines(
            "Errors of the front",
            "Errors that fronts answered, by code of the exception tree.",
            Query(total(rate("sd_errors_total", job=FRONT), "code"), "{{code}}"),
            unit="reqps",
            steps=((0.1, "red"),),
        ),
    )
    section(
        board,
        "On Ray Serve",
        lines(
            "Replicas",
            "GPU replicas that Serve's autoscaler wants, and those that are healthy. Fewer for long: no free GPU, "
            "or a node or an image that is still on its way.",
            Query(f"max({of('ray_serve_autoscaling_target_replicas', deployment='Gpu')})", "wanted"),
            Query(total(of("ray_serve_deployment_replica_healthy", deployment="Gpu")), "healthy"),
            unit="short",
        ),
        lines(
            "Jobs at Ray",
            "Jobs that wait for a replica, and those that are with one. Waiting without new replicas: max_replicas is "
            "reached.",
            Query(total(of("ray_serve_deployment_queued_queries", deployment="Gpu")), "waiting"),
            Query(
                total(of("ray_serve_num_ongoing_requests_at_replicas", deployment="Gpu")), "with a replica"
            ),
            unit="short",
            steps=((10, "orange"),),
        ),
        lines(
            "Responses at Serve's proxy",
            "Every HTTP exchange as Ray's proxy saw it, polls and lists too. 499: the client went away.",
            Query(_by_class(rate("ray_serve_num_http_requests_total"), "status_code"), "{{class}}"),
            unit="reqps",
            stack=True,
            width=24,
        ),
    )
    return board


def _beside() -> str:
    """Seconds of all requests at the fronts, less those of their jobs in the pods, a request."""
    whole = "sd_request_duration_seconds"
    asked = total(rate(f"{whole}_sum", job=FRONT))
    count = total(rate(f"{whole}_count", job=FRONT))
    drawn = f"{total(rate(f'{whole}_sum', endpoint='job'))}"
    return f"clamp_min(({asked} - {drawn}) / ({count} > 0), 0)"


def _held(state: str) -> str:
    """Requests at the activator; its series carry no service, so the autoscaler's say which are ours."""
    ours = of("kn_revision_pods_desired")
    held = f'kn_revision_request_{state}{{k8s_namespace_name=~"$namespace", {REVISION}=~"$revision"}}'
    return f"sum({held} and on (k8s_namespace_name, {REVISION}) {ours})"
