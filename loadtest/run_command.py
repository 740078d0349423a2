"""The command ``run``: from options to a load that is checked before the first request leaves."""

import base64
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer

from loadtest.arrivals import Arrival, parse_stage, staged, trace
from loadtest.arrivals import Stage as RateStage
from loadtest.campaign import Campaign, carry_out
from loadtest.client import Check, Target
from loadtest.options import OptionError, seconds, size, think_time
from loadtest.payloads import DEFAULT_PROMPT, Payloads, read_body, read_prompts
from loadtest.result import Plan
from loadtest.runner import ClosedLoop, OpenLoop
from loadtest.thresholds import parse as parse_threshold

IMAGE_PATHS = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/v1/generate")
LOAD, BODY, HTTP, CHECKS, OUTPUT = "Load", "What is asked for", "HTTP", "Checks", "Output"


def run(
    url: Annotated[
        str, typer.Argument(help="Where to send. Without a path: /sdapi/v1/txt2img (/v1/generate with --stream).")
    ],
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Requests to send. Default 50, unless -z, --ramp or --trace end it.",
                                 rich_help_panel=LOAD)] = None,
    c: Annotated[
        int | None, typer.Option("-c", min=1, help="Closed loop: users at a time. Default 5.", rich_help_panel=LOAD)
    ] = None,
    z: Annotated[
        str | None, typer.Option("-z", help="Start nothing after this long (30s, 5m).", rich_help_panel=LOAD)] = None,
    think: Annotated[
        str | None, typer.Option(help="Closed loop: a user's pause after an answer: 2, 1-5 (evenly), exp:3 (mean 3).",
                                 rich_help_panel=LOAD)] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Open loop: requests a second, whatever the answers do.",
                                   rich_help_panel=LOAD)] = None,
    ramp: Annotated[
        list[str] | None, typer.Option(help="Open loop: FROM:TO:DURATION in requests a second; repeat for stages.",
                                       rich_help_panel=LOAD)] = None,
    poisson: Annotated[
        bool, typer.Option("--poisson", help="With --rate or --ramp: arrivals at random, as of many users.",
                           rich_help_panel=LOAD)] = False,
    trace_file: Annotated[
        Path | None, typer.Option("--trace", help="Open loop: replay a recording (JSON lines with t, or CSV).",
                                  rich_help_panel=LOAD)] = None,
    speed: Annotated[float, typer.Option(help="Play --trace so many times as fast.", rich_help_panel=LOAD)] = 1.0,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Open loop: more requests than this wait here.", rich_help_panel=LOAD)
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of all that is random here.", rich_help_panel=LOAD)] = 0,
    d: Annotated[str | None, typer.Option("-d", help="Body.", rich_help_panel=BODY)] = None,
    data_file: Annotated[Path | None, typer.Option("-D", help="Body from a file.", rich_help_panel=BODY)] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Prompt; repeat to take several in turn.", rich_help_panel=BODY)] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts from a file, one a line.", rich_help_panel=BODY)] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="WIDTHxHEIGHT; repeat to take several in turn.",
                                       rich_help_panel=BODY)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps.", rich_help_panel=BODY)] = None,
    sessions: Annotated[
        int, typer.Option(min=0, help="Users with cookies of their own; 0: no cookies.", rich_help_panel=BODY)] = 0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Ask for an event stream; report the time to the first progress.",
                           rich_help_panel=BODY)] = False,
    t: Annotated[
        float, typer.Option("-t", help="Seconds for a request, from sending to its last byte.", rich_help_panel=HTTP)
    ] = 180.0,
    m: Annotated[
        str | None, typer.Option("-m", help="Method. Default POST with a body, else GET.", rich_help_panel=HTTP)] = None,
    header: Annotated[
        list[str] | None, typer.Option("-H", help="'Name: value'; repeatable.", rich_help_panel=HTTP)] = None,
    content_type: Annotated[
        str, typer.Option("-T", help="Content type of the body.", rich_help_panel=HTTP)] = "application/json",
    accept: Annotated[str | None, typer.Option("-A", help="Accept header.", rich_help_panel=HTTP)] = None,
    auth: Annotated[str | None, typer.Option("-a", help="user:password (Basic).", rich_help_panel=HTTP)] = None,
    host: Annotated[
        str | None, typer.Option(help="Host header, to reach a service by its gateway's address.", rich_help_panel=HTTP)
    ] = None,
    proxy: Annotated[str | None, typer.Option("-x", help="HTTP proxy (host:port).", rich_help_panel=HTTP)] = None,
    disable_keepalive: Annotated[
        bool, typer.Option("--disable-keepalive", help="A new connection for each request.", rich_help_panel=HTTP)
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept any TLS certificate.", rich_help_panel=HTTP)] = False,
    cacert: Annotated[
        Path | None, typer.Option(help="PEM file of the authority to trust.", rich_help_panel=HTTP)] = None,
    honour_retry_after: Annotated[
        bool, typer.Option("--honour-retry-after", help="Send again after a 503 or 429 with Retry-After, within -t.",
                           rich_help_panel=HTTP)] = False,
    check: Annotated[
        Literal["auto", "none", "json", "image"],
        typer.Option(help="What an answer must be. auto: an image where images are made.", rich_help_panel=CHECKS)
    ] = "auto",
    fail_if: Annotated[
        list[str] | None, typer.Option(help="Exit with 1 if this holds: 'p95>30', 'error_rate>1%'; repeatable.",
                                       rich_help_panel=CHECKS)] = None,
    pod_header: Annotated[
        str, typer.Option(help="Response header that names the pod.", rich_help_panel=CHECKS)] = "X-Served-By",
    cold_header: Annotated[
        str, typer.Option(help="Response header of a process' first image.", rich_help_panel=CHECKS)] = "X-Cold-Start",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON.", rich_help_panel=OUTPUT)] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one HTML page.", rich_help_panel=OUTPUT)] = None,
    title: Annotated[str, typer.Option(help="Title of the HTML page.", rich_help_panel=OUTPUT)] = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show nothing while it runs.", rich_help_panel=OUTPUT)] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Measure this client's own cost first.",
                           rich_help_panel=OUTPUT)] = True,
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
        loop, words = _loop(
            _Load(n, c, z, think, rate, ramp or [], poisson, trace_file, speed, max_in_flight), chance
        )
        address = _address(url, stream)
        body = read_body(d, data_file)
        asked = (list(prompt or []) + (read_prompts(prompts) if prompts else []), [size(one) for one in sizes or []])
        image = address.path in IMAGE_PATHS
        if body is None and not any((*asked, steps)) and image and m in (None, "POST"):
            body = f'{{"prompt": "{DEFAULT_PROMPT}"}}'.encode()
        payloads = Payloads(body, *asked, steps)
        method = (m or ("POST" if payloads.of(0, {}).body else "GET")).upper()
        target = Target(
            url=str(address),
            method=method,
            headers=_headers(header or [], content_type, accept, auth, host, bool(payloads.of(0, {}).body)),
            timeout=t,
            stream=stream,
            check=_check(check, image and method == "POST"),
            pod_header=pod_header,
            cold_header=cold_header,
            honour_retry_after=honour_retry_after,
            keep_alive=not disable_keepalive,
            proxy=_proxy(proxy),
            verify=not insecure,
            ca_file=_readable(cacert),
        )
        thresholds = [parse_threshold(rule) for rule in fail_if or []]
        for threshold in thresholds:
            threshold.check_sample(loop.requests)
        for path in (json_file, html_file):
            _writable(path)
        if html_file:
            _need_matplotlib()
        plan = Plan(
            url=str(address.copy_with(username=None, password=None)),
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
            Campaign(plan, target, loop, payloads, sessions, thresholds, json_file, html_file, title, quiet, calibrate)
        )
    )


@dataclass(frozen=True, slots=True)
class _Load:
    n: int | None
    c: int | None
    z: str | None
    think: str | None
    rate: float | None
    ramp: Sequence[str]
    poisson: bool
    trace: Path | None
    speed: float
    max_in_flight: int


def _loop(load: _Load, chance: random.Random) -> tuple[ClosedLoop | OpenLoop, str]:
    """The loop that the options ask for, and its name."""
    kinds = [name for name, given in (("--rate", load.rate is not None), ("--ramp", bool(load.ramp)),
                                      ("--trace", load.trace is not None)) if given]
    if len(kinds) > 1:
        raise OptionError(f"{' and '.join(kinds)} exclude each other: choose one kind of arrivals.")
    duration = seconds(load.z) if load.z else None
    if not kinds:
        if load.poisson:
            raise OptionError("--poisson needs --rate or --ramp.")
        users = load.c or 5
        requests = load.n if load.n is not None else (None if duration else 50)
        if requests is not None and users > requests:
            raise OptionError(f"-c {users} users can't share -n {requests} requests: lower -c or raise -n.")
        pause = think_time(load.think, chance) if load.think else None
        return ClosedLoop(users, requests, duration, pause), f"closed loop, {users} at a time"
    if load.c is not None or load.think:
        raise OptionError(f"-c and --think belong to the closed loop; with {kinds[0]} arrivals wait for nobody.")
    random_or_not = chance if load.poisson else None
    arrivals: Iterable[Arrival]
    requests = load.n
    if load.trace is not None:
        if load.poisson:
            raise OptionError("--poisson needs --rate or --ramp; a recording is replayed as it is.")
        count = sum(1 for _ in trace(load.trace, load.speed))
        if not count:
            raise OptionError(f"{load.trace} holds no arrivals.")
        requests = min(load.n or count, count)
        speed = f" at {load.speed:g} times its speed" if load.speed != 1 else ""
        arrivals, words = trace(load.trace, load.speed), f"replay of {load.trace.name}{speed}"
    elif load.ramp:
        stages = [parse_stage(text) for text in load.ramp]
        if not sum(stage.requests for stage in stages):
            raise OptionError("The ramps bring no request: one of their rates must be more than 0.")
        arrivals, words = staged(stages, random_or_not), f"ramp {', '.join(load.ramp)} requests/s"
    else:
        rate = load.rate or 0.0
        if not 0 < rate < math.inf:
            raise OptionError("--rate must be more than 0 requests a second.")
        requests = load.n if load.n is not None else (None if duration else 50)
        arrivals, words = staged([RateStage(rate, rate)], random_or_not), f"{rate:g} requests/s"
    words = f"open loop, {'Poisson, ' if load.poisson else ''}{words}"
    return OpenLoop(arrivals, requests, duration, load.max_in_flight), words


def _address(url: str, stream: bool) -> httpx.URL:
    try:
        address = httpx.URL(url if "://" in url else f"http://{url}")
        address.host.encode("idna" if address.host else "ascii")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise OptionError(f"{url!r} is no URL: {error}.") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise OptionError(f"{url!r} is no URL: write http://host:port/path or https://….")
    if address.path in ("", "/"):
        address = address.copy_with(path="/v1/generate" if stream else "/sdapi/v1/txt2img")
    return address


def _headers(
    given: Sequence[str], content_type: str, accept: str | None, auth: str | None, host: str | None, body: bool
) -> tuple[tuple[str, str], ...]:
    headers = [("User-Agent", "knative-diffusion-loadtest")]
    if body:
        headers.append(("Content-Type", content_type))
    if accept:
        headers.append(("Accept", accept))
    if auth:
        if ":" not in auth:
            raise OptionError("-a is user:password.")
        headers.append(("Authorization", "Basic " + base64.b64encode(auth.encode()).decode()))
    if host:
        headers.append(("Host", host))
    for line in given:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not name or not name.isascii() or any(sign in line for sign in "\r\n\0"):
            raise OptionError(f"-H {line!r}: write 'Name: value'.")
        headers = [(known, old) for known, old in headers if known.lower() != name.lower()]
        headers.append((name, value))
    return tuple(headers)


def _check(asked: str, image: bool) -> Check:
    match asked:
        case "none" | "json" | "image":
            return asked
        case _:
            return "image" if image else "none"


def _proxy(text: str | None) -> str | None:
    if text is None:
        return None
    proxy = text if "://" in text else f"http://{text}"
    try:
        address = httpx.URL(proxy)
    except httpx.InvalidURL as error:
        raise OptionError(f"-x {text!r} is no proxy: {error}.") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise OptionError(f"-x {text!r}: write host:port of an HTTP proxy.")
    return proxy


def _readable(path: Path | None) -> str | None:
    if path is None:
        return None
    import ssl

    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise OptionError(f"--cacert {path} can't be used: {error.strerror or error}.") from None
    return str(path)


def _writable(path: Path | None) -> None:
    """Refuse before the run what would lose its report afterwards."""
    if path is not None:
        try:
            path.open("ab").close()
        except OSError as error:
            raise OptionError(f"{path} can't be written: {error.strerror}.") from None


def _need_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError("--html draws with matplotlib: pip install 'knative-diffusion[loadtest]'.")
