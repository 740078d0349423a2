"""What a dialect of the API brings to the application: its routes, which of them ask for work, how it tells errors."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response

from service.api.admission import Work
from service.core.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Dialect:
    """One folder of ``service/api``, as ``service/app.py`` lists it."""

    routers: tuple[APIRouter, ...]
    work: Work
    paths: tuple[str, ...] = ()
    """How paths begin whose errors have a shape of their own …"""
    problem: Callable[[ServiceError], Response] | None = None
    """… and that shape. Elsewhere errors are shaped as A1111's."""
