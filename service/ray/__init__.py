"""On Ray Serve: ``serve run service.ray:app`` (extra ``ray``). See ``docs/ray.md``.

An ingress deployment serves the HTTP API on CPUs; a GPU deployment makes the images, one at a time in each replica.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "app":  # made when Serve asks for it, from the SD_* variables
        from service.ray.deployments import build
        from service.settings import Settings

        return build(Settings.read())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
