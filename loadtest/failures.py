"""Names for all that can go wrong between a client and an image, so that reports count causes, not
tracebacks.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final, Literal

import httpx

Stage = Literal["connecting", "waiting", "body"]
"""Where a request was: no connection yet, sent and without an answer, or reading the answer."""

TIMEOUTS: Final[dict[Stage, str]] = {
    "connecting": "timeout while connecting",
    "waiting": "timeout waiting for an answer",
    "body": "timeout in the body",
}
_WHERE: Final[dict[Stage, str]] = {
    "connecting": "while connecting",
    "waiting": "before an answer",
    "body": "in the body",
}
_RESETS: Final = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
_UNREACHABLE: Final = (
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, its causes, and the members of groups among them, outermost first, each once."""
    todo: list[BaseException] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            todo.extend(one.exceptions)
        # Contexts too, suppressed or not: httpcore raises its own errors "from None".
        todo.extend(cause for cause in (one.__cause__, one.__context__) if cause is not None)


def name_failure(error: BaseException, stage: Stage) -> tuple[str, str]:
    """(kind, message) of what ended a request: the kind is counted, the message is an example."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return TIMEOUTS[stage], "no end within -t"
    links = list(chain(error))
    for link in links:
        if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLWantReadError):
            # Only errors that OpenSSL raised carry these.
            reason = getattr(link, "verify_message", "") or getattr(link, "reason", "") or str(link)
            return "TLS error", str(reason).replace("_", " ")
        if isinstance(link, socket.gaierror):
            return "name not resolved", link.strerror or str(link)
    for link in links:
        if isinstance(link, OSError) and link.errno is not None:
            text = link.strerror or str(link)
            if link.errno == errno.ECONNREFUSED:
                return "connection refused", text
            if link.errno in _RESETS:
                return f"connection reset {_WHERE[stage]}", text
            if link.errno in _UNREACHABLE:
                return "unreachable", text
            if link.errno in (errno.EMFILE, errno.ENFILE):
                return "too many open files here", "raise this client's limit with `ulimit -n`"
            if link.errno == errno.ETIMEDOUT:
                return TIMEOUTS[stage], text
    text = str(error) or type(error).__name__
    match error:
        case httpx.ProxyError():
            return "proxy error", text
        case httpx.RemoteProtocolError() if (
            "incomplete" in text or "disconnected" in text or "closed" in text
        ):
            return f"connection closed {_WHERE[stage]}", text
        case httpx.ProtocolError():
            return "malformed HTTP", text
        case httpx.NetworkError():
            return f"connection reset {_WHERE[stage]}", text
        case _:
            return f"client error {type(error).__name__}", text
