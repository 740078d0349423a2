"""``serve run service.ray:app`` on a real local Ray: the shipped model on two CPU replicas."""

import base64
import io
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from tests.live import post_raw
from tests.ray.cluster import Cluster, wait_for
from tests.ui.conftest import Visit, browse, browser, serve_page, visit  # noqa: F401  # fixtures

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"prompt": "a red apple", "width": 128, "height": 128, "steps": 6, "seed": 7}
LONG: dict[str, Any] = {"prompt": "a red apple", "width": 256, "height": 256, "steps": 150, "seed": 7}


@pytest.fixture(scope="module")
def served(ray_cluster: Cluster) -> Iterator[Cluster]:
    application = {
        "import_path": "service.ray:app",
        "runtime_env": {"env_vars": {"SD_DEVICE": "cpu", "SD_CPU_THREADS": "1"}},
        "deployments": [
            {
                "name": "Gpu",
                "autoscaling_config": {"min_replicas": 2, "max_replicas": 2},
                "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 0},
            },
            {"name": "Ingress", "ray_actor_options": {"num_cpus": 0.1}},
        ],
    }
    with ray_cluster.run(application, replicas=2) as running:
        with httpx.Client(base_url=running.url, timeout=120) as http, ThreadPoolExecutor(4) as pool:

            def at_work() -> int:
                answers = pool.map(lambda _: http.post("/sdapi/v1/txt2img", json=SMALL), range(4))
                return len({answer.headers.get("x-served-by") for answer in answers})

            first = http.get("/sdapi/v1/sd-models").json()
            assert first, "answered before anybody has told what there is"
            wait_for(lambda: at_work() == 2, 60, "both replicas")
        yield running


@pytest.fixture
def http(served: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as client:
        yield client


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def picture(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text[:500]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))))


def progress(http: httpx.Client) -> dict[str, Any]:
    told: dict[str, Any] = http.get("/sdapi/v1/progress").json()
    return told


def under_way(http: httpx.Client, step: int = 3) -> dict[str, Any]:
    """The progress of a job that has made some steps."""
    told: dict[str, Any] = wait_for(
        lambda: (now := progress(http)) and now["state"]["sampling_step"] >= step and now,
        60,
        "a job under way",
    )
    return told


def idle(http: httpx.Client, cluster: Cluster) -> None:
    """No replica computes any more: what ran there was stopped, not only forgotten here."""

    def quiet() -> bool:
        before = [process.cpu_times().user for process in cluster.replicas("Gpu")]
        time.sleep(0.3)
        after = [process.cpu_times().user for process in cluster.replicas("Gpu")]
        return len(before) == len(after) and sum(after) - sum(before) < 0.15

    wait_for(quiet, 20, "the devices to be idle")
    assert progress(http)["state"]["job_count"] == 0


def test_a1111s_client_draws(served: Cluster) -> None:
    client = webuiapi.WebUIApi(port=served.http_port)
    made = client.txt2img(**SMALL)
    assert made.image.size == (128, 128)
    assert made.info["seed"] == 7
    models = client.get_sd_models()
    assert models[0]["title"].startswith("demo_model ["), "told by a replica, though none was asked for"
    changed = client.img2img(images=[made.image], denoising_strength=0.5, **SMALL)
    assert changed.image.size == (128, 128)
    client.session.close()


def test_equal_seeds_draw_equal_pictures_on_both_replicas(
    http: httpx.Client, background: ThreadPoolExecutor
) -> None:
    answers = list(background.map(lambda _: http.post("/sdapi/v1/txt2img", json=SMALL), range(6)))
    assert len({answer.headers["x-served-by"] for answer in answers}) == 2
    first = picture(answers[0])
    assert all(np.array_equal(first, picture(answer)) for answer in answers)
    assert first.std() > 20, "a picture of something"


def test_progress_shows_steps_and_a_preview(http: httpx.Client, background: ThreadPoolExecutor) -> None:
    drawing = background.submit(http.post, "/sdapi/v1/txt2img", json=LONG)
    told = wait_for(lambda: (now := progress(http)) and now["current_image"] and now, 60, "a preview")
    assert 0 < told["progress"] < 1
    assert told["state"]["sampling_steps"] == LONG["steps"]
    preview = Image.open(io.BytesIO(base64.b64decode(told["current_image"])))
    assert min(preview.size) >= 16
    http.post("/sdapi/v1/interrupt")
    assert drawing.result().status_code == 200


def test_an_interrupt_keeps_the_half_done_picture(
    http: httpx.Client, served: Cluster, background: ThreadPoolExecutor
) -> None:
    drawing = background.submit(http.post, "/sdapi/v1/txt2img", json=LONG)
    under_way(http, 20)
    http.post("/sdapi/v1/interrupt")
    shown = picture(drawing.result())
    assert shown.shape == (256, 256, 3)
    assert shown.std() > 5
    idle(http, served)


def test_a_disconnect_stops_the_sampler(http: httpx.Client, served: Cluster) -> None:
    connection = post_raw(served.http_port, LONG)
    under_way(http)
    connection.close()
    idle(http, served)
    assert picture(http.post("/sdapi/v1/txt2img", json=SMALL)).shape == (128, 128, 3)


def test_a_replica_that_dies_costs_time_and_no_picture(
    http: httpx.Client, served: Cluster, background: ThreadPoolExecutor
) -> None:
    longer = {**LONG, "width": 384, "height": 384}
    expected = picture(http.post("/sdapi/v1/txt2img", json=longer))
    drawing: Future[httpx.Response] = background.submit(http.post, "/sdapi/v1/txt2img", json=longer)
    under_way(http, 10)
    victim = served.busiest()
    assert not drawing.done()
    victim.kill()
    answer = drawing.result()
    assert np.array_equal(picture(answer), expected), "the same seed, elsewhere"
    assert victim.pid not in {process.pid for process in served.replicas("Gpu")}
    again = re.search(
        r'sd_upstream_retries_total\{cause="broken",upstream="ray"\} (\S+)', http.get("/metrics").text
    )
    assert again is not None
    assert float(again[1]) >= 1
    wait_for(lambda: len(served.replicas("Gpu")) == 2, 60, "a new replica")


def test_every_replica_is_in_what_prometheus_reads(http: httpx.Client, served: Cluster) -> None:
    def all_there() -> bool:
        text = served.metrics()
        lines = [line for line in text.splitlines() if line.startswith("ray_sd_lifecycle_state{")]
        names = {line.split('replica="')[1].split('"')[0] for line in lines if line.endswith(" 1.0")}
        return len(names) >= 3 and "ray_serve_deployment_queued_queries" in text

    wait_for(all_there, 60, "the series of three replicas")
    text = served.metrics()
    assert "ray_sd_request_duration_seconds_bucket{" in text
    ours = [line for line in text.splitlines() if line.startswith("ray_sd_requests_total{")]
    assert any('endpoint="txt2img"' in line and 'deployment="Ingress"' in line for line in ours)
    assert any('endpoint="job"' in line and 'deployment="Gpu"' in line for line in ours)


def test_what_waits_is_told_its_place(http: httpx.Client, background: ThreadPoolExecutor) -> None:
    stop = threading.Event()
    drawings = [background.submit(http.post, "/sdapi/v1/txt2img", json={**LONG, "seed": n}) for n in range(3)]
    under_way(http)
    while not all(drawing.done() for drawing in drawings):
        http.post("/sdapi/v1/interrupt")
        stop.wait(0.3)
    assert [drawing.result().status_code for drawing in drawings] == [200, 200, 200]


def test_the_blueprint_s_client_gets_its_picture(http: httpx.Client) -> None:
    answer = http.get("/imagine", params={"prompt": "a red apple", "img_size": 512})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (512, 512)


def test_a_person_draws_on_the_page(served: Cluster, visit: Visit) -> None:  # noqa: F811
    with serve_page(served.url) as page:
        seen = visit(page)
        seen.find("#txt2img-prompt textarea").fill("a red apple")
        seen.draw(seed=7, steps=6, width=128, height=128)
        seen.done()
        assert seen.pictures().evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 128]


def test_bad_requests_are_refused_by_the_ingress(http: httpx.Client) -> None:
    assert http.post("/sdapi/v1/txt2img", json={**SMALL, "sampler_name": "nonsense"}).status_code in (
        400,
        404,
        422,
    )
    assert http.post("/sdapi/v1/txt2img", json={**SMALL, "width": 100_000}).status_code == 422
