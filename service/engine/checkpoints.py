"""Which checkpoints there are, what they are called, and where they are: names in, paths out."""

import hashlib
import json
import os
from pathlib import Path
from typing import Final

import structlog

from service.backends.protocol import CheckpointInfo
from service.errors import ModelLoadError, UnknownName
from service.settings import Settings
from service.weights import INDEX, PICKLES, SUFFIX, refuse_pickle, weight_files

log = structlog.get_logger(__name__)

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


def describe(path: Path, root: Path | None = None, name: str | None = None) -> CheckpointInfo:
    """The names of a checkpoint: ``title`` is its path below ``root`` with the short hash, as in A1111."""
    shown = name or (str(path.relative_to(root)) if root and path.is_relative_to(root) else path.name)
    model_name = shown.removesuffix(SUFFIX).replace("/", "_").replace("\\", "_")
    sha256 = sha256_of(path)
    return CheckpointInfo(
        title=f"{shown} [{sha256[:10]}]", name=model_name, filename=str(path), sha256=sha256
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a checkpoint: of a file its bytes, of a folder those of its weight files in order.

    Remembered in the user's cache folder by path, size and time of change: hashing gigabytes takes seconds.
    """
    files = weight_files(path)
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    store = _cache_folder() / f"{key}.sha256"
    try:
        remembered = store.read_text().strip()
        if len(remembered) == 64:
            return remembered
    except OSError:
        pass
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(8 * 1024 * 1024):
                digest.update(chunk)
    value = digest.hexdigest()
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(value + "\n")
    except OSError:  # a read-only root file system: hash again next time
        pass
    return value


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knative-diffusion" / "hashes"


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
        found = [describe(self._default, name=name)]
        root = self._settings.models_dir and self._settings.models_dir / "checkpoints"
        if root and root.is_dir():
            paths = [
                path for path in sorted(root.rglob(f"*{SUFFIX}")) if not _inside_folder_checkpoint(path, root)
            ]
            paths += sorted(index.parent for index in root.rglob(INDEX))
            found += [describe(path, root) for path in paths if path.resolve() != self._default.resolve()]
        self._infos = found

    def all(self) -> list[CheckpointInfo]:
        """The default one first, then by path."""
        return list(self._infos)

    @property
    def default(self) -> CheckpointInfo:
        """What a request without a name gets."""
        return self._infos[0]

    def find(self, name: str) -> CheckpointInfo:
        """By title, file name, model name, short or whole SHA-256, or "name [hash]". Raises :class:`UnknownName`."""
        asked = name.strip()
        for info in self._infos:
            path = Path(info.filename)
            plain = info.title.rsplit(" [", 1)[0]
            names = {info.title, plain, info.name, path.name, path.stem, info.short_hash, info.sha256}
            if asked in names or asked.rsplit(" [", 1)[0] in {plain, info.name, path.name, path.stem}:
                return info
        known = ", ".join(info.title for info in self._infos)
        raise UnknownName(f"There is no checkpoint {name!r}. Use one of: {known}.")


def _inside_folder_checkpoint(path: Path, root: Path) -> bool:
    return any(
        (parent / INDEX).is_file()
        for parent in path.parents
        if parent != root and parent.is_relative_to(root)
    )
