"""What the options of ``run`` mean: loop, address, headers and files, each checked with a sentence."""

import base64
import importlib.util
import math
import random
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtest.arrivals import Arrival, parse_stage, staged, trace
from loadtest.arrivals import Stage as RateStage
from loadtest.exchange import Check
from loadtest.options import OptionError, seconds, think_time
from loadtest.runner import ClosedLoop, OpenLoop


@dataclass(frozen=True, slots=True)
class Load:
    """The options that say when requests are sent, as they were given."""

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
    pictures: Path | None = None


def loop_of(load: Load, chance: random.Random) -> tuple[ClosedLoop | OpenLoop, str]:
    """The loop that the options ask for, and its name."""
    kinds = [
        name
        for name, given in (
            ("--rate", load.rate is not None),
            ("--ramp", bool(load.ramp)),
            ("--trace", load.trace is not None),
        )
        if given
    ]
    if len(kinds) > 1:
        raise OptionError(f"{' and '.join(kinds)} exclude each other: choose one kind of arrivals.")
    duration = seconds(load.z) if load.z else None
    if not kinds:
        if load.poisson:
            raise OptionError("--poisson needs --rate or --ramp.")
        requests = load.n if load.n is not None else (None if duration else 50)
        users = load.c or min(5, requests or 5)
        if requests is not None and users > requests:
            raise OptionError(f"-c {users} users can't share -n {requests} requests: lower -c or raise -n.")
        pause = think_time(load.think, chance) if load.think else None
        return ClosedLoop(users, requests, duration, pause), f"closed loop, {users} at a time"
    if load.c is not None or load.think:
        raise OptionError(
            f"-c and --think belong to the closed loop; with {kinds[0]} arrivals wait for nobody."
        )
    random_or_not = chance if load.poisson else None
    arrivals: Iterable[Arrival]
    requests = load.n
    if load.trace is not None:
        if load.poisson:
            raise OptionError("--poisson needs --rate or --ramp; a recording is replayed as it is.")
        count = sum(1 for _ in trace(load.trace, load.speed, load.pictures))
        if not count:
            raise OptionError(f"{load.trace} holds no arrivals.")
        requests = min(load.n or count, count)
        speed = f" at {load.speed:g} times its speed" if load.speed != 1 else ""
        arrivals, words = trace(load.trace, load.speed, load.pictures), f"replay of {load.trace.name}{speed}"
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


def address_of(url: str, stream: bool) -> httpx.URL:
    """The URL with scheme and path; without a path it is the one where images are made."""
    try:
        address = httpx.URL(url if "://" in url else f"http://{url}")
        address.host.encode("idna" if address.host else "ascii")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise OptionError(f"{url!r} is no URL: {error}.") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise OptionError(f"{url!r} is no URL: write http://host:port/path or https://….")
    if address.userinfo:
        raise OptionError("Leave user and password out of the URL (it goes into reports): give them with -a.")
    if address.path in ("", "/"):
        address = address.copy_with(path="/v1/generate" if stream else "/sdapi/v1/txt2img")
    return address


def headers_of(
    given: Sequence[str],
    content_type: str,
    accept: str | None,
    auth: str | None,
    host: str | None,
    body: bool,
) -> tuple[tuple[str, str], ...]:
    """The headers that every request carries; those given with ``-H`` win."""
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


def check_of(asked: str, image: bool) -> Check:
    """What an answer must be; ``auto`` asks for an image where the target makes ``image``s."""
    match asked:
        case "none" | "json" | "image":
            return asked
        case _:
            return "image" if image else "none"


def proxy_of(text: str | None) -> str | None:
    """The proxy as a URL."""
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


def authority_of(path: Path | None) -> str | None:
    """A PEM file that can be read and holds a certificate."""
    if path is None:
        return None
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise OptionError(f"--cacert {path} can't be used: {error.strerror or error}.") from None
    return str(path)


def writable(path: Path | None) -> None:
    """Refuse before the run what would lose its report afterwards."""
    if path is not None:
        try:
            path.open("ab").close()
        except OSError as error:
            raise OptionError(f"{path} can't be written: {error.strerror}.") from None


def need_matplotlib() -> None:
    """Refuse ``--html`` where its plots can't be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError("--html draws with matplotlib: pip install 'knative-diffusion[loadtest]'.")
