"""A live server with the fake engine, for tests of what goes over the wire."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.fakes import FakeEngine
from tests.live import LiveServer, serve

SMALL: dict[str, Any] = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 1}
"""The quickest request for an image."""


class Api:
    """A client of a server whose engine can be asked what it was told."""

    def __init__(self, live: LiveServer, engine: FakeEngine) -> None:
        self.live = live
        self.engine = engine
        self._client = live.client()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request without cookies."""
        self._client.cookies.clear()
        return self._client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET without cookies."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """POST without cookies."""
        return self.request("POST", path, **options)

    def txt2img(self, **fields: Any) -> httpx.Response:
        """POST the small request with ``fields``."""
        return self.post("/sdapi/v1/txt2img", json={**SMALL, **fields})


@pytest.fixture(scope="module")
def module_api() -> Iterator[Api]:
    """One server for a module."""
    engine = FakeEngine()
    with serve(engine) as live:
        api = Api(live, engine)
        yield api
        api.close()


@pytest.fixture
def api(module_api: Api) -> Api:
    """The module's server, as if fresh: nothing set, nothing served."""

    def clear() -> None:
        module_api.live.shared_options.clear()

    module_api.live.call(clear)
    module_api.engine.served.clear()
    module_api.engine.loaded.clear()
    return module_api


def picture(width: int = 64, height: int = 48, mode: str = "RGB", **save: Any) -> str:
    """A gradient as base64; PNG unless ``format`` says otherwise."""
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **save})
    return base64.b64encode(buffer.getvalue()).decode()


def opened(text: str) -> Image.Image:
    """The image behind base64."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image
