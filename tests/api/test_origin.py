"""Pages of other origins: they change nothing, with a browser's stored credentials or without."""

from collections.abc import Iterator

import pytest

from tests.fakes import FakeEngine
from tests.live import LiveServer, serve

OURS = {"Origin": "http://sd.example:7860", "Host": "sd.example:7860"}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, LiveServer]]:
    with (
        serve(FakeEngine()) as closed,
        serve(FakeEngine(), cors_allow_origins="https://ui.example") as named,
        serve(FakeEngine(), cors_allow_origins="*") as any_page,
    ):
        yield {"closed": closed, "named": named, "any": any_page}


@pytest.mark.parametrize(
    ("server", "headers", "passes"),
    [
        ("closed", {}, True),
        ("closed", {"Sec-Fetch-Site": "same-origin", **OURS}, True),
        ("closed", {"Sec-Fetch-Site": "none"}, True),
        ("closed", OURS, True),
        ("closed", {"Origin": "https://sd.example", "X-Forwarded-Host": "sd.example"}, True),
        ("closed", {"Origin": "https://evil.example"}, False),
        ("closed", {"Origin": "null"}, False),
        ("closed", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
        ("closed", {"Sec-Fetch-Site": "same-site", "Origin": "https://other.sd.example"}, False),
        ("closed", {"Sec-Fetch-Site": "cross-site"}, False),
        ("named", {"Sec-Fetch-Site": "cross-site", "Origin": "https://ui.example"}, True),
        ("named", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
        ("any", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, True),
        ("any", {"Origin": "https://evil.example", "Authorization": "Basic eA=="}, False),
    ],
)  # fmt: skip
def test_who_may_change_something(
    servers: dict[str, LiveServer], server: str, headers: dict[str, str], passes: bool
) -> None:
    live = servers[server]
    with live.client() as client:
        # As a form of a page would send it: no preflight.
        told = {"Content-Type": "text/plain", **headers}
        answer = client.post("/sdapi/v1/options", content=b'{"n_rows": 3}', headers=told)
        assert answer.status_code == (200 if passes else 403), answer.text
        if not passes:
            assert "SD_CORS_ALLOW_ORIGINS" in answer.json()["detail"]
            assert answer.headers["X-Error-Code"] == "cross_site"
        assert client.get("/sdapi/v1/samplers", headers=headers).status_code == 200, "reading changes nothing"
        assert ("n_rows" in live.call(lambda: dict(live.shared_options))) is passes
        live.call(live.shared_options.clear)
