"""Which checkpoints there are, what they are called, and where they are: names in, paths out."""

import hashlib
import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from service.catalogue.catalogue import find_checkpoint
from service.catalogue.files import is_tellable, leaving_out, weight_files_in
from service.catalogue.layouts import identify
from service.catalogue.weights import INDEX, PICKLES, SUFFIX, read_header, refuse_pickle, weight_files
from service.core.errors import ModelLoadError
from service.core.records import CheckpointInfo
from service.settings import Settings

log = structlog.get_logger(__name__)

_HASHES: Final[dict[Path, str]] = {}
"""Hashes of this process, by where they are remembered: there may be nowhere to write them."""

_HASHING: Final[defaultdict[Path, threading.Lock]] = defaultdict(threading.Lock)
"""One for each file: who comes second waits and finds the hash remembered."""

SOON_HASHED: Final = 64 * 1024 * 1024
"""Bytes of weights that are hashed at once, in less time than anybody notices."""

_HUB_FILES: Final = ["*.json", "*.txt", "*.safetensors", "*.model"]


def locate(settings: Settings) -> Path:
    """The default checkpoint (``SD_MODEL``) on this machine; a Hugging Face id is fetched. Raises ModelLoadError."""
    path = Path(settings.model).expanduser()
    if path.exists():
        return checked(path)
    if (
        path.suffix in (SUFFIX, *PICKLES)
        or settings.model.count("/") != 1
        or settings.model.startswith((".", "/", "~"))
    ):
        raise ModelLoadError(
            f"SD_MODEL is {settings.model!r}, but there is no such file or folder here: check the path and the volume."
        )
    return _from_hub(settings.model, settings.model_revision)


def checked(path: Path) -> Path:
    """``path`` if it looks like a checkpoint. Raises :class:`ModelLoadError`."""
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise ModelLoadError(
                f"{path} has no {INDEX}: it is no diffusers folder. Name the folder that has one, or a {SUFFIX} file."
            )
        return path
    refuse_pickle(path)
    if path.suffix != SUFFIX:
        raise ModelLoadError(f"{path} is neither a diffusers folder nor a {SUFFIX} file.")
    return path


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    log.info("loading", news=f"Fetching {name} from Hugging Face.")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"{name} is no folder here and could not be fetched from Hugging Face ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}): check the name and the network, "
            "or run `python -m service fetch` where there is one."
        ) from None


def describe(
    path: Path, root: Path | None = None, name: str | None = None, *, hashed: bool = True
) -> CheckpointInfo:
    """The names of a checkpoint: ``title`` is its path below ``root`` with the short hash, as in A1111.

    Without ``hashed`` only a hash that is remembered is told: reading a whole folder of checkpoints takes minutes.
    """
    shown = name or (str(path.relative_to(root)) if root and path.is_relative_to(root) else path.name)
    model_name = shown.removesuffix(SUFFIX).replace("/", "_").replace("\\", "_")
    sha256 = sha256_of(path) if hashed else _remembered(hash_store(path))
    title = f"{shown} [{sha256[:10]}]" if sha256 else shown
    return CheckpointInfo(title=title, name=model_name, filename=str(path), sha256=sha256)


def sha256_of(path: Path, *, skip_header: bool = False) -> str:
    """SHA-256 of a checkpoint: of a file its bytes, of a folder those of its weight files in order.

    With ``skip_header`` the header of ``.safetensors`` files is left out (so that metadata can change).
    Remembered in the user's cache folder by path, size and time of change: hashing gigabytes takes seconds.
    """
    store = hash_store(path, skip_header=skip_header)
    with _HASHING[store]:
        return _remembered(store) or _sha256_of(path, store, skip_header)


def _sha256_of(path: Path, store: Path, skip_header: bool) -> str:
    digest = hashlib.sha256()
    for file in weight_files(path):
        with file.open("rb") as stream:
            if skip_header:
                stream.seek(8 + int.from_bytes(stream.read(8), "little"))
            while chunk := stream.read(8 * 1024 * 1024):
                digest.update(chunk)
    value = _HASHES[store] = digest.hexdigest()
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(value + "\n")
    except OSError:  # a read-only root file system: hash again next time
        pass
    return value


def hash_store(path: Path, *, skip_header: bool = False) -> Path:
    """The file in which the hash of ``path``, as it is now, is or will be remembered; another once it changes."""
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in weight_files(path)]
    kind = "tensors" if skip_header else "sha256"
    return _cache_folder() / f"{hashlib.sha256(json.dumps(stats).encode()).hexdigest()}.{kind}"


def _remembered(store: Path) -> str | None:
    if store in _HASHES:
        return _HASHES[store]
    try:
        value = store.read_text().strip()
    except OSError:
        return None
    return value if len(value) == 64 else None


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knative-diffusion" / "hashes"


def checkpoints_in(root: Path) -> Iterator[CheckpointInfo]:
    """The checkpoints below ``root`` that can be served, as their headers say: files by path, then folders by path.

    They have hashes where those are remembered.
    """
    files = (path for path in weight_files_in(root) if not _inside_folder_checkpoint(path, root))
    folders = sorted(index.parent for index in root.rglob(INDEX))
    for path in (*files, *folders):
        # Hidden folders hold what is still being fetched.
        if any(part[0] == "." for part in path.relative_to(root).parts) or not is_tellable(path):
            continue
        if path.name.endswith(f".vae{SUFFIX}"):  # A1111 lets a checkpoint's VAE lie beside it
            continue
        with leaving_out(path):
            if path.is_file():
                identify(path, read_header(path)[0])
            yield describe(path, root, hashed=False)


class CheckpointCatalogue:
    """All checkpoints of this service by every name that A1111 accepts; the default one first."""

    def __init__(self, default: Path, settings: Settings) -> None:
        self._default = default
        self._settings = settings
        self._infos: list[CheckpointInfo] = []
        self.refresh()

    def refresh(self) -> None:
        """Look at the models folder again."""
        name = None
        if str(self._default) != self._settings.model:  # from the hub: the snapshot's folder is a hash
            name = self._settings.model
        found = [describe(self._default, name=name, hashed=False)]
        root = self._settings.models_dir and self._settings.models_dir / "checkpoints"
        if root is not None:
            default = self._default.resolve()
            found += [info for info in checkpoints_in(root) if Path(info.filename).resolve() != default]
        self._infos = found

    def hashed(self, info: CheckpointInfo) -> CheckpointInfo:
        """``info`` with its hash, from now on in the list too. Reads the whole checkpoint if nobody remembers."""
        if info.sha256 is not None:
            return info
        sha256 = sha256_of(Path(info.filename))
        known = replace(info, title=f"{info.title} [{sha256[:10]}]", sha256=sha256)
        self._infos = [known if each.filename == info.filename else each for each in self._infos]
        return known

    def hash_in_the_background(self, info: CheckpointInfo) -> CheckpointInfo:
        """``info`` with its hash if that is known or a matter of milliseconds; else it will be in the list later.

        Hashing gigabytes takes seconds, which neither readiness nor an image waits for: a thread does it that yields
        to every other.
        """
        path = Path(info.filename)
        if info.sha256 is not None:
            return info
        if sum(file.stat().st_size for file in weight_files(path)) <= SOON_HASHED:
            return self.hashed(info)

        def work() -> None:
            with suppress(OSError):
                if (
                    hasattr(os, "setpriority") and sys.platform == "linux"
                ):  # there a priority is a thread's own
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
                self.hashed(info)

        threading.Thread(target=work, name="hash", daemon=True).start()
        return info

    def known(self, info: CheckpointInfo) -> CheckpointInfo:
        """What the list says of that checkpoint by now."""
        return next((each for each in self._infos if each.filename == info.filename), info)

    def all(self) -> list[CheckpointInfo]:
        """The default one first, then by path."""
        return list(self._infos)

    @property
    def default(self) -> CheckpointInfo:
        """What a request without a name gets."""
        return self._infos[0]

    def find(self, name: str) -> CheckpointInfo:
        """See :func:`~service.catalogue.catalogue.find_checkpoint`."""
        return find_checkpoint(self._infos, name)


def _inside_folder_checkpoint(path: Path, root: Path) -> bool:
    return any(
        (parent / INDEX).is_file()
        for parent in path.parents
        if parent != root and parent.is_relative_to(root)
    )
