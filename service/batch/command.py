"""``python -m service batch``: the options, and the order in which things are checked before anything is made."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

WAYS, LIMITS = "Where it is made", "What is made"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command, as they were given."""

    source: Path
    out: Path
    model: str | None
    shard: str | None
    shards: int | None
    pictures: Path | None
    seed: int
    limit: int | None
    fail_fast: bool
    retry_failed: bool
    check: bool
    upstream: str | None
    places: int
    timeout: float


def batch(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT",
            help="Rows: JSON lines (.jsonl), CSV (.csv) or a sweep (.yaml).",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for pictures, manifest and contact sheet.")
    ] = Path("outputs"),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows.", rich_help_panel=LIMITS)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="What seeds of -1 are drawn from.", rich_help_panel=LIMITS)
    ] = 0,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Folder that picture paths are relative to. Default: the input's.", rich_help_panel=LIMITS
        ),
    ] = None,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first row that can't be made.", rich_help_panel=LIMITS),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try rows again that failed before.", rich_help_panel=LIMITS),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check all rows and make nothing.", rich_help_panel=LIMITS)
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Diffusers folder, Hugging Face id or .safetensors file (SD_MODEL).", rich_help_panel=WAYS
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Make part I of N, counted from 0: 0/4.", rich_help_panel=WAYS)
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many parts there are, in a Job that sets JOB_COMPLETION_INDEX.",
            rich_help_panel=WAYS,
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(help="Let the service at this address make the rows.", rich_help_panel=WAYS),
    ] = None,
    c: Annotated[
        int, typer.Option("-c", min=1, max=256, help="With --upstream: rows at a time.", rich_help_panel=WAYS)
    ] = 1,
    timeout: Annotated[
        float, typer.Option(min=1, help="With --upstream: seconds for one row.", rich_help_panel=WAYS)
    ] = 600.0,
) -> None:
    """Make many pictures without a server: rows in, files, a manifest and a contact sheet out.

    Started again it goes on where it was. Exit code: 0 all made, 1 some rows failed, 2 nothing could be begun, 3
    stopped half-way (start it again), 130 or 143 by a signal.
    """
    from service.batch.errors import BatchError
    from service.batch.run import Interrupted

    options = Options(
        source or Path(), out, model, shard, shards, pictures, seed, limit, fail_fast, retry_failed, check, upstream,
        c, timeout,
    )  # fmt: skip
    try:
        code = asyncio.run(_run(options, source is not None))
    except BatchError as error:
        _end(str(error), error.exit_code)
    except Interrupted as error:
        _end(f"{error} Start it again to go on.", error.exit_code)
    raise typer.Exit(code)


def _end(sentence: str, code: int) -> NoReturn:
    typer.secho(sentence, fg="red", err=True)
    raise typer.Exit(code)


async def _run(options: Options, has_source: bool) -> int:
    from service import logs
    from service.batch import files, readers, tracking
    from service.batch.bar import Bar
    from service.batch.errors import SOME_FAILED, BatchError
    from service.batch.local import local
    from service.batch.makers import Maker
    from service.batch.manifest import PICTURES, Manifest
    from service.batch.pictures import PictureFolder
    from service.batch.plan import parse_shard, plan, problem
    from service.batch.run import Batch, carry_out
    from service.batch.upstream import upstream
    from service.settings import Settings, SettingsError

    try:
        settings = Settings.read(**({"model": options.model} if options.model else {}))
    except SettingsError as error:
        raise BatchError(str(error)) from None
    if "SD_LOG_LEVEL" not in os.environ:
        # Rows that fail are told by the batch; an access line for each that does not would drown them.
        settings = settings.model_copy(update={"log_level": "ERROR"})
    logs.configure(settings)
    shard = parse_shard(options.shard, options.shards)
    async with AsyncExitStack() as stack:
        tracker = stack.enter_context(tracking.tracker(_asked(options)))
        given = tracker.overrides
        source = Path(given.input) if given.input else options.source
        if not given.input and not has_source:
            raise BatchError("There is no input: name a .jsonl, .csv or .yaml file.")
        limit = given.limit or options.limit
        rows = readers.read(source)[:limit]
        requests = plan(rows, given.fields, options.seed if given.seed is None else given.seed)
        # A queue may have put the run's id into --out already.
        own = given.folder and given.folder != options.out.name
        folder = options.out / given.folder if own else options.out
        pictures = PictureFolder(options.pictures or source.parent)
        local_settings = None if options.upstream else settings
        bad = {
            request.number: why
            for request in requests
            if shard.has(request.number) and (why := problem(request, pictures, local_settings)) is not None
        }
        if options.check or (bad and options.fail_fast):
            for number, why in bad.items():
                typer.secho(f"Row {number}: {why.detail}", fg="red", err=True)
            typer.echo(f"{len(requests)} rows, {len(bad)} of them can't be made.", err=True)
            return SOME_FAILED if bad else 0
        files.prepare(folder)
        manifest = stack.enter_context(Manifest(folder, requests, shard))
        manifest.open(retry_failed=options.retry_failed)
        (folder / PICTURES).mkdir(exist_ok=True)
        mine = [request for request in requests if shard.has(request.number)]
        done = [request.number for request in mine if request.number in manifest.done]
        before = sum(manifest.done[number].pictures for number in done)
        bar = stack.enter_context(Bar(len(mine), len(done), before))
        # Two at a time here: one has the device, while the other is decoded, or its files are written.
        places = options.places if options.upstream else 2
        work = Batch(
            folder, requests, shard, pictures, places, bad, options.fail_fast, settings.max_body_mb * 0.7e6
        )
        maker: Maker | None = None
        if len(done) == len(mine):
            bar.state("nothing left to make")
        elif options.upstream:
            maker = await stack.enter_async_context(upstream(options.upstream, places, options.timeout))
        else:
            maker = await stack.enter_async_context(local(settings, bar.state))
        code = await carry_out(work, maker, manifest, bar, tracker)
        failed = sum(manifest.done[request.number].failed for request in mine)
        bar.say(f"{len(mine) - failed} of {len(mine)} rows made, {failed} failed: {folder}")
        return code


def _asked(options: Options) -> Mapping[str, Any]:
    """What a tracker notes of the options."""
    return {
        "input": str(options.source),
        "model": options.model or os.environ.get("SD_MODEL"),
        "seed": options.seed,
        "limit": options.limit,
        "shard": options.shard,
        "upstream": bool(options.upstream),
    }
