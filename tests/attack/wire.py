"""HTTP by hand: bytes to a socket and an answer back, whatever the bytes are."""

import json
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What came back, whole."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The service's own name of an error, or ""."""
        return self.headers.get("x-error-code", "")


class Dropped(Exception):
    """The connection ended before an answer was whole."""


class Address(NamedTuple):
    """Where the service is."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Address":
        """The address of ``http://host:port``."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 80)

    def connect(self, timeout: float = 60, receive_buffer: int | None = None) -> socket.socket:
        """A connection; ``receive_buffer``: bytes that the kernel takes for a client that does not read."""
        connection = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(timeout)
        try:
            connection.connect((self.host, self.port))
        except OSError:
            connection.close()
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def request(
    method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """A whole request."""
    lines = {"Host": "attack", **(headers or {})}
    if body is not None:
        lines.setdefault("Content-Length", str(len(body)))
        lines.setdefault("Content-Type", "application/json")
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogatepass") + (body or b"")


class Client:
    """One connection that is opened anew when the service closed it. Not for several threads."""

    def __init__(self, address: Address, timeout: float = 60) -> None:
        self._address = address
        self._timeout = timeout
        self._connection: socket.socket | None = None
        self._rest = b""

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._rest = b""

    def send(self, data: bytes) -> Answer:
        """The answer to the request ``data``. Raises :class:`Dropped` where there is none, and TimeoutError."""
        began = time.monotonic()
        kept = self._connection is not None
        try:
            return self._send(data, began)
        except Dropped:
            if not kept:
                raise
            # A kept connection may be closed at any moment: that is the one case in which HTTP allows another try.
            return self._send(data, began)

    def _send(self, data: bytes, began: float) -> Answer:
        if self._connection is None:
            self._connection = self._address.connect(self._timeout)
        try:
            with suppress(
                ConnectionError
            ):  # refused before it was all sent: the answer may be there all the same
                self._connection.sendall(data)
            answer = self._read(began)
        except (ConnectionError, Dropped) as error:
            self.close()
            raise Dropped(str(error)) from None
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def _more(self) -> bytes:
        assert self._connection is not None
        chunk = self._connection.recv(1 << 18)
        if not chunk:
            raise Dropped("closed")
        return chunk

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._rest += self._more()
        found, _, self._rest = self._rest.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < count:
            parts.append(self._more())
            have += len(parts[-1])
        whole = b"".join(parts)
        self._rest = whole[count:]
        return whole[:count]

    def _read(self, began: float) -> Answer:
        while True:
            lines = self._until(b"\r\n\r\n").split(b"\r\n")
            status = int(lines[0].split()[1])
            if status >= 200:  # not 100 Continue
                break
        headers = {
            name.strip().decode().lower(): value.strip().decode("latin-1")
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size + 2)[:-2]
            self._until(b"\r\n")
        else:
            body = self._exactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body, time.monotonic() - began)
