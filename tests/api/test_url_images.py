"""Images by address: refused by default; where allowed, only from public addresses, directly, within limits."""

import asyncio
import base64
import http.server
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from service.api import url_images
from service.core.errors import BadImage
from service.settings import Settings
from tests.api.conftest import Api, opened, picture
from tests.fakes import FakeEngine
from tests.live import serve

ADDRESSES = [
    "http://169.254.169.254/latest/meta-data", "http://127.0.0.1:7860/metrics", "http://localhost/a.png",
    "http://[::1]/a.png", "http://[::ffff:127.0.0.1]/a.png", "http://10.0.0.1/a.png", "http://192.168.1.1/a.png",
    "http://172.16.0.1/a.png", "http://100.64.0.1/a.png", "http://0.0.0.0/a.png", "http://[fd00::1]/a.png",
    "http://[fe80::1]/a.png", "http://[64:ff9b::7f00:1]/a.png", "http://[2002:7f00:1::]/a.png", "http://224.0.0.1/a",
    "http://255.255.255.255/a", "http://2130706433/a.png", "http://0x7f000001/a.png", "http://0177.0.0.1/a.png",
    "http://127.1/a.png",
]  # fmt: skip
ODD = [
    "file:///etc/passwd", "FILE:///etc/passwd", "ftp://example.org/a.png", "gopher://127.0.0.1/", "http://",
    "http:///a.png", "https://user:secret@example.org/a.png", "http://a b/", "http://\u2603.invalid/",
    "http://example.org:99999/a.png", "dict://x:11211/", "http://" + "a" * 300 + ".org/",
]  # fmt: skip


def bodies(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Every route that takes an image, with ``text`` for it."""
    good = picture()
    return [
        ("/sdapi/v1/png-info", {"image": text}),
        ("/sdapi/v1/extra-single-image", {"image": text, "upscaler_1": "Lanczos"}),
        ("/sdapi/v1/extra-batch-images", {"imageList": [{"data": good, "name": "a"}, {"data": text, "name": "b"}]}),
        ("/sdapi/v1/img2img", {"init_images": [text], "width": 64, "height": 64, "steps": 1}),
        ("/sdapi/v1/img2img", {"init_images": [good], "mask": text, "width": 64, "height": 64, "steps": 1}),
    ]  # fmt: skip


@pytest.mark.parametrize("address", [*ADDRESSES[:3], *ODD, "https://example.org/a.png"])
def test_no_address_is_fetched_unless_the_operator_allows_it(api: Api, address: str) -> None:
    for path, body in bodies(address):
        answer = api.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text)
        assert "not allowed" in answer.json()["detail"] or "base64" in answer.json()["detail"]
    assert not api.engine.served


@pytest.fixture(scope="module")
def allowing() -> Iterator[Api]:
    engine = FakeEngine()
    with serve(engine, allow_url_images=True) as live:
        api = Api(live, engine)
        yield api
        api.close()


@pytest.mark.parametrize("address", [*ADDRESSES, *ODD])
def test_even_then_nothing_but_public_http_is_asked(allowing: Api, address: str) -> None:
    for path, body in bodies(address)[:1] + bodies(address)[3:]:
        answer = allowing.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text)
    assert "secret" not in answer.text


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "93.184.216.34"])
def test_what_is_public(address: str) -> None:
    assert url_images.is_public(address)


class Files(http.server.BaseHTTPRequestHandler):
    """Serves what the tests want, and remembers what it was asked."""

    content: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        status, headers, body = self.content.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def files() -> Iterator[tuple[type[Files], int]]:
    Files.content.clear()
    Files.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Files, server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def local_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let any host name mean this machine, and count it as public: there is no internet in tests."""
    asked: list[str] = []

    async def resolve(host: str, port: int, name: str) -> str:
        asked.append(host)
        return "127.0.0.1"

    monkeypatch.setattr(url_images, "resolve", resolve)
    return asked


def test_an_image_is_fetched_from_the_address_that_was_checked(
    allowing: Api, files: tuple[type[Files], int], local_names: list[str]
) -> None:
    handler, port = files
    handler.content["/a.png?x=1"] = (200, {"Content-Type": "text/plain"}, base64.b64decode(picture(32, 16)))
    address = f"http://pictures.example:{port}/a.png?x=1"
    answer = allowing.post("/sdapi/v1/extra-single-image", json={"image": address, "upscaler_1": "Nearest"})
    assert answer.status_code == 200, answer.text
    assert opened(answer.json()["image"]).size == (64, 32)
    assert local_names == ["pictures.example"], "resolved once"
    assert handler.asked == [("/a.png?x=1", f"pictures.example:{port}")]
    made = allowing.post(
        "/sdapi/v1/img2img",
        json={"init_images": [address], "mask": address, "width": 64, "height": 64, "steps": 1},
    )
    assert made.status_code == 200, made.text


def test_redirects_errors_and_other_content_are_refused(
    allowing: Api, files: tuple[type[Files], int], local_names: list[str]
) -> None:
    handler, port = files
    handler.content["/there"] = (302, {"Location": f"http://127.0.0.1:{port}/secret"}, b"")
    handler.content["/text"] = (200, {}, b"root:x:0:0")
    handler.content["/empty"] = (200, {}, b"")
    handler.content["/cut"] = (200, {"Content-Length": "999"}, b"\x89PNG")
    for path in ("/there", "/text", "/empty", "/cut", "/missing"):
        answer = allowing.post("/sdapi/v1/png-info", json={"image": f"http://x.example:{port}{path}"})
        assert answer.status_code == 400, path
        assert "root:x" not in answer.text
    assert "/secret" not in [path for path, _ in handler.asked]


def test_size_and_time_are_bounded(
    files: tuple[type[Files], int], local_names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, port = files
    handler.content["/large"] = (200, {}, b"x" * 200_000)
    handler.content["/zipped"] = (200, {"Content-Encoding": "gzip"}, b"x" * 50)
    settings = Settings.read(allow_url_images=True, max_body_mb=0.1)

    def fetch(path: str) -> str:
        return asyncio.run(url_images.inline(f"http://x.example:{port}{path}", settings))

    with pytest.raises(BadImage, match="SD_MAX_BODY_MB"):
        fetch("/large")
    assert base64.b64decode(fetch("/zipped")) == b"x" * 50, "taken as it is, never unpacked"
    monkeypatch.setattr(url_images, "TIMEOUT", 0.05)
    with pytest.raises(BadImage):
        asyncio.run(url_images.inline("http://x.example:9/never", settings))


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> str:
        loop = asyncio.get_running_loop()

        async def answers(host: str, port: int, **_: Any) -> list[Any]:
            return [(2, 1, 6, "", ("8.8.8.8", port)), (2, 1, 6, "", ("10.1.1.1", port))]

        monkeypatch.setattr(loop, "getaddrinfo", answers)
        return await url_images.resolve("both.example", 80, "image")

    with pytest.raises(BadImage, match="Request to local resource not allowed"):
        asyncio.run(run())
