"""``python -m service fetch MODEL``: put a checkpoint where the service will find it, and check it.

MODEL is a Hugging Face id (``owner/name``), one file of such a repository
(``owner/name/file.safetensors``), or a local diffusers folder or ``.safetensors`` file. What bears the
destination's name is complete and checked: files gather in a hidden folder beside it, which is renamed at
the very end. An interrupted fetch goes on where it stopped. Pickled weights are refused, since loading a
pickle runs whatever code is inside it. Once fetched, the same command needs no network any more, and
neither does the service.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import httpx2

from service.fetch.errors import FetchError, FetchRefused
from service.fetch.progress import progress
from service.fetch.selection import check_weights, refuse_pickle, select
from service.fetch.sources import HubSource, LocalSource, Source

__all__ = ["FetchError", "FetchRefused", "fetch"]

_HUB_ID: Final = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>.+))?")


def fetch(
    model: str,
    *,
    to: Path | None = None,
    models_dir: Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Path:
    """Fetch ``model`` and return where it is now: the value for ``SD_MODEL``.

    ``to`` is the destination itself, by default ``<models_dir>/checkpoints/<name>``, where ``models_dir``
    (the setting ``SD_MODELS_DIR``) is by default ``models`` in the current folder. ``revision`` is a branch,
    tag or commit of the hub. ``variant`` (such as ``fp16``) prefers the weights of that variant where a part
    of the model has them. Progress goes to standard error.

    Raises :class:`FetchError`, whose ``exit_code`` is 1 when trying again may help and 2 when it cannot.
    """
    local = Path(model).expanduser()
    if local.exists():
        asked = str(local.resolve())
        name = local.resolve().name
    else:
        if not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
            raise FetchRefused(
                f"{model!r} is neither a file or folder here nor a Hugging Face id (owner/name)."
            )
        asked = model
        name = PurePosixPath(model).name
    refuse_pickle(name)
    target = to or (models_dir or Path("models")) / "checkpoints" / name
    if target.exists():
        if target.resolve() != local.resolve():
            _check_record(target, asked, revision, variant)
        check_weights(target)
        return target
    try:
        source: Source = LocalSource(local) if local.exists() else _hub(model, revision)
        wanted = _wanted(source, model, variant)
        if local.exists():
            check_weights(local)  # gigabytes need not be copied to learn that they are bad
        partial = target.parent / f".{target.name}.{source.revision[:12] or 'local'}.partial"
        _gather(source, wanted, partial)
        check_weights(partial)
        record = {
            "model": asked,
            "revision": source.revision,
            "asked_revision": revision,
            "variant": variant,
            "files": {new: source.files[old].size for old, new in wanted.items()},
        }
        alone = next(iter(wanted.values())) if name.endswith(".safetensors") else None
        _record_of(target).write_text(json.dumps(record, indent=1) + "\n")
        (partial if alone is None else partial / alone).replace(target)
        if alone is not None:
            shutil.rmtree(partial)
    except (OSError, httpx2.HTTPError) as error:
        raise FetchError(
            f"Fetching {model} stopped: {error}. Run the same command again: it goes on where it stopped."
        ) from error
    return target


def _hub(model: str, revision: str | None) -> HubSource:
    matched = _HUB_ID.fullmatch(model)
    assert matched
    return HubSource(matched["repo"], revision)


def _wanted(source: Source, model: str, variant: str | None) -> dict[str, str]:
    """The files to bring: their path there → their path here."""
    matched = _HUB_ID.fullmatch(model)
    file = matched["file"] if matched and isinstance(source, HubSource) else None
    if file is None:
        return select(source.files, source.index(), model, variant)
    if file not in source.files:
        there = ", ".join(sorted(name for name in source.files if name.endswith(".safetensors"))) or "none"
        raise FetchRefused(f"{model}: there is no such file. The .safetensors files that exist: {there}.")
    if not file.endswith(".safetensors"):
        raise FetchRefused(f"{model} is not a .safetensors file.")
    return {file: PurePosixPath(file).name}


def _gather(source: Source, wanted: Mapping[str, str], partial: Path) -> None:
    """Bring all files into ``partial``; what is whole there already stays."""
    sizes = {old: source.files[old].size for old in wanted}
    partial.mkdir(parents=True, exist_ok=True)
    there = {old: _size(partial / new) + _size(partial / f"{new}.part") for old, new in wanted.items()}
    missing = sum(sizes.values()) - sum(there.values())
    free = shutil.disk_usage(partial).free
    if missing > free:
        raise FetchRefused(
            f"{partial.parent} has {free / 1e9:.1f} GB free and {missing / 1e9:.1f} GB are missing: make "
            "room, or choose another destination with --to."
        )
    with progress(sum(sizes.values())) as report:
        for old, new in wanted.items():
            target, part = partial / new, partial / f"{new}.part"
            target.parent.mkdir(parents=True, exist_ok=True)
            if _size(part) > sizes[old]:
                part.unlink()
                there[old] = 0
            report(new, there[old])
            if target.exists():
                continue
            source.get(old, part, lambda count, new=new: report(new, count))  # type: ignore[misc]
            _check_part(part, sizes[old], source.files[old].sha256)
            part.replace(target)


def _check_part(part: Path, size: int, sha256: str | None) -> None:
    """A file that is not what its source says it is must not be gone on with: it goes."""
    wrong = _size(part) != size
    if not wrong and sha256 is not None:
        with part.open("rb") as file:
            wrong = hashlib.file_digest(file, "sha256").hexdigest() != sha256
    if wrong:
        part.unlink()
        raise FetchError(
            f"{part.name.removesuffix('.part')} arrived damaged and was removed: run the same command again."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _record_of(target: Path) -> Path:
    """The note beside a fetched file or folder that says what it is."""
    return target.parent / f".{target.name}.fetched.json"


def _check_record(target: Path, asked: str, revision: str | None, variant: str | None) -> None:
    """Raise :class:`FetchRefused` unless ``target`` is, whole, what an earlier fetch of it left."""
    try:
        record: dict[str, Any] = json.loads(_record_of(target).read_text())
    except (OSError, ValueError):
        raise FetchRefused(
            f"{target} exists and was not fetched by this command: choose another destination with --to."
        ) from None
    same_revision = revision in (None, record["asked_revision"], record["revision"])
    if record["model"] != asked or record["variant"] != variant or not same_revision:
        raise FetchRefused(
            f"{target} holds {record['model']} (revision {record['revision'] or 'none'}, variant "
            f"{record['variant'] or 'none'}): choose another destination with --to, or remove it."
        )
    for name, size in record["files"].items():
        path = target if target.is_file() else target / name
        if _size(path) != size:
            raise FetchRefused(f"{path} is not as it was fetched: remove {target} and fetch it again.")
