"""One request over httpx, timed from outside: plain or streaming, and every way it can fail named.

Requests go to httpx's transport itself: no redirects, no cookie jar shared between users, no environment
proxies, nothing decoded. What is left is a connection pool and HTTP/1.1.
"""

import asyncio
import email.utils
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import httpx

from loadtest.answers import AnswerError, StreamFollower, check_body
from loadtest.exchange import Exchange, Session, Target
from loadtest.failures import TIMEOUTS, Stage, name_failure
from loadtest.payloads import Payload

CONNECT_GRACE: Final = 2.0
"""Seconds after which a connection attempt is cancelled that did not end in time by itself."""
MAX_BODY: Final = 512 * 2**20
"""Bytes of an answer; a server that sends more without end is cut off."""


class _Marks:
    """Moments of one attempt, told by httpcore's trace extension."""

    __slots__ = ("connect_begin", "connect_end", "head_end", "on_write", "write_begin", "write_end")

    def __init__(self) -> None:
        self.on_write: Callable[[], None] | None = None
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
            if self.on_write is not None:
                self.on_write()
        elif step == "send_request_body.complete":
            self.write_end = time.perf_counter()
        elif step == "receive_response_headers.complete":
            self.head_end = time.perf_counter()

    @property
    def stage(self) -> Stage:
        if self.head_end:
            return "body"
        return "waiting" if self.write_begin else "connecting"


class Client:
    """Sends requests to one target. Use as an async context manager; never raises for what a server does."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.begin = time.perf_counter()
        """The start of the run that all times count from; :meth:`start` sets it anew."""
        self._tls = _tls(target)
        # One transport for each place in flight, with at most one connection: httpcore's pool looks at all of
        # its connections for every request, which at 100 in flight costs ten times what the request does.
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._busy: set[httpx.AsyncHTTPTransport] = set()
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
        for transport in (*self._idle, *self._busy):
            await transport.aclose()

    def start(self) -> None:
        """The run begins now."""
        self.begin = time.perf_counter()

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
        """One attempt, written into ``exchange``; seconds to wait before another one, None for none."""
        marks = _Marks()
        left = max(0.001, deadline - self.now())
        request = httpx.Request(
            self.target.method,
            self._url_of(payload),
            headers=self._headers,
            content=payload.body,
            extensions={"trace": marks, "timeout": {"connect": left}},
        )
        if session is not None:
            session.cookies.set_cookie_header(request)
        exchange.failure = exchange.message = exchange.request_id = exchange.pod = ""
        exchange.status = exchange.size = exchange.progress_events = 0
        exchange.done, exchange.cold = 0.0, False
        exchange.started = exchange.first_progress = None
        retry_after: float | None = None
        # Connecting is httpcore's to end: a handshake that it gives up is closed, a cancelled one would be left
        # to the garbage collector. From the first byte sent on, the limit is ours.
        end = asyncio.get_running_loop().time() + left
        limit = asyncio.timeout_at(end + CONNECT_GRACE)
        marks.on_write = lambda: limit.reschedule(end)
        body = b""
        transport = self._take()
        try:
            async with limit:
                response = await transport.handle_async_request(request)
                try:
                    self._head(exchange, response, request, session)
                    if exchange.status in (429, 503) and self.target.honour_retry_after:
                        retry_after = parse_retry_after(response.headers.get("retry-after"))
                    body = await self._body(exchange, response)
                finally:
                    await response.aclose()
            exchange.done = self.now()
            if not 200 <= exchange.status < 300:
                raise AnswerError(f"HTTP {exchange.status}", _excerpt(response, body))
            if not self.target.stream:
                check_body(self.target.check, body)
        except AnswerError as bad:
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
        finally:
            self._give_back(transport)
        exchange.done = exchange.done or self.now()
        self._phases(exchange, marks)
        return retry_after

    def _url_of(self, payload: Payload) -> httpx.URL:
        """The target, with the recording's route in place of its own where there is one."""
        if not payload.path or self.target.stream:
            return self._url
        return self._url.copy_with(path=self._url.path.partition("/sdapi/")[0] + payload.path)

    def _take(self) -> httpx.AsyncHTTPTransport:
        """The transport that was used last and is free (its connection is the most likely to live), or a new one."""
        if self._idle:
            transport = self._idle.pop()
        else:
            transport = httpx.AsyncHTTPTransport(
                verify=self._tls,
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=1,
                    max_keepalive_connections=1 if self.target.keep_alive else 0,
                    keepalive_expiry=60.0,
                ),
                proxy=self.target.proxy,
            )
        self._busy.add(transport)
        return transport

    def _give_back(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._busy.discard(transport)
        self._idle.append(transport)

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
            raise AnswerError("no event stream", f"the answer is {kind}, not text/event-stream")
        follower = StreamFollower(exchange, self.now, self.target.check) if streaming else None
        pieces: list[bytes] = []
        async for piece in response.stream:
            exchange.size += len(piece)
            if exchange.size > MAX_BODY:
                raise AnswerError("answer too large", f"more than {MAX_BODY // 2**20} MiB")
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


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that ``Retry-After`` asks for (a number or a date, RFC 9110, 10.2.3), or None."""
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


def _excerpt(response: httpx.Response, body: bytes) -> str:
    text = body[:200].decode("utf-8", "replace").strip()
    location = response.headers.get("location")
    if location and 300 <= response.status_code < 400:
        return f"redirects are not followed: use {location[:200]}"
    return " ".join(text.split())


def _tls(target: Target) -> ssl.SSLContext:
    if not target.url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; reading all authorities takes a while
    context = ssl.create_default_context(cafile=target.ca_file)
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
