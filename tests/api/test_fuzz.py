"""Every route with everything that its schema allows, and with much that it does not: never a 500."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from schemathesis import GenerationMode

from service.api.sdapi.schemas import Img2ImgBody, Txt2ImgBody
from service.app import create_app
from service.catalogue.samplers import SAMPLERS, SCHEDULERS
from service.settings import Settings
from tests.api.conftest import picture
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve

schema = schemathesis.openapi.from_dict(create_app(Settings.read()).openapi())
schema.config.generation.update(modes=list(GenerationMode), allow_x00=True)

EXPECTED = {501}
"""Server errors that are the right answer: training and restarting are not offered."""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[LiveServer, requests.Session]]:
    # Small enough that a valid request costs next to nothing.
    limits: dict[str, Any] = {"max_side": 128, "max_steps": 3, "max_images": 4, "max_image_pixels": 100_000}
    with serve(FakeEngine(), enable_server_stop=True, **limits) as live, requests.Session() as session:
        live.context.stop_server = lambda: None
        yield live, session


@schema.parametrize()
@settings(max_examples=7, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_nothing_that_a_client_sends_is_a_server_error(
    case: Any, served: tuple[LiveServer, requests.Session]
) -> None:
    live, session = served
    response = case.call(base_url=live.url, session=session)
    assert response.status_code < 500 or response.status_code in EXPECTED, response.text
    if response.status_code >= 400:
        told = response.json()
        assert told.get("detail") or told["error"]["message"]
    session.cookies.clear()


# --- nearly right ---------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    ["", "None", "Latent", "Lanczos", "Euler a", "Karras", "ddim", "other", "a (b:1.2) [c:d:0.5] AND e", "<lora:x:1>",
     "Use same sampler", "a\nSteps: 3, Sampler: Euler, Seed: 5, Size: 64x128", "#", "{prompt}", "\0", "\U0001f600"]
)  # fmt: skip
WHOLE = st.sampled_from([-1, 0, 1, 2, 3, 4, 64, 100, 128])
REAL = st.sampled_from([0, 1e-9, 0.3, 0.5, 1, 1.5, 2, 7.5])
OPTION_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "CLIP_stop_at_last_layers": st.sampled_from([1, 2.0, "3"]),
    "samples_format": st.sampled_from(["png", "jpg", "WEBP"]),
    "grid_format": st.sampled_from(["png", "jpg", "WEBP"]),
    "n_rows": WHOLE,
    "emphasis": st.sampled_from(["Original", "No norm", "ignore"]),
    "sd_model_checkpoint": st.sampled_from(["fake", "other", None, ""]),
    "eta_ddim": REAL,
    "s_tmax": REAL,
    "show_progress_every_n_steps": WHOLE,
    "upscaler_for_img2img": st.sampled_from([None, "None", "Lanczos", "Nearest", "Fake 4x"]),
    "initial_noise_multiplier": st.sampled_from([0, 0.5, 1.5]),
    "grid_background_color": st.sampled_from(["#000", "red", "nonsense", ""]),
    "img2img_background_color": st.sampled_from(["#000", "red", "nonsense", ""]),
    "nothing_that_exists": TEXTS,
}
GIVEN: dict[str, st.SearchStrategy[Any]] = {
    "width": st.sampled_from([64, 72, 128]),
    "height": st.sampled_from([64, 72, 128]),
    "steps": st.sampled_from([1, 2, 3]),
    "batch_size": st.sampled_from([1, 2]),
    "n_iter": st.sampled_from([1, 2]),
    "seed": st.sampled_from([-1, 0, 2**32]),
    "sampler_name": st.sampled_from([None, "", *(sampler.name for sampler in SAMPLERS)]),
    "scheduler": st.sampled_from([None, "", *(scheduler.label for scheduler in SCHEDULERS)]),
    "override_settings": st.fixed_dictionaries({}, optional=OPTION_VALUES),
    "alwayson_scripts": st.just({}),
    "script_name": st.sampled_from([None, "None", "Prompt matrix", "X/Y/Z plot", "SD upscale"]),
    "script_args": st.lists(TEXTS | WHOLE | st.booleans() | st.none(), max_size=20),
    "styles": st.none() | st.lists(TEXTS, max_size=3),
    "init_images": st.lists(st.sampled_from([picture(), picture(9, 200, "RGBA")]), min_size=1, max_size=2),
    "mask": st.sampled_from([None, "", picture(64, 64, "L"), picture(5, 5, "RGBA")]),
    "latent_mask": st.sampled_from([None, picture(64, 64, "L")]),
    "resize_mode": st.sampled_from([0, 1, 2, 3]),
    "inpainting_fill": st.sampled_from([0, 1, 2, 3]),
    "denoising_strength": st.sampled_from([None, 0, 0.5, 1]),
    "hr_scale": st.sampled_from([1, "1.0", 1.3]),
    "hr_resize_x": st.sampled_from([0, 64, 100, 128]),
    "hr_resize_y": st.sampled_from([0, 64, 100, 128]),
    "force_task_id": st.none(),
    "firstpass_image": st.none(),
    "comments": st.just({}),
    "eta": REAL,
    "cfg_scale": REAL,
    "subseed_strength": st.sampled_from([0, 0.5, 1]),
    "seed_resize_from_w": WHOLE,
    "seed_resize_from_h": WHOLE,
}  # fmt: skip


def fields_of(model: type[BaseModel]) -> dict[str, st.SearchStrategy[Any]]:
    """A strategy for each field of ``model``: mostly values that could be meant."""
    found: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        kind = str(field.annotation)
        guess = (
            st.booleans()
            if "bool" in kind
            else WHOLE
            if "int" in kind
            else REAL
            if "float" in kind
            else TEXTS
        )
        found[name] = GIVEN.get(name, guess)
    return found


@pytest.mark.parametrize(("path", "model"), [("txt2img", Txt2ImgBody), ("img2img", Img2ImgBody)])
def test_nearly_right_requests_are_answered(
    path: str, model: type[BaseModel], served: tuple[LiveServer, requests.Session]
) -> None:
    live, session = served
    fields = fields_of(model)
    always = {
        name: fields.pop(name) for name in ("width", "height", "steps", "init_images") if name in fields
    }
    statuses: Counter[int] = Counter()

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries(always, optional=fields))
    def send(body: dict[str, Any]) -> None:
        response = session.post(f"{live.url}/sdapi/v1/{path}", json=body)
        session.cookies.clear()
        live.shared_options.clear()
        statuses[response.status_code] += 1
        assert response.status_code in (200, 400, 422), response.text
        if response.status_code == 200:
            assert set(response.json()) == {"images", "parameters", "info"}

    send()
    assert statuses[200] >= 10, statuses
