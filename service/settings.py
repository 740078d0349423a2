"""Every knob, read once from ``SD_*`` variables (or the command line), frozen, and documented.

The configuration table in the README is generated from this class (``python -m service settings``) and a test
keeps the two in step.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.plan.measures import parse
from service.plan.size import sides

DEMO_MODEL = Path(__file__).parent / "demo_model"
"""The folder of the checkpoint that ships with the project."""

PREFIX = "SD_"


class SettingsError(ValueError):
    """The environment names a knob that does not exist or a value that cannot be; the message says which."""


class Settings(BaseSettings):
    """All settings of the service; see each field's description. Durations are seconds, sizes pixels."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True)

    # --- what serves -----------------------------------------------------------------------------
    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` in a container.")
    port: int = Field(7860, ge=1, le=65535, description="Port to listen on.")
    root_path: str = Field("", description="Path prefix that a proxy strips, as A1111's `--subpath`.")

    # --- model -----------------------------------------------------------------------------------
    model: str = Field(
        str(DEMO_MODEL),
        description="Checkpoint: a diffusers folder, a Hugging Face id, or one `.safetensors` file. "
        "Default: the small model that ships with the project.",
    )
    model_revision: str | None = Field(
        None, description="Revision (branch, tag or commit) of a Hugging Face id."
    )
    models_dir: Path | None = Field(
        None,
        description="Folder with `checkpoints/`, `vae/`, `loras/`, `embeddings/`, `upscalers/` to choose from.",
    )
    captioner: Path | None = Field(
        None,
        description="Folder of a BLIP captioning model (transformers' layout) for `/sdapi/v1/interrogate`.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="`auto`: CUDA where there is one, else CPU."
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="`auto`: float16 on CUDA, float32 on CPU."
    )
    attention: Literal["auto", "xformers", "sdpa"] = Field(
        "auto",
        description="`auto`: xformers where it is installed and the device is CUDA, else PyTorch's SDPA.",
    )
    channels_last: bool = Field(True, description="Keep UNet and VAE in channels-last memory format.")
    compile: bool = Field(
        False, description="torch.compile the UNet: faster steps, a much slower cold start."
    )
    cpu_threads: int = Field(
        0,
        ge=0,
        description="Threads that PyTorch uses on CPU; 0: as many as the container's CPU quota, or the cores.",
    )
    gpu_memory_gib: float | None = Field(
        None,
        gt=0,
        description="GPU memory this process may use (GiB). Default: what the cGPU or MIG slice or the card offers.",
    )
    model_memory_gib: float | None = Field(
        None,
        gt=0,
        description="Checkpoints kept loaded at once, in GiB; the least recently used leaves first. Default: as many "
        "as the memory plan leaves room for.",
    )
    measures: str = Field(
        "auto",
        description="Measures against too little memory: `auto` (the cheapest that make an image fit, chosen at load "
        "and for each request), `none` (what does not fit is 507), or names that are always on, separated by commas; "
        "see docs/memory.md.",
    )
    plan_size: str = Field(
        "",
        description="Size (`512x768`) that the memory plan at load makes room for; default: the checkpoint's own.",
    )
    idle_sleep: float = Field(
        0.0,
        ge=0,
        description="Seconds after the last image at which the weights leave the GPU for main memory; 0: never. The "
        "next request brings them back.",
    )
    idle_unload: float = Field(
        0.0,
        ge=0,
        description="Seconds after the last image at which the weights leave memory altogether; 0: never.",
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        le=150,
        description="Sampler steps of the warm-up image that precedes readiness; 0: only the text encoder and the VAE "
        "are run. Default: 2 on a GPU, 0 on a CPU, which has no kernels to choose.",
    )
    warmup_size: int = Field(
        0,
        ge=0,
        le=2048,
        description="Side of the warm-up image; 0: the checkpoint's own size, or with 0 steps the smallest.",
    )

    # --- limits ----------------------------------------------------------------------------------
    queue_size: int = Field(
        10, ge=0, description="Requests that may wait behind the running one; beyond it 503."
    )
    request_timeout: float = Field(
        600.0,
        gt=0,
        description="Deadline of a request in seconds from its arrival; past it 504 and the device is free.",
    )
    drain_timeout: float = Field(
        540.0, ge=0, description="Seconds after SIGTERM within which running and queued work may finish."
    )
    max_side: int = Field(2048, ge=64, le=8192, description="Largest width or height.")
    max_pixels: int = Field(
        2048 * 2048,
        ge=64 * 64,
        description="Largest width × height × batch_size that goes to the device at once.",
    )
    max_steps: int = Field(150, ge=1, le=1000, description="Most sampler steps.")
    max_images: int = Field(32, ge=1, description="Most images of one request (batch_size × n_iter).")
    max_prompt_chars: int = Field(20_000, ge=1, le=100_000, description="Longest prompt, in characters.")
    max_body_mb: float = Field(64.0, gt=0, description="Largest request body in MB.")
    max_json_kb: float = Field(
        512.0,
        gt=0,
        description="Largest JSON of a request in KB, apart from its pictures (texts of 4 KB and more).",
    )
    memory_budget_mb: float | None = Field(
        None,
        gt=0,
        description="Main memory in MB for what clients send and get: bodies, decoded pixels, answers on their way; "
        "beyond it 503. Default: half of what the container's limit leaves beside the model, from 128 to 2048 MiB.",
    )
    max_request_pixels: int = Field(
        64_000_000,
        ge=1,
        description="Most pixels of all pictures of one request together, counted before any is decoded.",
    )
    max_image_pixels: int = Field(
        32_000_000,
        ge=1,
        description="Largest image that a client may send, in pixels, checked before it is decoded.",
    )
    body_timeout: float = Field(
        60.0, gt=0, description="Seconds within which a request's body must have arrived."
    )
    header_timeout: float = Field(
        20.0,
        gt=0,
        description="Seconds within which the head of a request must have arrived, the first of a connection "
        "counted from its opening.",
    )
    write_timeout: float = Field(
        60.0,
        gt=0,
        description="Seconds within which a client must have taken a part of its answer (32 KiB for each of them); "
        "else it is cut off.",
    )
    max_connections: int = Field(
        4096, ge=8, description="Connections at once; beyond it the longest silent one is closed."
    )
    keep_alive: float = Field(
        120.0,
        gt=0,
        description="Seconds an idle connection is kept; longer than the proxy's (queue-proxy: 90).",
    )

    # --- A1111's behaviour -------------------------------------------------------------------------
    api_auth: SecretStr | None = Field(
        None, description="`user:password[,user:password…]`: HTTP Basic on every route but the probes."
    )
    cors_allow_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated origins that browsers may call from; `*` for any."
    )
    session_ttl: float = Field(
        1800.0, gt=0, description="Lifetime of a session (cookie `sd`) since its last request."
    )
    session_cookie: str = Field("sd", min_length=1, description="Name of the session cookie.")
    max_sessions: int = Field(
        10_000, ge=1, description="Sessions kept at once; the longest unused leaves first."
    )
    strict_samplers: bool = Field(
        True,
        description="Unknown sampler or scheduler: 400 with the valid names. Off: A1111's silent default.",
    )
    output_dir: Path | None = Field(
        None, description="Where `save_images` writes; unset: nothing is written to disk."
    )
    allow_url_images: bool = Field(
        False, description="Fetch images whose URL a client sends (never from local addresses)."
    )
    enable_server_stop: bool = Field(
        False, description="Offer `/sdapi/v1/server-kill`, `-restart` and `-stop`."
    )

    # --- front ---------------------------------------------------------------------------------------
    upstream: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Services of this kind that make the images of a front: one address, or `name=address,…`, each "
        "with checkpoints of its own; the first is the default. Credentials may stand in an address.",
    )
    upstream_concurrency: int = Field(
        4, ge=1, description="Jobs at each upstream at once: that many pods are asked for, no more."
    )
    upstream_tries: int = Field(
        10, ge=1, description="Times a job is sent in all, where it fails for no fault of its own."
    )
    upstream_event_mb: float = Field(
        256.0, gt=0, description="Most MB that an upstream may send at once; more is not believed."
    )
    state_url: SecretStr | None = Field(
        None,
        description="`redis://…` in which several fronts keep sessions, tasks and catalogues; unset: memory.",
    )
    pod_address: str = Field(
        "",
        description="Address at which a front reaches this pod beside every proxy, to interrupt it; default: that of "
        "its host name.",
    )
    # --- page --------------------------------------------------------------------------------------
    ui: bool = Field(
        False, description="Serve the page for people at `/` (extra `ui`). On Knative run it apart instead."
    )
    ui_url: str = Field(
        "",
        description="Where the API is served, for the page apart (`python -m service ui`): one process, a front, "
        "Ray Serve.",
    )
    ui_poll: float = Field(
        5.0,
        ge=0,
        description="Seconds between the page's questions for the service's state while somebody looks. 0 asks "
        "never, so that an open page does not keep a service awake that scales to zero.",
    )
    ui_grafana: str = Field("", description="Address of Grafana that the page's fleet tab links to.")

    # --- logs --------------------------------------------------------------------------------------
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`auto`: text on a terminal, else one JSON object a line."
    )
    log_prompts: bool = Field(False, description="Write prompts into the log.")

    # --- pod -----------------------------------------------------------------------------------------
    pod_name: str = Field("", description="Name of this pod, sent as `X-Served-By`; default: the host name.")

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: Any) -> Any:
        if isinstance(value, str) and "://" in value:
            raise ValueError(
                f"SD_PORT is {value!r}: Kubernetes injected it for a Service named 'sd' in this namespace. "
                "Set enableServiceLinks: false in the pod spec (or rename the Service), or set SD_PORT to a number."
            )
        return value

    @field_validator("cors_allow_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("upstream", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        named: dict[str, str] = {}
        for part in parts:
            name, mark, address = part.partition("=")
            if not mark or "://" in name:
                name, address = ("default" if len(parts) == 1 else part), part
            if not address.startswith(("http://", "https://")) or name in named or "://" in name:
                raise ValueError(
                    f"{part!r} is no upstream: write one http:// address, or name=http://…,name=http://… with each "
                    "name once."
                )
            named[name] = address
        return named

    @field_validator("state_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        form = "write redis://:password@host:6379/0, rediss:// for TLS, or unix:///path of a socket."
        try:
            url = urlsplit(value.get_secret_value())
            known = url.scheme in ("redis", "rediss", "unix") and (url.port is None or url.port > 0)
        except ValueError:
            known = False
        if not known:  # without saying it: there may be a password in it
            raise ValueError(f"this is no address of a Redis server: {form}")
        if find_spec("redis") is None:
            raise ValueError("this needs the package redis: pip install 'knative-diffusion[front]'.")
        return value

    @field_validator("measures")
    @classmethod
    def _known_measures(cls, value: str) -> str:
        if value not in ("auto", "none"):
            parse(value)
        return value

    @field_validator("plan_size")
    @classmethod
    def _is_size(cls, value: str) -> str:
        if value:
            sides(value)
        return value

    @property
    def plan_sides(self) -> tuple[int, int] | None:
        """(width, height) in pixels of ``plan_size``, None for the checkpoint's own."""
        return sides(self.plan_size) if self.plan_size else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.api_auth is not None:
            for pair in self.api_auth.get_secret_value().split(","):
                if ":" not in pair:
                    raise ValueError("SD_API_AUTH must be user:password pairs, separated by commas.")
        return self

    @classmethod
    def read(cls, **overrides: Any) -> Self:
        """Read the environment; ``overrides`` (from the command line) win. Raises :class:`SettingsError`."""
        known = {PREFIX + name.upper() for name in cls.model_fields}
        # Kubernetes service links (SD_SERVICE_HOST, SD_PORT_80_TCP …) are no knobs of ours and not worth refusing.
        unknown = sorted(
            name
            for name in os.environ
            if name.startswith(PREFIX)
            and name not in known
            and not name.startswith(
                (f"{PREFIX}SERVICE_", f"{PREFIX}PORT_", f"{PREFIX}BENCH_", f"{PREFIX}TEST_")
            )
        )
        if unknown:
            raise SettingsError(
                f"Unknown setting {', '.join(unknown)}: see `python -m service settings` for all that exist."
            )
        try:
            return cls(**overrides)
        except ValidationError as error:
            lines = [
                f"{PREFIX}{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
                if problem["loc"]
                else problem["msg"]
                for problem in error.errors()
            ]
            raise SettingsError("; ".join(lines).replace("Value error, ", "")) from None

    @classmethod
    def table(cls) -> str:
        """The Markdown table of all settings, for the README."""
        rows = ["| variable | default | what it does |", "|---|---|---|"]
        for name, info in cls.model_fields.items():
            default = info.get_default(call_default_factory=True)
            if name == "model":
                shown = "the shipped model"
            elif default is None or default in ("", (), {}):
                shown = "–"
            else:
                shown = f"`{default}`".replace("`True`", "`true`").replace("`False`", "`false`")
            rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {info.description} |")
        return "\n".join(rows)
