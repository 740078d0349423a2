"""Options: process-wide, of a session, of one request; checkpoints that they switch."""

import json
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.sdapi.options import DEFAULTS, LARGEST, Options, checked
from service.core.errors import BadRequest
from service.core.records import CheckpointInfo
from service.state.sessions import Sessions, is_id, new_id
from tests.api.conftest import SMALL, Api
from tests.fakes import CHECKPOINT, OTHER, FakeEngine
from tests.live import on_a_pod, serve

OPTIONS = "/sdapi/v1/options"


# --- the store ------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_lives_as_long_as_it_comes_back() -> None:
    clock = Clock()
    kept = Sessions(10, 5, clock=clock)
    kept.update("a", {"x": 1})
    clock.now += 9
    assert kept.options("a") == {"x": 1}
    clock.now += 9
    assert kept.options("a") == {"x": 1}, "counted from the last request"
    clock.now += 10
    assert kept.options("a") == {}
    assert len(kept) == 0


def test_the_longest_unused_session_leaves_first() -> None:
    counts: list[int] = []
    kept = Sessions(10, 2, counts.append, clock=Clock())
    for name in ("a", "b"):
        kept.update(name, {"x": name})
    kept.options("a")
    kept.update("c", {"x": "c"})
    assert [dict(kept.options(name)) for name in "abc"] == [{"x": "a"}, {}, {"x": "c"}]
    assert counts[-1] == 2


def test_asking_costs_nothing() -> None:
    kept = Sessions(10, 2)
    for _ in range(100):
        assert kept.options(new_id()) == {}
    assert len(kept) == 0


@given(st.text(max_size=80))
def test_only_ids_as_given_are_ids(text: str) -> None:
    assert is_id(text) == (
        22 <= len(text) <= 64 and text.isascii() and text.replace("-", "a").replace("_", "a").isalnum()
    )
    assert is_id(new_id())


# --- layers ---------------------------------------------------------------------------------------------


def test_later_layers_win_and_null_means_unset() -> None:
    options = Options({"tiling": True, "jpeg_quality": 50}, {"jpeg_quality": 60, "tiling": None})
    assert (options.flag("tiling"), options.integer("jpeg_quality")) == (True, 60)
    assert set(options) == set(DEFAULTS)


def test_checked_drops_what_is_unknown_protected_or_null_and_spells_choices() -> None:
    assert checked({"nothing": 1, "outdir_samples": "/etc", "api_useragent": "x", "sd_vae": None}) == {}
    assert checked({"samples_format": "PNG", "emphasis": "no NORM", "tiling": "true"}) == {
        "samples_format": "png", "emphasis": "No norm", "tiling": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"jpeg_quality": "high"}, {"jpeg_quality": float("nan")}, {"CLIP_stop_at_last_layers": 0},
        {"tiling": "perhaps"}, {"emphasis": 5}, {"sd_model_checkpoint": 5}, {"samples_format": "svg"},
        {"samples_filename_pattern": "x", "deepbooru_filter_tags": "x" * LARGEST},
    ],
)  # fmt: skip
def test_checked_refuses_what_nobody_could_use(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        checked(changes)


@given(
    st.dictionaries(
        st.sampled_from(sorted(DEFAULTS)),
        st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.text()),
    )
)
def test_checked_never_fails_otherwise_and_what_it_keeps_can_be_used(changes: dict[str, Any]) -> None:
    try:
        kept = checked(changes)
    except BadRequest:
        return
    assert checked(kept) == kept


# --- over HTTP --------------------------------------------------------------------------------------------


def test_the_whole_object_can_be_posted_back(api: Api) -> None:
    before = api.get(OPTIONS).json()
    assert before["sd_model_checkpoint"] == CHECKPOINT.title
    assert before["samples_format"] == "png"
    assert before.keys() == DEFAULTS.keys()
    answer = api.post(OPTIONS, json={**before, "CLIP_stop_at_last_layers": 2.0, "from_elsewhere": 1})
    assert (answer.status_code, answer.json()) == (200, None)
    after = api.get(OPTIONS).json()
    assert after == {**before, "CLIP_stop_at_last_layers": 2.0}
    assert not api.engine.loaded, "the checkpoint in use is not loaded again"


@on_a_pod
@pytest.mark.parametrize(
    "name",
    [OTHER.title, "dir/other.safetensors", "other.safetensors", "dir_other", OTHER.short_hash, OTHER.sha256,
     "dir/other.safetensors [0000000000]"],
)  # fmt: skip
def test_a_checkpoint_is_loaded_before_the_answer_and_stored_by_its_title(api: Api, name: str) -> None:
    assert api.post(OPTIONS, json={"sd_model_checkpoint": name}).status_code == 200
    assert api.engine.loaded == [OTHER.title]
    options = api.get(OPTIONS).json()
    assert options["sd_model_checkpoint"] == OTHER.title
    assert options["sd_checkpoint_hash"] == OTHER.sha256
    info = json.loads(api.txt2img().json()["info"])
    assert (info["sd_model_name"], info["sd_model_hash"]) == (OTHER.name, OTHER.short_hash)


@on_a_pod
def test_a_title_that_gains_its_hash_by_loading_is_told_with_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(OTHER, title="dir/other.safetensors", sha256=None)
    read: list[str] = []

    def load(name: str) -> CheckpointInfo:
        read.append(name)
        return OTHER

    monkeypatch.setattr(api.engine, "checkpoints", lambda: [CHECKPOINT, OTHER if read else plain])
    monkeypatch.setattr(api.engine, "load_checkpoint", load)
    assert api.post(OPTIONS, json={"sd_model_checkpoint": "other"}).status_code == 200
    assert read == [plain.title]
    assert api.get(OPTIONS).json()["sd_model_checkpoint"] == OTHER.title


def test_a_checkpoint_that_is_gone_gives_way_to_the_default(api: Api) -> None:
    api.live.call(lambda: api.live.shared_options.update(sd_model_checkpoint="gone.safetensors"))
    assert api.get(OPTIONS).json()["sd_model_checkpoint"] == CHECKPOINT.title


def test_override_settings_hold_for_one_request_unless_told_otherwise(api: Api) -> None:
    override = {"sd_model_checkpoint": OTHER.name, "CLIP_stop_at_last_layers": 2}
    api.txt2img(override_settings=override)
    api.txt2img()
    assert [(r.checkpoint, r.clip_skip) for r in api.engine.served] == [(OTHER.title, 2), (None, 1)]
    api.txt2img(override_settings=override, override_settings_restore_afterwards=False)
    api.txt2img()
    assert [(r.checkpoint, r.clip_skip) for r in api.engine.served[2:]] == [(OTHER.title, 2)] * 2


def test_a_client_without_cookies_sets_options_for_all_as_in_a1111(api: Api) -> None:
    api.post(OPTIONS, json={"CLIP_stop_at_last_layers": 3})
    with api.live.client() as client:
        client.get(OPTIONS)
        assert client.get(OPTIONS).json()["CLIP_stop_at_last_layers"] == 3


def test_a_session_has_its_own_options(api: Api) -> None:
    with api.live.client() as one, api.live.client() as two:
        for client in (one, two):
            client.get(OPTIONS)  # the first answer brings the cookie
        one.post(OPTIONS, json={"CLIP_stop_at_last_layers": 4, "sd_model_checkpoint": OTHER.title})
        assert two.get(OPTIONS).json()["CLIP_stop_at_last_layers"] == 1
        assert api.get(OPTIONS).json()["sd_model_checkpoint"] == CHECKPOINT.title
        for client in (one, two):
            assert client.post("/sdapi/v1/txt2img", json=SMALL).status_code == 200
        api.txt2img()
        assert [(r.checkpoint, r.clip_skip) for r in api.engine.served] == [
            (OTHER.title, 4),
            (None, 1),
            (None, 1),
        ]
        api.post(OPTIONS, json={"jpeg_quality": 55})
        assert one.get(OPTIONS).json()["jpeg_quality"] == 55, "what it did not set itself is the process' own"
    assert "sd_sessions 1.0" in api.get("/metrics").text


def test_sessions_that_alternate_never_see_each_others_settings(api: Api) -> None:
    clients = [api.live.client() for _ in range(4)]
    for skip, client in enumerate(clients, start=1):
        client.get(OPTIONS)
        client.post(OPTIONS, json={"CLIP_stop_at_last_layers": skip})

    def work(skip: int, client: httpx.Client) -> None:
        for number in range(5):
            client.post("/sdapi/v1/txt2img", json={**SMALL, "prompt": str(skip), "seed": number})

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(clients, start=1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.engine.served) == 20
    assert all(request.prompt == str(request.clip_skip) for request in api.engine.served)
    for client in clients:
        client.close()


def cookie_of(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("set-cookie")


def test_the_cookie(api: Api) -> None:
    cookies = cookie_of(api.get("/sdapi/v1/samplers"))
    assert len(cookies) == 1
    name_and_id, *attributes = cookies[0].split("; ")
    name, _, value = name_and_id.partition("=")
    assert (name, is_id(value)) == ("sd", True)
    assert attributes == ["Path=/", "Max-Age=1800", "HttpOnly", "SameSite=Lax"]
    again = api.get("/sdapi/v1/samplers", headers={"Cookie": name_and_id})
    assert cookie_of(again)[0].startswith(name_and_id + ";"), "its id stays, its lifetime begins anew"
    secure = api.get("/sdapi/v1/samplers", headers={"X-Forwarded-Proto": "https"})
    assert cookie_of(secure)[0].endswith("; Secure")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/internal/ping"]
)
def test_other_routes_set_no_cookie(api: Api, path: str) -> None:
    assert not cookie_of(api.get(path))


@pytest.mark.parametrize(
    "sent", ["sd=short", "sd=", "sd", "=;=", "sd=" + "x" * 500, 'sd="a b"', "\u00e4", "other=1"]
)
def test_a_cookie_that_is_none_counts_as_absent(api: Api, sent: str) -> None:
    answer = api.post(OPTIONS, json={"jpeg_quality": 42}, headers={"Cookie": sent.encode("latin-1")})
    assert answer.status_code == 200
    assert api.get(OPTIONS).json()["jpeg_quality"] == 42
    assert is_id(cookie_of(answer)[0].partition("=")[2].partition(";")[0])


@on_a_pod
def test_a_checkpoint_switch_waits_its_turn_and_other_options_do_not() -> None:
    gate = threading.Semaphore(0)
    engine = FakeEngine(gate=gate)
    with serve(engine) as live, live.client() as client, live.client() as other:
        making = threading.Thread(target=client.post, args=("/sdapi/v1/txt2img",), kwargs={"json": SMALL})
        making.start()
        live.wait_until(lambda: live.context.backend.running)
        assert other.post(OPTIONS, json={"jpeg_quality": 41}).status_code == 200
        whole = other.get(OPTIONS).json()
        assert other.post(OPTIONS, json=whole).status_code == 200, "the same checkpoint needs no device"
        switching = threading.Thread(
            target=other.post, args=(OPTIONS,), kwargs={"json": {"sd_model_checkpoint": OTHER.title}}
        )
        switching.start()
        live.wait_until(lambda: live.context.backend.waiting == 1)
        assert not engine.loaded
        gate.release(2)
        switching.join()
        making.join()
        assert engine.loaded == [OTHER.title]


def test_nothing_is_null_or_hanging_while_the_model_loads() -> None:
    gate = threading.Event()
    with serve(FakeEngine(load_gate=gate), wait_ready=False) as live, live.client() as client:
        for path in (OPTIONS, "/sdapi/v1/sd-models", "/sdapi/v1/memory"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "Retry-After" in answer.headers
        assert client.get("/sdapi/v1/samplers").status_code == 200
        assert client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
        gate.set()
        live.wait_until(lambda: live.context.lifecycle.accepts_work)
        assert client.get(OPTIONS).json()["sd_model_checkpoint"] == CHECKPOINT.title
