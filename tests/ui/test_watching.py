"""What the page tells while something waits, runs, fails and comes back. Timing alone: the engine is a fake."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from service.core.errors import OutOfMemory
from tests.fakes import OTHER, FakeEngine
from tests.front.queue_proxy import QueueProxy
from tests.live import LiveServer, free_port, serve, serve_here
from tests.ui.conftest import PageServer, Seen, Visit


@pytest.fixture
def engine() -> FakeEngine:
    """An engine whose steps a test lets happen one by one."""
    return FakeEngine(gate=threading.Semaphore(0))


@pytest.fixture
def live(engine: FakeEngine) -> Iterator[LiveServer]:
    """The service with its page."""
    with serve(engine, ui=True) as server:
        yield server
        let(engine, 1000)


def let(engine: FakeEngine, steps: int) -> None:
    """Let ``steps`` sampler steps happen."""
    assert engine.gate is not None
    engine.gate.release(steps)


def bar(seen: Seen, percent: int) -> None:
    expect(seen.find("#txt2img-live [role=progressbar]")).to_have_attribute("aria-valuenow", str(percent))


def test_progress_moves_with_step_and_preview(live: LiveServer, engine: FakeEngine, visit: Visit) -> None:
    seen = visit(live.url)
    seen.draw(steps=10)
    let(engine, 3)
    bar(seen, 30)
    expect(seen.find("#txt2img-live .sd-details")).to_contain_text("Step 3 of 10")
    expect(seen.find("#txt2img-live .sd-details")).to_contain_text("left")
    expect(seen.find("#txt2img-live .sd-preview")).to_be_visible()
    expect(seen.find("#sd-status")).to_contain_text("Drawing")
    let(engine, 4)
    bar(seen, 70)
    let(engine, 3)
    seen.done()


def test_the_place_in_the_queue_is_told_and_left_at_an_interrupt(
    live: LiveServer, engine: FakeEngine, visit: Visit
) -> None:
    first, second = visit(live.url), visit(live.url)
    first.draw(steps=4)
    let(engine, 1)
    bar(first, 25)
    second.draw(steps=4)
    expect(second.live()).to_contain_text("In the queue: 1 before this one")
    second.find("#txt2img-interrupt").click()
    expect(second.live()).to_have_text("Cancelled before it began.")
    live.wait_until(lambda: len(live.context.tasks) == 1)
    # The first one's picture goes on.
    let(engine, 3)
    first.done()


def test_closing_the_tab_cancels(live: LiveServer, engine: FakeEngine, visit: Visit) -> None:
    seen = visit(live.url)
    seen.draw(steps=100)
    let(engine, 2)
    bar(seen, 2)
    seen.page.close()
    live.wait_idle()
    assert engine.steps_done == [2]


def test_a_server_that_loads_is_waited_for(visit: Visit) -> None:
    engine = FakeEngine(load_gate=threading.Event())
    with serve(engine, wait_ready=False, ui=True) as live:
        seen = visit(live.url)
        expect(seen.find("#sd-status")).to_contain_text("Loading the model")
        seen.draw(steps=2)
        expect(seen.live()).to_have_text(re.compile(r"The server loads its model, \d+ s"))
        assert engine.load_gate is not None
        engine.load_gate.set()
        seen.done()
        expect(seen.find("#sd-status")).to_contain_text("Ready")
        # The lists came with the service.
        expect(seen.find("#sd-checkpoint input")).to_have_value("fake.safetensors [0123456789]")


def test_the_page_of_a_front_tells_that_a_gpu_is_started(apart: PageServer, visit: Visit) -> None:
    """A front, and behind it a platform whose pod comes late: it is said, then the picture is drawn."""
    engine, pods = FakeEngine(gate=threading.Semaphore(0)), list[int]()
    with (
        serve_here(engine, pod_name="pod") as pod,
        QueueProxy(lambda: pods) as proxy,
        serve_here(None, pod_name="front", upstream={"default": proxy.url}) as front,
        apart(front.url) as url,
    ):
        seen = visit(url)
        seen.draw(steps=4)
        expect(seen.live()).to_have_text(re.compile(r"Starting a GPU, \d+ s"))
        pods.append(pod.port)
        let(engine, 2)
        bar(seen, 50)
        seen.find("#txt2img-interrupt").click()
        expect(seen.live()).to_have_text("Interrupted: this is as far as it got")
        expect(seen.pictures()).to_have_count(1)
        expect(seen.find("#txt2img-live .sd-details")).to_contain_text("drawn by pod")
        seen.tab("fleet")
        expect(seen.find("#fleet-board")).to_contain_text("Services behind this front")


def test_an_error_is_a_sentence_with_its_cure(live: LiveServer, engine: FakeEngine, visit: Visit) -> None:
    engine.fail_with = lambda request: OutOfMemory("512×512 need 3 GB, and 2 are free.")
    seen = visit(live.url)
    seen.draw(steps=1)
    let(engine, 1)
    alert = seen.find("#txt2img-live [role=alert]")
    expect(alert).to_contain_text("A smaller size or a smaller batch helps.")
    expect(alert).to_contain_text("512×512 need 3 GB, and 2 are free.")
    engine.fail_with = lambda request: None
    seen.draw(steps=1)
    let(engine, 1)
    seen.done()


def test_the_service_goes_and_comes_back(apart: PageServer, visit: Visit) -> None:
    port = free_port()
    with apart(f"http://127.0.0.1:{port}", poll=1.0) as url:
        with serve(FakeEngine(), port=port):
            seen = visit(url)
            expect(seen.find("#sd-status")).to_contain_text("Ready")
            seen.draw(steps=2)
            seen.done()
        expect(seen.find("#sd-status")).to_contain_text("does not answer")
        seen.draw(steps=2)
        expect(seen.find("#txt2img-live [role=alert]")).to_contain_text("The service does not answer.")
        with serve(FakeEngine(), port=port):
            expect(seen.find("#sd-status")).to_contain_text("Ready")
            seen.draw(steps=2)
            seen.done()


def test_the_page_itself_goes_and_comes_back(visit: Visit) -> None:
    port = free_port()
    with serve(FakeEngine(), port=port, ui=True) as live:
        seen = visit(live.url)
        seen.allowed = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "Failed to fetch", "ERR_EMPTY_RESPONSE",
                        "ERR_CONNECTION_RESET", "network error")  # fmt: skip
        expect(seen.find("#sd-status")).to_contain_text("Ready")
    expect(seen.find("#sd-status")).to_contain_text("does not answer")
    with serve(FakeEngine(), port=port, ui=True):
        expect(seen.find("#sd-status")).to_contain_text("Ready")
        seen.draw(steps=2)
        seen.done()


def test_a_stopped_server_finishes_the_picture_and_leaves(visit: Visit) -> None:
    """An open page is an open connection: a server that waited for it would wait for its grace."""
    port = free_port()
    environment = {**os.environ, "SD_UI": "true", "SD_LOG_LEVEL": "ERROR", "SD_DRAIN_TIMEOUT": "300"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", str(port)], env=environment
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        seen = visit(address)
        seen.allowed = ("ERR_", "Failed to fetch", "network error")
        seen.draw(steps=150)
        expect(seen.find("#txt2img-live .sd-preview")).to_be_visible()
        process.send_signal(signal.SIGTERM)
        seen.done()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if condition():
                return
        time.sleep(0.1)
    pytest.fail("it did not come")


def test_two_browsers_have_options_of_their_own(live: LiveServer, engine: FakeEngine, visit: Visit) -> None:
    let(engine, 1000)
    first, second = visit(live.url), visit(live.url)
    first.tab("models")
    box = first.find("#models-pick input")
    box.click()
    first.page.get_by_role("option", name=OTHER.title).click()
    first.find("#models-switch").click()
    expect(first.find("#models-told")).to_contain_text(f"{OTHER.title} is loaded")
    expect(first.find("#models-tables .sd-marked")).to_contain_text(OTHER.title)
    assert engine.loaded == [OTHER.title]
    first.tab("txt2img")
    for seen in (first, second):
        seen.draw(steps=1)
        seen.done()
    mine, theirs = engine.served
    assert mine.checkpoint == OTHER.title
    assert theirs.checkpoint != OTHER.title
    expect(second.find("#sd-checkpoint input")).not_to_have_value(OTHER.title)


def test_a_lora_is_added_to_the_prompt(live: LiveServer, visit: Visit) -> None:
    seen = visit(live.url)
    seen.find("#txt2img-prompt textarea").fill("a cat")
    seen.find("#txt2img-lora input").click()
    seen.page.get_by_role("option", name="more-detail").click()
    expect(seen.find("#txt2img-prompt textarea")).to_have_value("a cat <lora:detail:1>")


def test_the_language_changes_at_once_and_stays(live: LiveServer, engine: FakeEngine, visit: Visit) -> None:
    seen = visit(live.url)
    seen.draw(steps=4)
    let(engine, 1)
    bar(seen, 25)
    seen.find("select[data-language]").select_option("ja")
    expect(seen.find("#txt2img-generate")).to_have_text("生成")
    expect(seen.find("html")).to_have_attribute("lang", "ja")
    let(engine, 3)
    expect(seen.pictures()).to_have_count(1)
    seen.page.reload()
    expect(seen.find("#txt2img-generate")).to_have_text("生成")
    expect(seen.find("#tab-models-button")).to_have_text("モデル")


def test_the_browsers_language_is_taken_at_first(live: LiveServer, visit: Visit) -> None:
    seen = visit(live.url, wait=False, locale="ko-KR")
    seen.page.goto(live.url)
    expect(seen.find("#txt2img-generate")).to_have_text("생성")


def test_the_fleet_tab_tells_the_services_own_numbers(
    live: LiveServer, engine: FakeEngine, visit: Visit, tmp_path: Path
) -> None:
    let(engine, 1000)
    seen = visit(live.url)
    seen.draw(steps=2)
    seen.done()
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    seen.tab("fleet")
    board = seen.find("#fleet-board")
    expect(board.locator("dl div", has_text="Answered by")).to_contain_text("test-pod")
    expect(board.locator("dl div", has_text="Pictures made")).to_contain_text("1")
    expect(board.locator("dl div", has_text="Waiting / most")).to_contain_text("0 / 10")
    expect(board.locator("tr", has_text="generate")).to_contain_text("ok")
    expect(board.locator("tr", has_text="weights")).to_contain_text("0.02")
