"""A real Chromium, and pages that it may look at: mounted on the service, and apart from it.

Whatever a test does, its pages may neither write an error to the console nor ask another host for anything.
"""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import uvicorn

pytest.importorskip("gradio", reason="the page needs the extra ui")

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    expect,
    sync_playwright,
)

from service.ui.app import create_page
from tests.live import free_port

CHROMIUM: Final = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE: Final = Path(__file__).parents[2] / "build/npm/node_modules/axe-core/axe.min.js"
SECONDS: Final = 60_000
"""Milliseconds that a loaded machine may take for anything."""

expect.set_options(timeout=SECONDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What Gradio's queue and the browser's driver leave open when a page goes in the middle is not ours to close."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@dataclass
class Seen:
    """One open page and what it did."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()
    """Parts of errors that the test itself provokes."""

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(url)

    def open(self) -> "Seen":
        """Load the page and wait until it can be used."""
        self.page.goto(self.url + "/")
        expect(self.find("#txt2img-generate")).to_be_visible()
        expect(self.find("#sd-status .sd-status")).to_be_visible()
        return self

    def find(self, selector: str) -> Locator:
        """Where ``selector`` points."""
        return self.page.locator(selector)

    def tab(self, name: str) -> None:
        """Open a tab by its id."""
        self.find(f"#tab-{name}-button").click()
        expect(self.find(f"#tab-{name}")).to_be_visible()

    def number(self, elem_id: str, value: float) -> None:
        """Type a number into a slider's field or a number field."""
        box = self.find(f"#{elem_id} input[type=number]").first
        box.fill(str(value))
        box.blur()

    def draw(self, tab: str = "txt2img", **numbers: float) -> None:
        """Press the button of a tab."""
        for name, value in numbers.items():
            self.number(f"{tab}-{name}", value)
        self.find(f"#{tab}-generate").click()

    def live(self, tab: str = "txt2img") -> Locator:
        """The sentence that says what happens."""
        return self.find(f"#{tab}-live .sd-what")

    def pictures(self, tab: str = "txt2img") -> Locator:
        """The pictures that are shown."""
        return self.find(f"#{tab}-gallery .sd-open img")

    def done(self, tab: str = "txt2img", count: int = 1) -> None:
        """Wait until the pictures are there."""
        expect(self.live(tab)).to_have_text(f"Done: {count}")
        expect(self.pictures(tab)).to_have_count(count)

    def file(self, tab: str = "txt2img", number: int = 0) -> bytes:
        """The bytes that the download button saves."""
        with self.page.expect_download(timeout=SECONDS) as waiting:
            self.find(f"#{tab}-gallery .sd-save").nth(number).click()
        return Path(waiting.value.path()).read_bytes()

    def choose(self, tab: str, path: Path) -> None:
        """Choose a file as a picture of a tab."""
        self.find(f"#{tab}-picture input[type=file]").set_input_files(path)
        expect(self.find(f"#{tab}-picture .sd-stage")).to_be_visible()

    def check(self) -> None:
        """Fail if the page complained, or asked anybody but its own host."""
        assert self.foreign == []
        assert [error for error in self.errors if not any(part in error for part in self.allowed)] == []


# By module, not by session: while it is there an event loop runs in this thread, and others want one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, with a fresh profile."""
    if CHROMIUM is None:
        pytest.fail("Chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield started
        started.close()


Browse = Callable[..., BrowserContext]
Visit = Callable[..., Seen]


@pytest.fixture
def browse(browser: Browser) -> Iterator[Browse]:
    """Open a browser context: cookies, storage and credentials of its own. Options are Playwright's."""
    with ExitStack() as stack:

        def start(**options: Any) -> BrowserContext:
            context = browser.new_context(
                **{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **options}
            )
            context.set_default_timeout(SECONDS)
            stack.callback(context.close)
            return context

        yield start


@pytest.fixture
def visit(browse: Browse) -> Iterator[Visit]:
    """Open the page at an address in a browser of its own; at the end it is checked that it behaved."""
    opened: list[Seen] = []

    def go(url: str, *, wait: bool = True, **options: Any) -> Seen:
        seen = Seen(browse(**options).new_page(), url)
        opened.append(seen)
        return seen.open() if wait else seen

    yield go
    for seen in opened:
        seen.check()


@contextmanager
def serve_page(url: str, **options: Any) -> Iterator[str]:
    """The page apart, as ``python -m service ui --url`` serves it; gives its own address."""
    port = free_port()
    app = create_page(url, **options)
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, ws="none", log_config=None, timeout_graceful_shutdown=2
        )
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        loop.close()


PageServer = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def apart() -> PageServer:
    """See :func:`serve_page`."""
    return serve_page
