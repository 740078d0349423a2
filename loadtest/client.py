"""One request over httpx, timed from outside: plain or streaming, and every way it can fail named.

Requests go to httpx's transport itself: no redirects, no cookie jar shared between users, no environment
proxies, nothing decoded. What is left is a connection pool and HTTP/1.1.
"""

import asyncio
import email.utils
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx
import orjson

from loadtest.events import Event, EventParser
from loadtest.failures import TIMEOUTS, Stage, name_failure
from loadtest.payloads import Payload

Check = Literal["none", "json", "image"]
MAX_BODY: Final = 512 * 2**20
"""Bytes of an answer; a server that sends more without end is cut off."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go and how: all that stays the same in a run."""

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 180.0
    """Seconds from the sending of a request to its last byte, waits before retries included."""
    stream: bool = False
    check: Check = "none"
    """``json``: the answer must be JSON; ``image``: a JSON object with at least one image."""
    pod_header: str = "X-Served-By"
    cold_header: str = "X-Cold-Start"
    honour_retry_after: bool = False
    keep_alive: bool = True
    proxy: str | None = None
    verify: bool = True
    ca_file: str | None = None


@dataclass(slots=True)
class Exchange:
    """One request as its user saw it. Times are seconds since the start of the run, durations seconds."""

    number: int
    intended: float
    """When it should have started; a client or server that stalls doesn't move it."""
    sent: float
    done: float = 0.0
    status: int = 0
    """HTTP status of the last attempt; 0: no answer."""
    failure: str = ""
    """Kind of failure, "" for a success."""
    message: str = ""
    size: int = 0
    """Bytes of the answer's body."""
    pod: str = ""
    cold: bool = False
    request_id: str = ""
    group: str = ""
    session: int = -1
    attempts: int = 1
    connect: float = 0.0
    """DNS, TCP and TLS; 0 on a kept-alive connection."""
    write: float = 0.0
    wait: float = 0.0
    read: float = 0.0
    started: float | None = None
    """Streaming: from the intended start to the ``started`` event."""
    first_progress: float | None = None
    """Streaming: from the intended start to the first ``progress`` event."""
    progress_events: int = 0
    longest_silence: float = 0.0
    """Streaming: longest time without a byte, heartbeats count as bytes."""

    @property
    def ok(self) -> bool:
        """True for an answer that is what was asked for."""
        return not self.failure

    @property
    def latency(self) -> float:
        """From the intended start to the last byte."""
        return self.done - self.intended


class Session:
    """One virtual user: a cookie jar of its own."""

    __slots__ = ("cookies", "last_pod", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.cookies = httpx.Cookies()
        self.last_pod = ""


class _Marks:
    """Moments of one attempt, told by httpcore's trace extension."""

    __slots__ = ("connect_begin", "connect_end", "head_end", "write_begin", "write_end")

    def __init__(self) -> None:
        self.connect_begin = self.connect_end = self.write_begin = self.write_end = self.head_end = 0.0

    async def __call__(self, name: str, _info: Any) -> None:
        step = name.partition(".")[2]
        if step == "connect_tcp.started":
            self.connect_begin = time.perf_counter()
        elif step in ("connect_tcp.complete", "start_tls.complete"):
            self.connect_end = time.perf_counter()
        elif step == "start_tls.started":
            self.connect_end = 0.0
        elif step == "send_request_headers.started":
            self.write_begin = time.perf_counter()
        elif step == "send_request_body.complete":
            self.write_end = time.perf_counter()
        elif step == "receive_response_headers.complete":
            self.head_end = time.perf_counter()

    @property
    def stage(self) -> Stage:
        if self.head_end:
            return "body"
        return "waiting" if self.write_begin else "connecting"


class _BadAnswer(Exception):
    """The answer is not what was asked for; ``retry_after``: seconds after which it asks for another attempt."""

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after


class Client:
    """Sends requests to one target. Use as an async context manager; never raises for what a server does."""

    def __init__(self, target: Target, begin: float | None = None) -> None:
        """``begin`` (``time.perf_counter``) is the start of the run that all times count from."""
        self.target = target
        self.begin = time.perf_counter() if begin is None else begin
        self._transport = httpx.AsyncHTTPTransport(
            verify=_tls(target),
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=None if target.keep_alive else 0,
                keepalive_expiry=60.0,
            ),
            proxy=target.proxy,
        )
        self._url = httpx.URL(target.url)
        self._headers: Sequence[tuple[str, str]] = (
            *target.headers,
            *((("Accept", "text/event-stream"),) if target.stream else ()),
            *(() if target.keep_alive else (("Connection", "close"),)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    def now(self) -> float:
        """Seconds since the start of the run."""
        return time.perf_counter() - self.begin

    async def send(
        self, number: int, payload: Payload, session: Session | None = None, intended: float | None = None
    ) -> Exchange:
        """Send one request, retry it if that was asked for, and say what happened.

        ``intended`` (seconds since the start of the run) is when it should have been sent; default: now.
        """
        sent = self.now()
        exchange = Exchange(
            number=number,
            intended=sent if intended is None else intended,
            sent=sent,
            group=payload.group,
            session=-1 if session is None else session.number,
        )
        deadline = sent + self.target.timeout
        while True:
            retry_after = await self._attempt(exchange, payload, session, deadline)
            if retry_after is None or self.now() + retry_after >= deadline:
                return exchange
            await asyncio.sleep(retry_after)
            exchange.attempts += 1

    async def _attempt(
        self, exchange: Exchange, payload: Payload, session: Session | None, deadline: float
    ) -> float | None:
        """One attempt, written into ``exchange``; the seconds to wait before another one, or None for no other."""
        marks = _Marks()
        request = httpx.Request(
            self.target.method,
            self._url,
            headers=self._headers,
            content=payload.body,
            extensions={"trace": marks},
        )
        if session is not None:
            session.cookies.set_cookie_header(request)
        exchange.failure = exchange.message = exchange.request_id = exchange.pod = ""
        exchange.status = exchange.size = exchange.progress_events = 0
        exchange.done, exchange.cold = 0.0, False
        retry_after: float | None = None
        limit = asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - self.now()))
        body = b""
        try:
            async with limit:
                response = await self._transport.handle_async_request(request)
                try:
                    self._head(exchange, response, request, session)
                    if exchange.status in (429, 503) and self.target.honour_retry_after:
                        retry_after = parse_retry_after(response.headers.get("retry-after"))
                    body = await self._body(exchange, response)
                finally:
                    await response.aclose()
            exchange.done = self.now()
            if not 200 <= exchange.status < 300:
                raise _BadAnswer(f"HTTP {exchange.status}", _excerpt(response, body))
            if not self.target.stream:
                check_body(self.target.check, body)
        except _BadAnswer as bad:
            exchange.failure, exchange.message = bad.kind, bad.message
            if self.target.honour_retry_after and bad.retry_after is not None:
                retry_after = bad.retry_after
        except Exception as error:
            # Whatever it is, it is one request's fate: it gets a name and the run goes on.
            if limit.expired():
                exchange.failure = TIMEOUTS[marks.stage]
                exchange.message = f"no end after {self.target.timeout:g} s (-t)"
            else:
                exchange.failure, exchange.message = name_failure(error, marks.stage)
            retry_after = None
        exchange.done = exchange.done or self.now()
        self._phases(exchange, marks)
        return retry_after

    def _head(
        self, exchange: Exchange, response: httpx.Response, request: httpx.Request, session: Session | None
    ) -> None:
        exchange.status = response.status_code
        exchange.pod = response.headers.get(self.target.pod_header, "")[:253]
        exchange.cold = response.headers.get(self.target.cold_header, "").strip() not in ("", "0")
        exchange.request_id = response.headers.get("X-Request-Id", "")[:128]
        if session is not None:
            response.request = request
            session.cookies.extract_cookies(response)

    async def _body(self, exchange: Exchange, response: httpx.Response) -> bytes:
        """The body; of an event stream nothing is kept but what its events say."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        streaming = self.target.stream and response.status_code < 300
        if streaming and "text/event-stream" not in response.headers.get("content-type", ""):
            kind = response.headers.get("content-type", "no content type")
            raise _BadAnswer("no event stream", f"the answer is {kind}, not text/event-stream")
        follower = _Follower(exchange, self, self.target.check) if streaming else None
        pieces: list[bytes] = []
        async for piece in response.stream:
            exchange.size += len(piece)
            if exchange.size > MAX_BODY:
                raise _BadAnswer("answer too large", f"more than {MAX_BODY // 2**20} MiB")
            if follower is None:
                pieces.append(piece)
            else:
                follower.feed(piece)
        if follower is not None:
            follower.finish()
        return b"".join(pieces)

    def _phases(self, exchange: Exchange, marks: _Marks) -> None:
        if marks.connect_begin and marks.connect_end:
            exchange.connect = marks.connect_end - marks.connect_begin
        if marks.write_begin and marks.write_end:
            exchange.write = marks.write_end - marks.write_begin
        if marks.head_end:
            exchange.wait = max(0.0, marks.head_end - (marks.write_end or marks.write_begin))
            exchange.read = max(0.0, self.begin + exchange.done - marks.head_end)


class _Follower:
    """Reads the events of one stream: ``queued``, ``started``, ``progress`` and then ``result`` or ``error``."""

    def __init__(self, exchange: Exchange, client: Client, check: Check) -> None:
        self._exchange = exchange
        self._client = client
        self._check = check
        self._parser = EventParser()
        self._last = client.now()
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Take in bytes as they arrive."""
        now = self._client.now()
        self._exchange.longest_silence = max(self._exchange.longest_silence, now - self._last)
        self._last = now
        for event in self._parser.feed(chunk):
            self._event(event, now - self._exchange.intended)

    def _event(self, event: Event, since: float) -> None:
        one = self._exchange
        match event.name:
            case "started":
                one.started = since if one.started is None else one.started
            case "progress":
                one.first_progress = since if one.first_progress is None else one.first_progress
                one.progress_events += 1
            case "result":
                self._ended = True
                self._result(event.data.encode())
            case "error":
                self._ended = True
                raise _error_of(event.data)

    def _result(self, data: bytes) -> None:
        answer = check_body(self._check, data)
        if isinstance(answer, dict):
            # Headers left before the image was begun; the result knows better.
            self._exchange.cold = self._exchange.cold or answer.get("cold_start") is True
            self._exchange.pod = self._exchange.pod or str(answer.get("served_by") or "")[:253]

    def finish(self) -> None:
        """The stream has ended: it must have said how."""
        if not self._ended:
            raise _BadAnswer("stream without result", "the stream ended before a result or an error event")


def check_body(check: Check, body: bytes) -> Any:
    """The parsed ``body`` (None for ``none``); raises :class:`_BadAnswer` if it isn't what ``check`` asks for."""
    if check == "none":
        return None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _BadAnswer("bad JSON", f"{error}; the body starts with {body[:40]!r}") from None
    if check == "image" and not (isinstance(answer, dict) and answer.get("images")):
        raise _BadAnswer("no image", f"JSON without images; the body starts with {body[:40]!r}")
    return answer


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that ``Retry-After`` asks to wait (a number or an HTTP date, RFC 9110, 10.2.3); None: it doesn't."""
    if value is None:
        return None
    text = value.strip()
    if text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _error_of(data: str) -> _BadAnswer:
    """The failure that an ``error`` event tells: its code, its sentence, and when to come back."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        return _BadAnswer("stream error unreadable", data[:200])
    wait = fields.get("retry_after")
    return _BadAnswer(
        f"stream error {str(fields.get('code') or 'unnamed')[:60]}",
        str(fields.get("detail") or "")[:200],
        float(wait) if isinstance(wait, int | float) and wait >= 0 else None,
    )


def _excerpt(response: httpx.Response, body: bytes) -> str:
    text = body[:200].decode("utf-8", "replace").strip()
    location = response.headers.get("location")
    if location and 300 <= response.status_code < 400:
        return f"redirects are not followed: use {location[:200]}"
    return " ".join(text.split())


def _tls(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=target.ca_file)
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
