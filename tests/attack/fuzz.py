"""Requests by the thousand, nearly right by the service's own schema and wrong in one place, over bare sockets.

A finding is an answer that nobody documents (500), a connection that ends without one, and a service that cannot
answer afterwards what it could before.
"""

import base64
import io
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from tests.attack.wire import Address, Answer, Client, Dropped, request

DOCUMENTED: Final = {501, 503, 504, 507}
"""Server errors that say what the client can do; 501: what is not offered here."""

CHECKED: Final = (
    "/sdapi/v1/options", "/sdapi/v1/loras", "/sdapi/v1/sd-models", "/sdapi/v1/progress", "/internal/pending-tasks",
    "/sdapi/v1/cmd-flags", "/openapi.json", "/readyz",
)  # fmt: skip
"""Must answer 200 whatever was sent before."""

_SKIPPED: Final = ("/sdapi/v1/server-kill", "/sdapi/v1/server-stop", "/sdapi/v1/server-restart")


class Raw(str):
    """JSON as it stands: for what no encoder writes."""


EVIL: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 64, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 0.5, -0.0, 1e-300,
    1e308, -1e308, "", " ", "20", "20.7", "nan", "inf", "-inf", "1e999", "true", "None", "null", "\0", "\r\n", "\x7f",
    "é", "\U0001f600", "\u2028", "a" * 300, "x" * 131_073, "9" * 5000, [], {}, [[]], [None], {"": None}, ["x"] * 50,
    "data:image/png;base64,", "http://127.0.0.1/", "file:///etc/passwd", "../../etc/passwd", "<lora:x:nan>",
    "[a:b:1e99]", "(" * 500, "[a|b]" * 100, "{prompt}", "AND " * 50, "#", "%s%n{0}", "$(id)", "'; --",
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"), Raw("9" * 400), Raw('"\\ud800"'),
    Raw('"\\udfff\\ud800"'),
    Raw("[" * 70 + "]" * 70), Raw("[" * 900 + "]" * 900), Raw('{"a":' * 300 + "1" + "}" * 300), Raw('{"\\ud800":1}'),
    Raw("-"), Raw("01"), Raw("1."), Raw("'x'"), Raw("undefined"), Raw('"\\x"'), Raw("1e5"), Raw("18446744073709551616"),
)  # fmt: skip

HEADERS: Final[tuple[dict[str, str], ...]] = (
    {}, {}, {}, {}, {"Content-Type": "text/plain"}, {"Content-Type": ""},
    {"Content-Type": "application/json; charset=x"},
    {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": "application/x-www-form-urlencoded"},
    {"Accept": "text/event-stream"}, {"Accept": "\x00"}, {"Cookie": "sd=" + "a" * 32}, {"Cookie": "sd=;;;=\x01"},
    {"X-Request-Id": "a\tb"}, {"X-Request-Id": "é"}, {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
    {"Accept-Encoding": "gzip, br, *;q=x"}, {"Expect": "100-continue"}, {"Content-Encoding": "gzip"},
    {"X-Forwarded-Proto": "https"}, {"X-Forwarded-For": "1.2.3.4, ::1"}, {"Authorization": "Basic \xff"},
    {"Origin": "null"}, {"Range": "bytes=0-"}, {"If-None-Match": "*"},
    {"Upgrade": "websocket", "Connection": "upgrade"},
)  # fmt: skip


def picture(width: int = 8, height: int = 8, mode: str = "RGB", kind: str = "PNG") -> str:
    """A small picture as base64."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


_PICTURES: Final = (
    picture(), picture(64, 64), picture(1, 1, "L"), picture(9, 3, "RGBA"), picture(kind="GIF"), picture()[:60],
    "data:image/png;base64," + picture(), "AAAA", "====", "%%%",
)  # fmt: skip

SMALL: Final[dict[str, Any]] = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64}
"""The cheapest request for an image: it goes under every body that asks for one."""


@dataclass
class Report:
    """What came of it."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def find(self, what: str, sent: bytes) -> None:
        """Note a finding with the request that did it."""
        self.findings.append(f"{what}: {sent[:400]!r}{'…' if len(sent) > 400 else ''}")


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path: the names and schemas of its body's and its query's fields."""

    method: str
    path: str
    fields: dict[str, Any]
    query: tuple[str, ...]


def routes(schema: dict[str, Any]) -> list[Route]:
    """Every route of an OpenAPI document."""
    found = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            body = _resolved(content.get("application/json", {}).get("schema", {}), schema)
            query = tuple(each["name"] for each in operation.get("parameters", ()) if each["in"] == "query")
            if path not in _SKIPPED:
                found.append(Route(method.upper(), path, body.get("properties", {}), query))
    return found


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def dumps(value: Any) -> str:
    """JSON with :class:`Raw` as it stands."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


class Fuzzer:
    """Makes requests for the routes of one service, the same ones for the same ``seed``."""

    def __init__(self, schema: dict[str, Any], options: dict[str, Any], seed: int) -> None:
        self._routes = routes(schema)
        self._options = list(options)
        self._random = random.Random(seed)
        self._heavy = [route for route in self._routes if route.method == "POST" and route.fields]

    def next(self) -> bytes:
        """A request."""
        draw = self._random
        route = draw.choice(self._heavy if draw.random() < 0.7 else self._routes)
        path = route.path
        if route.query and draw.random() < 0.7:
            path += "?" + "&".join(f"{name}={draw.choice(_QUERY)}" for name in route.query)
        headers = dict(draw.choice(HEADERS))
        body = None
        if route.method in ("POST", "PUT", "PATCH", "DELETE"):
            body = self._damaged(dumps(self._body(route)).encode("utf-8", "surrogatepass"))
        return request(route.method, path, body, headers)

    def _body(self, route: Route) -> Any:
        draw = self._random
        if route.path.endswith("/options"):
            return {draw.choice(self._options): self._value("") for _ in range(draw.randint(1, 3))}
        body = {name: SMALL[name] for name in SMALL if name in route.fields}
        for name in ("image", "init_images", "imageList", "images", "mask"):
            if name in route.fields and draw.random() < 0.9:
                body[name] = self._pictures(name)
        names = list(route.fields)
        for name in draw.sample(names, min(len(names), draw.choice((0, 1, 1, 1, 2, 3, 6)))):
            body[name] = self._value(name)
        if draw.random() < 0.05:
            body[str(self._value(""))[:50]] = self._value("")
        return body if draw.random() < 0.97 else draw.choice(EVIL)

    def _pictures(self, name: str) -> Any:
        one = self._random.choice(_PICTURES)
        match name:
            case "init_images" | "images":
                return [one] * self._random.choice((1, 1, 2))
            case "imageList":
                return [{"data": one, "name": "x"}]
        return one

    def _value(self, name: str) -> Any:
        draw = self._random
        if name == "script_name":
            return draw.choice(("x/y/z plot", "prompt matrix", "sd upscale", *map(str, EVIL[:40])))
        if name == "script_args":
            return [
                draw.choice((draw.choice(EVIL), "Seed", "Steps", "Prompt S/R", "1-3", "1,2", 4, ""))
                for _ in range(draw.randint(0, 14))
            ]
        if name == "override_settings":
            return {draw.choice(self._options): draw.choice(EVIL) for _ in range(draw.randint(0, 4))}
        if name == "infotext":
            keys = (
                "Steps",
                "Seed",
                "Size",
                "Refiner switch at",
                "CFG scale",
                "Hires upscale",
                "Schedule rho",
                "ENSD",
            )
            return "cat\n" + ", ".join(f"{key}: {draw.choice(EVIL)}" for key in draw.sample(keys, 4))
        if name in ("styles", "init_images", "images") and draw.random() < 0.5:
            return [draw.choice(EVIL) for _ in range(draw.randint(0, 3))]
        return draw.choice(EVIL)

    def _damaged(self, body: bytes) -> bytes:
        draw = self._random
        match draw.randrange(40):
            case 0:
                return body[: draw.randrange(len(body) + 1)]
            case 1:
                return b"\xef\xbb\xbf" + body
            case 2:
                return body.replace(b'"', b"\xff", 1)
            case 3:
                return body + body
            case 4:
                return body.decode("utf-8", "replace").encode("utf-16")
            case 5:
                return bytes(draw.randrange(256) for _ in range(draw.randrange(40)))
        return body


_QUERY: Final = (
    "",
    "1",
    "true",
    "x",
    "%00",
    "%ff",
    "%F0%9F%98%80",
    "a" * 3000,
    "1&1",
    "[]",
    "nan",
    "-1",
    "9" * 400,
)


def run(address: Address, count: int, seed: int) -> Report:
    """Send ``count`` requests."""
    report, client = Report(), Client(address, timeout=60)
    schema = client.send(request("GET", "/openapi.json")).json()
    options = client.send(request("GET", "/sdapi/v1/options")).json()
    fuzzer = Fuzzer(schema, options, seed)
    for number in range(count):
        sent = fuzzer.next()
        try:
            answer = client.send(sent)
        except Dropped:
            report.find("no answer", sent)
        except TimeoutError:
            report.find("no answer within 60 s", sent)
        else:
            report.statuses[answer.status] += 1
            _judge(answer, sent, report)
        report.sent += 1
        if number % 100 == 99 or number == count - 1:
            check(client, report, sent)
    client.close()
    return report


def check(client: Client, report: Report, last: bytes) -> None:
    """Find out whether the service still answers what it must."""
    for path in CHECKED:
        try:
            status = client.send(request("GET", path)).status
        except (Dropped, TimeoutError):
            status = 0
        if status != 200:
            report.find(f"afterwards {path} answers {status}", last)


_ENDS: Final = (b"event: result", b"event: error", b".completed")
"""Events that end a stream: ours, and OpenAI's."""


def _judge(answer: Answer, sent: bytes, report: Report) -> None:
    if answer.status >= 500 and (answer.status not in DOCUMENTED or not answer.code):
        report.find(str(answer.status), sent)
    elif answer.status >= 400 and not answer.body:
        report.find(f"{answer.status} without a sentence", sent)
    elif answer.headers.get("content-type", "").startswith("text/event-stream"):
        last = answer.body.rstrip().rsplit(b"\n\n", 1)[-1]
        if not any(end in last for end in _ENDS):
            report.find("a stream without an end", sent)
        elif b'"status":500' in last:
            report.find("500 in a stream", sent)
