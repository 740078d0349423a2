"""Who may call, from where, and in which form: auth, CORS, compression, slashes, stopping."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import SMALL, Api
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve


@pytest.fixture(scope="module")
def guarded() -> Iterator[LiveServer]:
    with serve(
        FakeEngine(), api_auth="anna:se:cret,bob:hunter2", cors_allow_origins="https://ui.example"
    ) as live:
        yield live


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


ROUTES = [
    ("GET", "/sdapi/v1/options"), ("POST", "/sdapi/v1/txt2img"), ("GET", "/sdapi/v1/loras"), ("POST", "/v1/generate"),
    ("POST", "/sdapi/v1/refresh-loras"), ("GET", "/internal/ping"), ("POST", "/internal/progress"),
    ("GET", "/internal/pending-tasks"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere"),
    ("PUT", "/sdapi/v1/options"), ("GET", "/sdapi/v1/cmd-flags"), ("GET", "/"), ("GET", "//livez/x"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_the_probes_wants_credentials(guarded: LiveServer, method: str, path: str) -> None:
    answer = httpx.request(method, guarded.url + path, json={}, trust_env=False)
    assert answer.status_code == 401
    assert answer.json() == {
        "error": "NotAuthenticated", "detail": "Not authenticated", "body": "", "errors": "",
    }  # fmt: skip
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/livez/", "/readyz/"])
def test_probes_and_metrics_are_open(guarded: LiveServer, path: str) -> None:
    with guarded.client() as client:
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"Authorization": "nonsense"}).status_code == 200


@pytest.mark.parametrize("pair", ["anna:se:cret", "bob:hunter2"])
def test_the_right_credentials_pass(guarded: LiveServer, pair: str) -> None:
    user, _, password = pair.partition(":")
    with guarded.client(auth=(user, password)) as client:
        assert client.get("/sdapi/v1/options").status_code == 200
        assert client.post("/sdapi/v1/txt2img", json=SMALL).status_code == 200
        assert client.get("/sdapi/v1/cmd-flags").text.count("hunter2") == 0


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ("", "Not authenticated"),
        ("Bearer abc", "Not authenticated"),
        ("Basic", "Invalid authentication credentials"),
        ("Basic ***", "Invalid authentication credentials"),
        ("Basic " + base64.b64encode(b"nocolon").decode(), "Invalid authentication credentials"),
        (basic(":"), "Incorrect username or password"),
        (basic("anna:wrong"), "Incorrect username or password"),
        (basic("anna:se"), "Incorrect username or password"),
        (basic("bob:se:cret"), "Incorrect username or password"),
        (basic("anna:se:cret,bob:hunter2"), "Incorrect username or password"),
        (basic("\u00fc:\u00fc"), "Incorrect username or password"),
    ],
)
def test_the_wrong_ones_do_not(guarded: LiveServer, header: str, detail: str) -> None:
    with guarded.client() as client:
        answer = client.get("/sdapi/v1/options", headers={"Authorization": header})
        assert (answer.status_code, answer.json()["detail"]) == (401, detail)


@pytest.mark.parametrize("header", ["", "Basic", basic("somebody:x"), "Bearer x", "\xff"])
def test_without_auth_any_authorization_header_is_ignored(api: Api, header: str) -> None:
    answer = api.get("/sdapi/v1/options", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 200


def test_a_401_comes_before_the_body_is_read(guarded: LiveServer) -> None:
    with guarded.client() as client:
        assert client.post("/sdapi/v1/png-info", content=b"x" * 3_000_000).status_code == 401


# --- CORS ---------------------------------------------------------------------------------------------


def test_a_preflight_needs_no_credentials(guarded: LiveServer) -> None:
    asked = {
        "Origin": "https://ui.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,authorization",
    }
    with guarded.client() as client:
        answer = client.options("/sdapi/v1/txt2img", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://ui.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert (
            client.options(
                "/sdapi/v1/txt2img", headers={**asked, "Origin": "https://evil.example"}
            ).status_code
            == 400
        )
        refused = client.get("/sdapi/v1/options", headers={"Origin": "https://ui.example"})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://ui.example", (
            "or the page sees no reason"
        )


def test_any_origin_goes_without_credentials() -> None:
    with serve(FakeEngine(), cors_allow_origins="*") as live, live.client() as client:
        answer = client.get("/sdapi/v1/samplers", headers={"Origin": "https://any.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_without_origins_there_is_no_cors(api: Api) -> None:
    answer = api.get("/sdapi/v1/samplers", headers={"Origin": "https://ui.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


# --- compression and slashes ------------------------------------------------------------------------------


def test_lists_are_compressed_and_pictures_are_not(api: Api) -> None:
    assert api.get("/sdapi/v1/options").headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in api.get("/sdapi/v1/hypernetworks").headers, "too short to be worth it"
    made = api.txt2img(width=256, height=256)
    assert made.headers["Content-Encoding"] == "identity"
    image = made.json()["images"][0]
    extra = api.post("/sdapi/v1/extra-single-image", json={"image": image, "upscaler_1": "Nearest"})
    assert extra.headers["Content-Encoding"] == "identity"
    plain = api.get("/sdapi/v1/options", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/sdapi/v1/options/", None),
        ("POST", "/sdapi/v1/options/", {}),
        ("GET", "/sdapi/v1/samplers/", None),
        ("POST", "/sdapi/v1/txt2img/", SMALL),
        ("POST", "/sdapi/v1/interrupt/", None),
        ("GET", "/sdapi/v1/progress/?skip_current_image=true", None),
        ("GET", "/internal/ping/", None),
        ("GET", "/docs/", None),
    ],
)
def test_both_forms_of_a_path_are_served_without_a_redirect(
    api: Api, method: str, path: str, body: Any
) -> None:
    answer = api.request(method, path, json=body, headers={"X-Forwarded-Proto": "https"})
    assert answer.status_code == 200, answer.text


def test_a_prefix_that_the_proxy_left_in_place_is_understood() -> None:
    with serve(FakeEngine(), root_path="/studio") as live, live.client() as client:
        for path in ("/sdapi/v1/samplers", "/studio/sdapi/v1/samplers", "/studio/sdapi/v1/samplers/"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "set-cookie" in answer.headers
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/studio"}]


# --- stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["server-kill", "server-stop"])
def test_a_client_may_stop_the_server_where_the_operator_allows_it(route: str) -> None:
    with serve(FakeEngine(), enable_server_stop=True) as live, live.client() as client:
        stopped: list[bool] = []
        live.context.stop_server = lambda: stopped.append(True)
        answer = client.post(f"/sdapi/v1/{route}")
        assert (answer.status_code, answer.text) == (200, "Stopping.")
        live.wait_until(lambda: bool(stopped))
        assert client.post("/sdapi/v1/server-restart").status_code == 501
        assert client.get("/sdapi/v1/cmd-flags").json()["api_server_stop"] is True


def test_and_not_otherwise(api: Api) -> None:
    for route in ("server-kill", "server-stop", "server-restart"):
        assert api.post(f"/sdapi/v1/{route}").status_code == 404


def test_cmd_flags_tell_no_secrets() -> None:
    with serve(FakeEngine(), api_auth="user:topsecret", output_dir="/private/out") as live:
        with live.client(auth=("user", "topsecret")) as client:
            flags = client.get("/sdapi/v1/cmd-flags")
        assert flags.json()["api"] is True
        assert flags.json()["port"] == str(live.context.settings.port)
        assert flags.json()["lora_dir"] is None
        assert flags.json()["api_auth"] is None
        assert "topsecret" not in flags.text
        assert "/private" not in flags.text
