"""Who may use the page, what it sends and loads, and whom it asks."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from service.core.errors import ServiceError
from service.ui.words import NAMES, words
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve
from tests.ui.conftest import AXE, PageServer, Seen, Visit

TABS = ("txt2img", "img2img", "inpaint", "extras", "pnginfo", "models", "history", "fleet")


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """The service with its page."""
    with serve(FakeEngine(), ui=True) as server:
        yield server


def test_the_page_asks_for_the_services_credentials(visit: Visit, apart: PageServer) -> None:
    with serve(FakeEngine(), ui=True, api_auth="ann:secret") as live, apart(live.url) as url:
        for address in (live.url, url):
            answer = httpx.get(address)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic")
            wrong = visit(address, wait=False, http_credentials={"username": "ann", "password": "wrong"})
            wrong.allowed = ("401",)
            shown = wrong.page.goto(address)
            assert shown is not None
            assert shown.status == 401
            assert wrong.find("#txt2img-generate").count() == 0
            seen = visit(address, http_credentials={"username": "ann", "password": "secret"})
            seen.draw(steps=1)
            seen.done()
            assert httpx.get(f"{address}/gradio_api/queue/data?session_hash=x").status_code == 401
            assert httpx.get(f"{address}/page/status").status_code == 401


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/status", "/theme.css", "/config"])
def test_headers_keep_other_sites_out(live: LiveServer, path: str) -> None:
    answer = httpx.get(live.url + path)
    assert answer.status_code == 200
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy  # no host but our own
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_another_site_cannot_act(live: LiveServer, apart: PageServer) -> None:
    body = {"data": [], "fn_index": 0, "session_hash": "abc"}
    with apart(live.url) as url:
        for address in (live.url, url):
            for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
                answer = httpx.post(f"{address}/gradio_api/queue/join", json=body, headers=headers)
                assert answer.status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/upload",
        "/gradio_api/call/run",
        "/gradio_api/mcp/sse",
        "/gradio_api/runs",
        "/monitoring",
        "/login",
        "/page/../cli.py",
        "/page/pictures/unknown/a.png",
        "/page/words/xx.json",
        "/nowhere",
    ],
)
def test_what_the_page_does_not_use_is_not_there(live: LiveServer, path: str) -> None:
    assert httpx.get(live.url + path).status_code == 404
    assert httpx.post(live.url + path, json={}).status_code in (404, 405)


def test_the_api_is_as_it_was(live: LiveServer) -> None:
    assert httpx.get(f"{live.url}/sdapi/v1/sd-models").status_code == 200
    assert httpx.get(f"{live.url}/docs").status_code == 200
    assert "x-frame-options" not in httpx.get(f"{live.url}/readyz").headers
    with serve(FakeEngine()) as bare:
        assert httpx.get(bare.url + "/").status_code == 404


def test_behind_a_prefix(visit: Visit) -> None:
    with serve(FakeEngine(), ui=True, root_path="/draw") as live:
        seen = visit(live.url, wait=False)
        seen.page.goto(live.url + "/draw/")
        seen.draw(steps=1)
        seen.done()
        assert seen.pictures().evaluate("image => image.naturalWidth") == 512


def test_nobody_is_asked_but_the_service() -> None:
    """Each address that the page's process looks up or connects to while it starts and serves is our own."""
    with serve(FakeEngine()) as live:
        program = f"""
import sys
asked = []
def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(str(arguments[1][0]))
    if event == "socket.getaddrinfo":
        asked.append(str(arguments[0]))
sys.addaudithook(watch)
import asyncio, httpx
from service.ui.app import create_page
app = create_page({live.url!r})
async def main():
    async with app.router.lifespan_context(app):
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page")
        print((await client.get("/")).status_code, (await client.get("/page/status")).json()["state"])
        await asyncio.sleep(1)
asyncio.run(main())
print(sorted(set(asked)))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split() == ["200", "ready"]
    assert second == "['127.0.0.1']"


def test_a_service_without_the_page_imports_none_of_it() -> None:
    program = (
        "import sys; from service.app import create_app; from service.settings import Settings; "
        "create_app(Settings.read()); print([m for m in sys.modules if m.split('.')[0] in ('gradio', 'pandas') "
        "or m.startswith('service.ui')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(live: LiveServer, visit: Visit, width: int, scheme: str) -> None:
    if not AXE.exists():
        pytest.fail("axe-core is missing: make browser-tools")
    seen = visit(live.url, viewport={"width": width, "height": 844}, color_scheme=scheme)
    seen.draw(steps=1)
    seen.done()
    found = []
    for tab in TABS:
        seen.tab(tab)
        if tab in ("models", "fleet"):
            expect(seen.find(f"#tab-{tab} table").first).to_be_visible()
        found += [f"{tab}: {violation}" for violation in violations(seen)]
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found == []


def violations(seen: Seen) -> list[str]:
    """What axe-core calls serious or critical on the open page."""
    seen.page.evaluate(AXE.read_text(encoding="utf-8"))
    result: dict[str, Any] = seen.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary']}"
        for one in result["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_it_can_be_used_with_the_keyboard_alone(live: LiveServer, visit: Visit) -> None:
    seen = visit(live.url)
    keyboard = seen.page.keyboard
    focused = """() => {
        const element = document.activeElement;
        return element.closest('[id]')?.id + ' ' + (element.getAttribute('aria-label') ?? element.textContent).trim();
    }"""
    order = []
    for _ in range(40):
        keyboard.press("Tab")
        order.append(seen.page.evaluate(focused))
        if "txt2img-generate" in order[-1]:
            break
    else:
        pytest.fail(f"the button is not reached: {order}")
    stations = (
        "checkpoint",
        "Language",
        "tab-txt2img",
        "txt2img-prompt",
        "txt2img-negative",
        "txt2img-generate",
    )
    where = [next((number for number, name in enumerate(order) if one in name), -1) for one in stations]
    assert -1 not in where, order
    assert where == sorted(where)
    keyboard.press("Enter")
    seen.done()
    seen.find("#txt2img-prompt textarea").focus()
    keyboard.type("a cat")
    keyboard.press("Control+Enter")
    expect(seen.find("#txt2img-gallery .sd-infotext")).to_contain_text("a cat")
    # What happens is said to those who do not see it.
    expect(seen.find("body > [role=status]")).to_have_text("Done: 1")
    opener = seen.find("#txt2img-gallery .sd-open")
    opener.focus()
    keyboard.press("Enter")
    expect(seen.find("dialog.sd-dialog img")).to_be_visible()
    keyboard.press("Escape")
    expect(seen.find("dialog.sd-dialog")).to_have_count(0)
    expect(opener).to_be_focused()


def test_prompts_are_text_and_nothing_else(live: LiveServer, visit: Visit) -> None:
    """What a client writes into a prompt stands on the page as it is, through both of Gradio's template languages."""
    seen = visit(live.url)
    evil = "<img src=x onerror=alert(1)> {{value}} ${document.title} \\u003cb\\u003e `x` {{> value}} </p><script>"
    seen.find("#txt2img-prompt textarea").fill(evil)
    seen.draw(steps=1)
    seen.done()
    expect(seen.find("#txt2img-gallery .sd-infotext")).to_contain_text(evil)
    assert seen.find("#txt2img-gallery img[src=x]").count() == 0


def test_every_language_says_everything() -> None:
    folder = Path(__file__).parents[2] / "service/ui/locales"
    english = json.loads((folder / "en.json").read_text(encoding="utf-8"))
    for code in NAMES:
        said = json.loads((folder / f"{code}.json").read_text(encoding="utf-8"))
        assert list(said) == list(english), code
        for key, sentence in said.items():
            places = {part.split("}")[0] for part in english[key].split("{")[1:]}
            assert {part.split("}")[0] for part in sentence.split("{")[1:]} == places, (code, key)


def test_every_error_of_the_service_has_a_sentence() -> None:
    def codes(kind: type[ServiceError]) -> set[str]:
        return {kind.code}.union(*map(codes, kind.__subclasses__()))

    missing = {code for code in codes(ServiceError) if words("en").get(f"problem.{code}") is None}
    assert missing == set()


def test_too_much_is_not_taken(live: LiveServer) -> None:
    """A body beyond the limit ends its connection; the server goes on."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
        head = "POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 80000000\r\n\r\n".encode())
        part = b"[" * 1_000_000
        try:
            for _ in range(80):
                connection.sendall(part)
            answer = connection.recv(100)
        except OSError:
            answer = b""
    assert b" 200 " not in answer
    assert httpx.get(f"{live.url}/readyz").status_code == 200
