"""The exception tree. Every error carries its HTTP status, a stable code, and who is to blame.

ServiceError                      500  internal           server
├── BadRequest                    422  bad_request        client
│   ├── UnknownName               400  unknown_name       client   (sampler, scheduler, checkpoint, upscaler …)
│   ├── BadImage                  400  bad_image          client   (an image that cannot be decoded)
│   ├── NotFound                  404  not_found          client
│   ├── BodyTooLarge              413  body_too_large     client
│   ├── TooMuchMemory             413  too_much_memory    client   (more than there is for requests at all)
│   └── BodyTooSlow               408  body_too_slow      client
├── CrossSite                     403  cross_site         client
├── NotAuthenticated              401  not_authenticated  client
├── Refused                       503  refused            server   (try again later; carries Retry-After)
│   ├── NotReady                  503  not_ready          server   (still loading)
│   ├── Draining                  503  draining           server   (shutting down)
│   ├── QueueFull                 503  queue_full         server
│   ├── MemoryFull                503  memory_full        server   (the memory for requests is in use)
│   └── StateUnavailable          503  state_unavailable  server   (the store of sessions and tasks cannot be reached)
├── Cancelled                     499  cancelled          client
├── DeadlineExceeded              504  deadline           server
├── OutOfMemory                   507  out_of_memory      model
├── NotImplementedHere            501  not_implemented    server
├── ModelError                    500  model              model    (the pipeline raised)
│   ├── ModelLoadError            503  model_load         model    (the checkpoint cannot be served)
│   └── DeviceLost                503  device_lost        server   (the CUDA context is poisoned)
└── UpstreamError                 502  upstream           server   (the service behind this one failed)
"""

from typing import ClassVar


class ServiceError(Exception):
    """The base of every error that this service raises on purpose.

    ``str(error)`` is one sentence for the person who sent the request; it names the cause and the cure.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    blame: ClassVar[str] = "server"

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        """Seconds after which the same request may succeed; sent as ``Retry-After`` where it is known."""


class BadRequest(ServiceError):
    """The request cannot be served as it stands, whatever the state of the server."""

    status = 422
    code = "bad_request"
    blame = "client"


class UnknownName(BadRequest):
    """A name in the request (sampler, scheduler, checkpoint, upscaler …) is not one that exists here."""

    status = 400
    code = "unknown_name"


class BadImage(BadRequest):
    """An image in the request cannot be decoded, or is larger than the limits allow."""

    status = 400
    code = "bad_image"


class NotFound(BadRequest):
    """What the request names is not here."""

    status = 404
    code = "not_found"


class BodyTooLarge(BadRequest):
    """The body exceeds ``SD_MAX_BODY_MB``."""

    status = 413
    code = "body_too_large"


class TooMuchMemory(BadRequest):
    """The request alone would need more memory than there is for requests."""

    status = 413
    code = "too_much_memory"


class BodyTooSlow(BadRequest):
    """The body did not arrive within ``SD_BODY_TIMEOUT``."""

    status = 408
    code = "body_too_slow"


class NotAuthenticated(ServiceError):
    """Credentials are missing or wrong."""

    status = 401
    code = "not_authenticated"
    blame = "client"


class CrossSite(ServiceError):
    """A page of another origin asked for a change."""

    status = 403
    code = "cross_site"
    blame = "client"


class Refused(ServiceError):
    """The server does not take the request now; another attempt later may succeed."""

    status = 503
    code = "refused"

    def __init__(self, detail: str, *, retry_after: int | None = 5) -> None:
        super().__init__(detail, retry_after=retry_after)


class NotReady(Refused):
    """The model is still loading, or failed to load."""

    code = "not_ready"


class Draining(Refused):
    """SIGTERM was received: running and queued work finishes, new work is refused."""

    code = "draining"


class QueueFull(Refused):
    """The bounded queue behind the slot is full."""

    code = "queue_full"


class MemoryFull(Refused):
    """Bodies, pixels and answers in flight use all memory that there is for them."""

    code = "memory_full"


class StateUnavailable(Refused):
    """What was asked for is kept in a store (``SD_STATE_URL``) that cannot be reached now."""

    code = "state_unavailable"


class Cancelled(ServiceError):
    """The request was cancelled: by an interrupt, by its client going away, or by a second SIGTERM.

    ``cause`` is one of :data:`service.core.cancel.CANCEL_CAUSES`.
    """

    status = 499
    code = "cancelled"
    blame = "client"

    def __init__(self, detail: str, *, cause: str = "client") -> None:
        super().__init__(detail)
        self.cause = cause


class DeadlineExceeded(ServiceError):
    """``SD_REQUEST_TIMEOUT`` passed, counted from the arrival of the request."""

    status = 504
    code = "deadline"


class OutOfMemory(ServiceError):
    """The device has too little memory for this request; smaller ones still work."""

    status = 507
    code = "out_of_memory"
    blame = "model"


class NotImplementedHere(ServiceError):
    """A route of A1111 that this service leaves out on purpose."""

    status = 501
    code = "not_implemented"


class ModelError(ServiceError):
    """The model raised while it made the image."""

    status = 500
    code = "model"
    blame = "model"


class ModelLoadError(ModelError):
    """The checkpoint cannot be loaded; the sentence says what is wrong with it and what to do."""

    status = 503
    code = "model_load"


class DeviceLost(ModelError):
    """The CUDA context is poisoned: nothing more can be made by this process, liveness fails."""

    status = 503
    code = "device_lost"
    blame = "server"


class UpstreamError(ServiceError):
    """The service behind this one could not be reached, broke off, or answered what is not understood."""

    status = 502
    code = "upstream"
