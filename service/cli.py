"""The command line: serve, ui, generate, batch, fetch, plan, settings. Every option is also an ``SD_*`` variable.

Heavy imports wait inside the commands: ``--help`` is instant, and ``serve`` listens before torch is imported.
"""

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from service.batch.command import batch
from service.settings import Settings, SettingsError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serverless Stable Diffusion: a drop-in for the AUTOMATIC1111 HTTP API.",
)

Model = Annotated[
    str | None, typer.Option(help="Diffusers folder, Hugging Face id or .safetensors file (SD_MODEL).")
]


def _settings(**options: Any) -> Settings:
    try:
        return Settings.read(**{name: value for name, value in options.items() if value is not None})
    except SettingsError as error:
        _fail(str(error))


def _fail(sentence: str, code: int = 2) -> NoReturn:
    typer.secho(sentence, fg="red", err=True)
    raise typer.Exit(code)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (SD_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (SD_PORT).")] = None,
    model: Model = None,
) -> None:
    """Serve the HTTP API until a signal ends it."""
    settings = _settings(host=host, port=port, model=model)
    if settings.upstream:
        _fail("SD_UPSTREAM is set, which is for a front: run `python -m service front`, or unset it.")
    from service import allocator
    from service.catalogue.page_cache import advise

    allocator.prepare()  # before there is a second thread
    # The disk has nothing else to do while Python imports for seconds.
    advise(Path(settings.model).expanduser())
    _serve(settings)


@app.command()
def front(
    upstream: Annotated[
        str | None,
        typer.Option(help="Services that make the images: http://… or name=http://…,… (SD_UPSTREAM)."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (SD_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (SD_PORT).")] = None,
) -> None:
    """Serve the HTTP API without a device, before services that have one."""
    settings = _settings(host=host, port=port, upstream=upstream)
    if not settings.upstream:
        _fail("A front needs services behind it: name them with --upstream http://… or SD_UPSTREAM.")
    _serve(settings)


def _serve(settings: Settings) -> None:
    from service import logs, server
    from service.app import create_app

    logs.configure(settings)
    if settings.ui and find_spec("gradio") is None:
        _fail("SD_UI needs the extra ui: pip install 'knative-diffusion[ui]'.")
    terminal = sys.stderr.isatty()
    try:
        app = create_app(settings, on_ready=partial(_greet, settings) if terminal else lambda: None)
        server.run(app, settings)
    except OSError as error:
        _fail(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port or --host.",
            1,
        )


def _greet(settings: Settings) -> None:
    """Say where it is, once it can be used: the last line of a start."""
    from rich.console import Console

    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    address = f"http://{host}:{settings.port}"
    console = Console(stderr=True, highlight=False)
    if settings.ui:
        console.print(f"\nReady. The API is described on {address}/docs.")
        console.print(f"[bold]Open {address}/ in a browser.[/bold]", soft_wrap=True)
        return
    console.print(
        f"\nReady. The API is described on {address}/docs. A first picture:\n"
        f'  curl -s {address}/sdapi/v1/txt2img -d \'{{"prompt": "pretty dog", "steps": 20}}\' '
        "| python3 -c 'import sys, json, base64; sys.stdout.buffer.write("
        'base64.b64decode(json.load(sys.stdin)["images"][0]))\' > dog.png\n'
        f"[bold]{address}[/bold]",
        soft_wrap=True,
    )


@app.command()
def ui(
    url: Annotated[str | None, typer.Option(help="Where the API is served (SD_UI_URL).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (SD_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (SD_PORT).")] = None,
    grafana: Annotated[str | None, typer.Option(help="Address of Grafana (SD_UI_GRAFANA).")] = None,
    poll: Annotated[
        float | None, typer.Option(help="Seconds between looks at the service's state (SD_UI_POLL).")
    ] = None,
) -> None:
    """Serve the page for people, apart from the service (extra ui)."""
    settings = _settings(ui_url=url, host=host, port=port, ui_grafana=grafana, ui_poll=poll)
    if not settings.ui_url.startswith(("http://", "https://")):
        _fail(f"--url (SD_UI_URL) is {settings.ui_url!r}, but must begin with http:// or https://.")
    if find_spec("gradio") is None:
        _fail("The page needs the extra ui: pip install 'knative-diffusion[ui]'.")
    import uvicorn

    from service.ui.app import create_page

    page = create_page(
        settings.ui_url.rstrip("/"),
        grafana=settings.ui_grafana,
        poll=settings.ui_poll,
        root_path=settings.root_path,
    )
    typer.echo(f"The page for {settings.ui_url} is on http://{settings.host}:{settings.port}/", err=True)
    uvicorn.run(
        page,
        host=settings.host,
        port=settings.port,
        ws="none",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=3,
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write: .png, .jpg or .webp.")
    ] = Path("out.png"),
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    seed: Annotated[int, typer.Option(help="-1: a random one.")] = -1,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 20,
    cfg_scale: Annotated[float, typer.Option(help="Guidance scale.")] = 7.0,
    width: Annotated[int, typer.Option(help="Pixels; what 8 does not divide is rounded down.")] = 512,
    height: Annotated[int, typer.Option(help="Pixels; what 8 does not divide is rounded down.")] = 512,
    sampler: Annotated[str, typer.Option(help="Sampler, in any spelling that the API takes.")] = "Euler a",
    scheduler: Annotated[str | None, typer.Option(help="Scheduler, e.g. Karras.")] = None,
    model: Model = None,
) -> None:
    """Make one image without HTTP."""
    settings = _settings(model=model)
    from service.batch.errors import BatchError
    from service.core.errors import ServiceError
    from service.once import generate_once

    body = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "steps": steps,
        "cfg_scale": cfg_scale,
        "width": width,
        "height": height,
        "sampler_name": sampler,
        "scheduler": scheduler,
    }
    try:
        generate_once(settings, body, output)
    except (BatchError, ServiceError) as error:
        _fail(str(error), 1)


app.command()(batch)


@app.command()
def fetch(
    model: Annotated[
        str, typer.Argument(help="Hugging Face id (owner/name[/file]), folder or .safetensors file.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="Where to put it; default: checkpoints/ of SD_MODELS_DIR.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="Preferred variant of the weights, e.g. fp16.")] = None,
) -> None:
    """Bring a checkpoint here, resumably, and check it."""
    settings = _settings()
    from service.fetch import FetchError
    from service.fetch import fetch as fetch_checkpoint

    try:
        typer.echo(
            fetch_checkpoint(model, to=to, models_dir=settings.models_dir, revision=revision, variant=variant)
        )
    except FetchError as error:
        _fail(str(error), error.exit_code)


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Argument(help="Diffusers folder, .safetensors file, or Hugging Face id in the local cache."),
    ],
    gib: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory to fit into; default: the slice that this machine tells."),
    ] = None,
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "512x512",
    batch: Annotated[int, typer.Option(min=1, max=64, help="Images at once.")] = 1,
    hires: Annotated[float | None, typer.Option(min=1, max=8, help="Scale of a second pass.")] = None,
    upscaler: Annotated[
        str | None, typer.Option(help="Upscaler between the passes (else a latent mode): its name or file.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="auto, float16, bfloat16 or float32.")] = "auto",
    measures: Annotated[str, typer.Option(help="auto, none, or names of measures, by commas.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what fits: memory by part and stage, without a GPU and without loading weights. Exit 1: it does not fit."""
    settings = _settings(model=model, device=device, dtype=dtype)
    from service.core.errors import ServiceError
    from service.plan import report
    from service.plan.command import plan_for

    try:
        made, allowed = plan_for(
            settings, gib=gib, size=size, batch=batch, hires=hires, upscaler=upscaler, measures=measures
        )
    except ServiceError as error:
        _fail(error.detail, 2)
    except ValueError as error:
        _fail(f"{error}.", 2)
    if as_json:
        import json

        typer.echo(json.dumps(report.as_json(made, allowed), indent=2))
    else:
        from rich.console import Console

        from service.plan.tables import show

        show(made, allowed, Console(highlight=False))
    raise typer.Exit(0 if made.fits else 1)


@app.command()
def settings() -> None:
    """Print the table of all settings (Markdown)."""
    typer.echo(Settings.table())
