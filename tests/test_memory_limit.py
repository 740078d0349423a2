"""The service in a real memory control group: what cannot fit is 507, and the kernel kills nobody."""

import pytest

from bench.memory_limit import MIB, control_group, entering, kills
from bench.process import running

BODY = {"prompt": "a red boat", "steps": 1, "sampler_name": "Euler", "seed": 1, "width": 256, "height": 256}


def test_requests_beyond_the_limit_are_507_and_the_next_is_right() -> None:
    import httpx

    try:
        group = control_group(900 * MIB)
        folder = group.__enter__()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        with (
            running(prefix=entering(folder), measures="none", cpu_threads=1) as service,
            httpx.Client(base_url=service.url, timeout=120, trust_env=False) as client,
        ):
            first = client.post("/sdapi/v1/txt2img", json=BODY)
            assert first.status_code == 200
            refused = client.post("/sdapi/v1/txt2img", json=BODY | {"width": 2048, "height": 2048})
            assert refused.status_code == 507, refused.text[:300]
            assert "lower the size" in refused.text
            told = client.get("/sdapi/v1/memory").json()["plan"]
            assert told["limit"] <= 900 * MIB
            again = client.post("/sdapi/v1/txt2img", json=BODY)
            assert again.json()["images"] == first.json()["images"]
        assert kills(folder) == 0
    finally:
        group.__exit__(None, None, None)
