"""The dashboard *Latency*: how long an image takes end to end, and in which stage."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import section, start
from dashboards.panels import Query, Steps, heat, lines, number, rows
from dashboards.series import (
    ACTIVATOR,
    QUEUE_PROXY,
    REVISION,
    increase,
    legend,
    mean,
    of,
    quantile,
    rate,
    total,
)

WHOLE = "sd_request_duration_seconds"
STAGE = "sd_stage_duration_seconds"
QUANTILES = (0.5, 0.9, 0.95, 0.99)
TARGET: Steps = ((30, "orange"), (120, "red"))
"""Seconds: the target of the alert SDLatencyP95OverTarget, and what few people wait for."""


def _name(q: float) -> str:
    return f"P{q * 100:g}"


def _stages(q: float, window: str) -> str:
    """The quantile of every stage of a request, and of the cold starts of the pods that are there."""
    cold = f"quantile({q:g}, {of('sd_cold_start_seconds', part='total')} > 0)"
    return (
        f"{quantile(q, STAGE, 'stage', window=window)}"
        f' or label_replace({cold}, "stage", "cold_start", "", "")'
    )


def build() -> Dashboard:
    """The dashboard."""
    board = start("latency", "Latency", "How long an image takes, end to end and by stage.")
    section(
        board,
        "End to end",
        *(
            number(
                _name(q),
                f"{q:.0%} of images came back within this time, over the time range shown, from the "
                "arrival of "
                "the request at this service to its last byte.",
                Query(quantile(q, WHOLE, window="$__range", result="ok")),
                unit="s",
                steps=TARGET,
                width=6,
                decimals=2,
            )
            for q in QUANTILES
        ),
        lines(
            "Quantiles",
            "From arrival at this service to the last byte, images that were made only; the dashed lines "
            "are the "
            "target and what few people wait for.",
            *(Query(quantile(q, WHOLE, result="ok"), _name(q)) for q in QUANTILES),
            unit="s",
            steps=TARGET,
        ),
        heat(
            "Heat map",
            "How many requests for images, failed ones too, took how long. Two bands: two sizes of "
            "image, or a queue.",
            Query(total(increase(f"{WHOLE}_bucket"), "le"), "{{le}}"),
            steps=TARGET,
        ),
        lines(
            "P95 by revision",
            "Compares a new revision with the old one.",
            Query(quantile(0.95, WHOLE, REVISION, result="ok"), legend(REVISION)),
            unit="s",
            steps=TARGET,
        ),
        lines(
            "P95 by kind of request",
            "txt2img, img2img, the streaming endpoint (generate) and extras have work of different size.",
            Query(quantile(0.95, WHOLE, "endpoint", result="ok"), "{{endpoint}}"),
            unit="s",
            steps=TARGET,
        ),
    )
    section(
        board,
        "Stages",
        rows(
            "Stages in this range",
            "Quantiles of each stage; cold_start is of the pods that are there, and no part of a warm "
            "request.",
            *(Query(_stages(q, "$__range"), _name(q)) for q in QUANTILES),
            keys=("stage",),
            unit="s",
            steps=TARGET,
        ),
        lines(
            "Where the time goes",
            "Mean seconds per request in each stage. Growing queue: more pods; growing denoising: more "
            "steps, "
            "larger images or a slower device; growing encoding: a busy CPU.",
            Query(
                f"{total(rate(f'{STAGE}_sum'), 'stage')}"
                f" / ignoring (stage) group_left () ({total(rate(f'{WHOLE}_count', result='ok'))} > 0) > 0",
                "{{stage}}",
            ),
            unit="s",
            stack=True,
        ),
        *(
            lines(
                f"{_name(q)} by stage",
                f"{q:.0%} of requests spent at most this long in the stage.",
                Query(_stages(q, "$__rate_interval"), "{{stage}}"),
                unit="s",
                steps=TARGET,
            )
            for q in QUANTILES
        ),
        heat(
            "Queue heat map",
            "How long requests waited for the device inside the pod. Anything here means one pod got two "
            "requests.",
            Query(
                total(increase(f"{STAGE}_bucket", stage="queue"), "le"),
                "{{le}}",
            ),
            steps=TARGET,
        ),
        lines(
            "Before the pod",
            "Mean time that requests spent in Knative before a pod took them: cold start and waiting for "
            "a free pod.",
            Query(
                f"clamp_min({mean('http_server_request_duration_seconds', job=ACTIVATOR)} - "
                f"{mean('kn_serving_invocation_duration_seconds', job=QUEUE_PROXY)}, 0)",
                "mean",
            ),
            unit="s",
            steps=TARGET,
        ),
    )
    return board
