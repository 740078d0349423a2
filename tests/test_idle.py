"""Refusals by the memory plan, and weights that leave while nobody asks, over HTTP."""

from collections.abc import Callable

import pytest

from service.core.errors import OutOfMemory
from service.core.generation import GenerationRequest
from service.settings import Settings, SettingsError
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve

BODY = {"prompt": "a", "steps": 1, "width": 64, "height": 64}


def test_a_refusal_of_the_plan_is_507_at_once() -> None:
    def too_large(request: GenerationRequest) -> Exception | None:
        return OutOfMemory("Lower the size.") if request.width > 512 else None

    engine = FakeEngine(check_with=too_large)
    with serve(engine) as server, server.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json=BODY | {"width": 1024})
        assert answer.status_code == 507
        assert "Lower the size." in answer.text
        assert answer.headers["X-Error-Code"] == "out_of_memory"
        assert engine.served == []
        assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 200


def state(server: LiveServer) -> Callable[[], str]:
    return lambda: server.context.lifecycle.state.value


def test_idle_weights_leave_and_come_back() -> None:
    engine = FakeEngine()
    with serve(engine, idle_sleep=0.05) as server, server.client() as client:
        server.wait_until(lambda: server.context.lifecycle.state.value == "asleep")
        assert engine.slept
        ready = client.get("/readyz")
        assert ready.status_code == 200, "a request would be served"
        assert ready.json()["state"] == "asleep"
        assert "in main memory" in ready.text
        assert 'sd_weights_asleep{where="memory"} 1.0' in client.get("/metrics").text
        assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 200
        count = len(engine.slept)
        server.wait_until(lambda: len(engine.slept) > count)


def test_idle_weights_leave_memory_later() -> None:
    engine = FakeEngine(loaded=["x"])
    with serve(engine, idle_unload=0.05) as server, server.client() as client:
        server.wait_until(lambda: server.context.lifecycle.state.value == "asleep")
        assert engine.loaded == []
        assert "on the disk" in client.get("/readyz").text


@pytest.mark.parametrize(("name", "value"), [("SD_MEASURES", "magic"), ("SD_PLAN_SIZE", "large")])
def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=value):
        Settings.read()
