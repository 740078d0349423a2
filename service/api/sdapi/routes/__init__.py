"""A1111's routes, one module a group."""

from service.api.dialect import Dialect
from service.api.sdapi.routes import (
    admin,
    extras,
    generation,
    internal,
    lists,
    memory,
    options,
    pnginfo,
    progress,
)

DIALECT = Dialect(
    tuple(
        module.router
        for module in (generation, extras, pnginfo, progress, options, lists, memory, admin, internal)
    ),
    {**generation.WORK, **extras.WORK, **pnginfo.WORK, **options.WORK, **admin.WORK},
)
