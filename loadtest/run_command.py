"""The command ``run``: from options to a load that is checked before the first request leaves."""

import math
import random
from pathlib import Path
from typing import Annotated, Literal

import typer

from loadtest.campaign import Campaign, carry_out
from loadtest.exchange import Target
from loadtest.options import OptionError, size
from loadtest.payloads import DEFAULT_PROMPT, Payloads, read_body, read_prompts
from loadtest.result import Plan
from loadtest.run_options import (
    Load,
    address_of,
    authority_of,
    check_of,
    headers_of,
    loop_of,
    need_matplotlib,
    proxy_of,
    writable,
)
from loadtest.runner import ClosedLoop
from loadtest.thresholds import parse as parse_threshold

IMAGE_PATHS = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/v1/generate")
LOAD, BODY, HTTP, CHECKS, OUTPUT = "Load", "What is asked for", "HTTP", "Checks", "Output"


def run(
    url: Annotated[
        str,
        typer.Argument(help="Where to send. Without a path: /sdapi/v1/txt2img (/v1/generate with --stream)."),
    ],
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            help="Requests to send. Default 50, unless -z, --ramp or --trace end it.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    c: Annotated[
        int | None,
        typer.Option("-c", min=1, help="Closed loop: users at a time. Default 5.", rich_help_panel=LOAD),
    ] = None,
    z: Annotated[
        str | None, typer.Option("-z", help="Start nothing after this long (30s, 5m).", rich_help_panel=LOAD)
    ] = None,
    think: Annotated[
        str | None,
        typer.Option(
            help="Closed loop: a user's pause after an answer: 2, 1-5 (evenly), exp:3 (mean 3).",
            rich_help_panel=LOAD,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0, help="Open loop: requests a second, whatever the answers do.", rich_help_panel=LOAD
        ),
    ] = None,
    ramp: Annotated[
        list[str] | None,
        typer.Option(
            help="Open loop: FROM:TO:DURATION in requests a second; repeat for stages.", rich_help_panel=LOAD
        ),
    ] = None,
    poisson: Annotated[
        bool,
        typer.Option(
            "--poisson",
            help="With --rate or --ramp: arrivals at random, as of many users.",
            rich_help_panel=LOAD,
        ),
    ] = False,
    trace_file: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            help="Open loop: replay a recording (JSON lines with t, a batch's manifest, or CSV).",
            rich_help_panel=LOAD,
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Play --trace so many times as fast.", rich_help_panel=LOAD)
    ] = 1.0,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="With --trace of a batch's manifest: the folder of the pictures that its rows start from.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Open loop: more requests than this wait here.", rich_help_panel=LOAD)
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of all that is random here.", rich_help_panel=LOAD)] = 0,
    d: Annotated[str | None, typer.Option("-d", help="Body.", rich_help_panel=BODY)] = None,
    data_file: Annotated[
        Path | None, typer.Option("-D", help="Body from a file.", rich_help_panel=BODY)
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Prompt; repeat to take several in turn.", rich_help_panel=BODY)
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts from a file, one a line.", rich_help_panel=BODY)
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", help="WIDTHxHEIGHT; repeat to take several in turn.", rich_help_panel=BODY),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps.", rich_help_panel=BODY)] = None,
    sessions: Annotated[
        int, typer.Option(min=0, help="Users with cookies of their own; 0: no cookies.", rich_help_panel=BODY)
    ] = 0,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Ask for an event stream; report the time to the first progress.",
            rich_help_panel=BODY,
        ),
    ] = False,
    t: Annotated[
        float,
        typer.Option(
            "-t", help="Seconds for a request, from sending to its last byte.", rich_help_panel=HTTP
        ),
    ] = 180.0,
    m: Annotated[
        str | None,
        typer.Option("-m", help="Method. Default POST with a body, else GET.", rich_help_panel=HTTP),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("-H", help="'Name: value'; repeatable.", rich_help_panel=HTTP)
    ] = None,
    content_type: Annotated[
        str, typer.Option("-T", help="Content type of the body.", rich_help_panel=HTTP)
    ] = "application/json",
    accept: Annotated[str | None, typer.Option("-A", help="Accept header.", rich_help_panel=HTTP)] = None,
    auth: Annotated[
        str | None, typer.Option("-a", help="user:password (Basic).", rich_help_panel=HTTP)
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Host header, to reach a service by its gateway's address.", rich_help_panel=HTTP),
    ] = None,
    proxy: Annotated[
        str | None, typer.Option("-x", help="HTTP proxy (host:port).", rich_help_panel=HTTP)
    ] = None,
    disable_keepalive: Annotated[
        bool,
        typer.Option("--disable-keepalive", help="A new connection for each request.", rich_help_panel=HTTP),
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept any TLS certificate.", rich_help_panel=HTTP)
    ] = False,
    cacert: Annotated[
        Path | None, typer.Option(help="PEM file of the authority to trust.", rich_help_panel=HTTP)
    ] = None,
    honour_retry_after: Annotated[
        bool,
        typer.Option(
            "--honour-retry-after",
            help="Send again after a 503 or 429 with Retry-After, within -t.",
            rich_help_panel=HTTP,
        ),
    ] = False,
    check: Annotated[
        Literal["auto", "none", "json", "image"],
        typer.Option(
            help="What an answer must be. auto: an image where images are made.", rich_help_panel=CHECKS
        ),
    ] = "auto",
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 if this holds: 'p95>30', 'error_rate>1%'; repeatable.", rich_help_panel=CHECKS
        ),
    ] = None,
    pod_header: Annotated[
        str, typer.Option(help="Response header that names the pod.", rich_help_panel=CHECKS)
    ] = "X-Served-By",
    cold_header: Annotated[
        str, typer.Option(help="Response header of a process' first image.", rich_help_panel=CHECKS)
    ] = "X-Cold-Start",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON.", rich_help_panel=OUTPUT)
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one HTML page.", rich_help_panel=OUTPUT)
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the HTML page.", rich_help_panel=OUTPUT)] = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show nothing while it runs.", rich_help_panel=OUTPUT)
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate", help="Measure this client's own cost first.", rich_help_panel=OUTPUT
        ),
    ] = True,
) -> None:
    """Send requests and report: latencies, pods, cold starts, errors by kind.

    `run http://HOST` alone is the classic run: 50 requests, 5 at a time, 180 s each, a pretty dog.
    Exit code: 0 fine, 1 a --fail-if held, 2 bad usage, 3 not one request succeeded, 130 interrupted.
    """
    try:
        if t <= 0 or not math.isfinite(t):
            raise OptionError("-t must be more than 0 seconds: it is what keeps a run from hanging.")
        if speed <= 0 or not math.isfinite(speed):
            raise OptionError("--speed must be more than 0, as in 2 for twice as fast.")
        chance = random.Random(seed)
        loop, words = loop_of(
            Load(n, c, z, think, rate, ramp or [], poisson, trace_file, speed, max_in_flight, pictures),
            chance,
        )
        address = address_of(url, stream)
        body = read_body(d, data_file)
        asked = (
            list(prompt or []) + (read_prompts(prompts) if prompts else []),
            [size(one) for one in sizes or []],
        )
        image = address.path in IMAGE_PATHS
        if body is None and not any((*asked, steps)) and image and m in (None, "POST"):
            body = f'{{"prompt": "{DEFAULT_PROMPT}"}}'.encode()
        payloads = Payloads(body, *asked, steps)
        method = (m or ("POST" if payloads.of(0, {}).body else "GET")).upper()
        target = Target(
            url=str(address),
            method=method,
            headers=headers_of(header or [], content_type, accept, auth, host, bool(payloads.of(0, {}).body)),
            timeout=t,
            stream=stream,
            check=check_of(check, image and method == "POST"),
            pod_header=pod_header,
            cold_header=cold_header,
            honour_retry_after=honour_retry_after,
            keep_alive=not disable_keepalive,
            proxy=proxy_of(proxy),
            verify=not insecure,
            ca_file=authority_of(cacert),
        )
        thresholds = [parse_threshold(rule) for rule in fail_if or []]
        for threshold in thresholds:
            threshold.check_sample(loop.requests)
        for path in (json_file, html_file):
            writable(path)
        if html_file:
            need_matplotlib()
        plan = Plan(
            url=str(address),
            method=method,
            arrivals=words,
            concurrency=loop.concurrency if isinstance(loop, ClosedLoop) else None,
            requests=loop.requests,
            duration=loop.duration,
            timeout=t,
            stream=stream,
            body=payloads.of(0, {}).body[:200].decode("utf-8", "replace"),
            bodies=payloads.distinct,
            sessions=sessions,
            think=think or "",
            seed=seed,
            honour_retry_after=honour_retry_after,
            keep_alive=not disable_keepalive,
        )
    except OptionError as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(2) from None
    raise typer.Exit(
        carry_out(
            Campaign(
                plan,
                target,
                loop,
                payloads,
                sessions,
                thresholds,
                json_file,
                html_file,
                title,
                quiet,
                calibrate,
            )
        )
    )
