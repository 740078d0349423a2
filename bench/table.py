"""The table of results that the README shows: what was measured, what came out, what was aimed at."""

from collections.abc import Mapping
from typing import Any, Final

from tools.readme import put

ROWS: Final = (
    (
        "overhead",
        "http_over_pipeline_ratio",
        "txt2img 512×512, 20 steps, over HTTP, against the bare diffusers pipeline",
        "≤ 1.03",
    ),
    (
        "cold_start",
        "shipped_warm_ratio",
        "exec to first image, shipped model, against the obvious script",
        "≤ 0.5",
    ),
    ("cold_start", "shipped_emptied_ratio", "… with an emptied page cache", "≤ 0.5"),
    ("cold_start", "large_warm_ratio", "… a checkpoint of SD 1.5's size (2 GB)", "≤ 0.6"),
    ("cold_start", "large_emptied_ratio", "… that, with an emptied page cache", "≤ 0.6"),
    (
        "cold_start",
        "large_warm_peak_over_resident",
        "peak over resident memory while that one loads",
        "≤ 1.15",
    ),
    ("readiness", "readyz_p99_ms_while_generating", "`/readyz` while images are made, P99 in ms", "< 50"),
    (
        "memory",
        "resident_last_third_over_middle_third",
        "resident memory over 300 images: last third over middle third",
        "1",
    ),
    (
        "batch",
        "throughput_over_bare_loop",
        "a batch of 1,000 rows, pictures written and kept, against the bare engine loop",
        "≥ 0.97",
    ),
    ("batch", "resident_last_third_over_middle_third", "… its memory: last third over middle third", "1"),
    ("encoding", "ratio", "PNG + base64 + JSON at 1024², times as fast as Pillow and json", "≥ 5"),
    ("scrape", "generation_time_ratio_with_1s_scrape", "an image while Prometheus scrapes every second", "1"),
    ("scrape", "share_of_a_core_at_1s_scrape", "share of a core that such scraping takes", ""),
    (
        "threads",
        "passive_3_over_one_alone",
        "pictures per second of three services on two cores, against one alone",
        "≥ 0.9",
    ),
    ("threads", "spinning_3_over_one_alone", "… with OpenMP threads that spin, as they do by default", ""),
    ("threads", "passive_busy_over_one_alone", "… of one service beside a busy loop", ""),
    ("threads", "alone_passive_over_spinning", "one service alone, passive against spinning threads", "≥ 1"),
    (
        "simulator",
        "share_of_a_core_minute",
        "a simulated day of a million images over 200 GPUs, in minutes of a core",
        "< 1",
    ),
)
"""Bench, its figure, what it says, the goal."""


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows that ``results`` has figures for, as Markdown."""
    lines = ["| measured | result | goal |", "|---|---|---|"]
    for bench, figure, sentence, goal in ROWS:
        if figure in results.get(bench, {}):
            lines.append(f"| {sentence} | {results[bench][figure]} | {goal} |")
    return "\n".join(lines)


def write(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the table into README.md, between its marks."""
    put("bench", table(results))
