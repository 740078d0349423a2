"""What a dialect of the API brings to the application: its routes, and which of them ask for work."""

from dataclasses import dataclass

from fastapi import APIRouter

from service.api.admission import Work


@dataclass(frozen=True, slots=True)
class Dialect:
    """One folder of ``service/api``, as ``service/app.py`` lists it."""

    routers: tuple[APIRouter, ...]
    work: Work
