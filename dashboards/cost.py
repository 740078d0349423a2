"""The dashboard *Cold starts and cost*: what scale to zero saves, what it costs, and what a picture costs."""

from grafana_foundation_sdk.builders import dashboard as dashboard_builder
from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import section, start
from dashboards.panels import Query, lines, number, timeline
from dashboards.series import JOB, REVISION, SERVICE, increase, legend, of, rate, ratio, total

STARTED = of("process_start_time_seconds", job=JOB)
TOTAL = of("sd_cold_start_seconds", part="total")
PARTS = of("sd_cold_start_seconds", part="imports|weights|warm_up")
SAMPLE = 15
"""Seconds between the points at which pods are counted."""


def _held(window: str) -> str:
    """Seconds for which pods, each with its GPU, were there during ``window``, idle time included."""
    return f"sum_over_time((count({of('sd_in_flight')}))[{window}:{SAMPLE}s]) * {SAMPLE}"


def _busy(window: str) -> str:
    """Seconds for which requests held a device during ``window``."""
    return total(increase("sd_device_seconds_total", window))


def _images(window: str) -> str:
    return total(increase("sd_images_total", window))


def _started(window: str, seconds: str) -> str:
    """Pods whose process started during ``window``, which is ``seconds`` long."""
    return f"last_over_time({STARTED}[{window}]) > (time() - {seconds})"


def _loading(window: str, seconds: str) -> str:
    """Seconds that the pods which started during ``window`` needed, or need so far, to become ready."""
    recent = _started(window, seconds)
    done = f"sum(last_over_time({TOTAL}[{window}]) and on (instance) ({recent})) or vector(0)"
    loading = of("sd_lifecycle_state", state="starting|loading")
    so_far = f"sum(time() - {STARTED} and on (instance) {loading} == 1) or vector(0)"
    return f"(({done}) + ({so_far}))"


def _money(window: str) -> str:
    """Price of 1,000 images made during ``window``."""
    return f"{ratio(_held(window), _images(window))} * 1000 / 3600 * $price"


def build() -> Dashboard:
    """The dashboard."""
    board = start("cost", "Cold starts and cost", "What scale to zero saves, and what a picture costs.")
    board.with_variable(
        dashboard_builder.TextBoxVariable("price")
        .label("$ per GPU pod and hour")
        .description("What an hour of one pod costs, its GPU and share of the node included.")
        .default_value("1.00")
    )
    section(
        board,
        "Over the time range shown",
        number(
            "Cold starts",
            "Pods whose process started in the time range shown.",
            Query(f"count({_started('$__range', '$__range_s')}) or vector(0)"),
            unit="short",
            steps=((50, "orange"),),
        ),
        number(
            "Cold start P95",
            "95 % of the pods seen in the time range were ready within this time of their process' start; "
            "node, image pull and scheduling come on top.",
            Query(f"quantile(0.95, last_over_time({TOTAL}[$__range]) > 0)"),
            unit="s",
            steps=((60, "orange"), (300, "red")),
            decimals=1,
        ),
        number(
            "Time at zero",
            "Share of the time range for which the chosen services had no pod, as Knative's autoscaler "
            "saw it.",
            Query(
                f"avg(avg_over_time((sum by ({SERVICE}) ({of('kn_revision_pods_count')}) == bool 0)"
                f"[$__range:{SAMPLE}s]))"
            ),
            unit="percentunit",
            base="blue",
            decimals=0,
        ),
        number(
            "GPU-s per image, busy",
            "Seconds for which a request held the device, per image: the speed of the hardware.",
            Query(ratio(_busy("$__range"), _images("$__range"))),
            unit="s",
            decimals=2,
            steps=((30, "orange"),),
        ),
        number(
            "GPU-s per image, held",
            "Seconds for which pods existed, loading and idle included, per image: what is paid for.",
            Query(ratio(_held("$__range"), _images("$__range"))),
            unit="s",
            decimals=2,
            steps=((120, "orange"),),
        ),
        number(
            "Per 1,000 images",
            "Money for 1,000 images at the price above, from the time for which pods existed (read $ as "
            "your currency).",
            Query(_money("$__range")),
            unit="currencyUSD",
            decimals=2,
        ),
    )
    section(
        board,
        "Cold starts",
        lines(
            "Cold starts over time",
            "Pods first seen in each interval, by revision. Many short-lived ones: raise the pod retention "
            "period.",
            Query(
                f"count by ({REVISION}) (last_over_time({STARTED}[$__interval])"
                f" unless last_over_time({STARTED}[$__interval] offset $__interval))",
                legend(REVISION),
            ),
            unit="short",
            bars=True,
            interval="1m",
        ),
        lines(
            "Parts of a cold start",
            "Mean seconds of the pods that are there: importing libraries, reading weights, the warm-up "
            "image.",
            Query(f"avg by (part) ({PARTS} > 0)", "{{part}}"),
            unit="s",
            stack=True,
            steps=((300, "red"),),
        ),
        lines(
            "Slowest cold start",
            "The slowest and the median of the pods that are there, by their own clock; "
            "the dashed line is half of a request's deadline.",
            Query(f"max({TOTAL} > 0)", "slowest"),
            Query(f"quantile(0.5, {TOTAL} > 0)", "median"),
            unit="s",
            steps=((300, "red"),),
        ),
        timeline(
            "At zero",
            "Blue: no pod, nothing is paid. Green: pods are there.",
            Query(f"sum by ({SERVICE}) ({of('kn_revision_pods_count')}) > bool 0", legend(SERVICE)),
            states={"0": ("at zero", "blue"), "1": ("pods", "green")},
            height=8,
        ),
    )
    section(
        board,
        "Cost",
        lines(
            "Pods held and busy",
            "Pods that exist against those that make an image, on average: the gap is paid for and idle.",
            Query(f"count({of('sd_in_flight')})", "held"),
            Query(total(rate("sd_device_seconds_total")), "busy"),
            unit="short",
        ),
        lines(
            "Where GPU time goes",
            "GPU-seconds of the last hour: making images, starting, and idle (kept warm).",
            Query(_busy("1h"), "images"),
            Query(_loading("1h", "3600"), "cold starts"),
            Query(f"clamp_min({_held('1h')} - {_busy('1h')} - {_loading('1h', '3600')}, 0)", "idle"),
            unit="s",
            stack=True,
        ),
        lines(
            "GPU-seconds per image",
            "Over the last hour: busy is the hardware's speed, held is what is paid for.",
            Query(ratio(_busy("1h"), _images("1h")), "busy"),
            Query(ratio(_held("1h"), _images("1h")), "held"),
            unit="s",
            steps=((120, "orange"),),
        ),
        lines(
            "Money per 1,000 images",
            "Over the last hour, at the price above. High at low traffic: pods wait, warm, for few requests.",
            Query(_money("1h"), "per 1,000 images"),
            Query(f"count({of('sd_in_flight')}) * $price", "per hour now"),
            unit="currencyUSD",
        ),
    )
    return board
