"""Where a checkpoint's files come from: the Hugging Face hub, or a folder or file of this machine."""

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from tqdm import tqdm

from service.catalogue.weights import INDEX
from service.fetch.errors import FetchError, FetchRefused

_CHUNK = 1 << 22


class SourceFile(NamedTuple):
    """A file of a checkpoint."""

    size: int
    sha256: str | None = None
    """Known for what the hub keeps in large-file storage, which is all weights."""


class Source(Protocol):
    """A checkpoint somewhere."""

    revision: str
    """The commit that pins the content; "" for local files."""
    files: Mapping[str, SourceFile]
    """By path inside the checkpoint, with forward slashes."""

    def get(self, name: str, target: Path, report: Callable[[int], None]) -> None:
        """Bring file ``name`` to ``target``, going on after the bytes that are there already.

        ``report`` hears how many bytes are new. Raises OSError or an HTTP error when it breaks off.
        """

    def index(self) -> Mapping[str, Any] | None:
        """The content of ``model_index.json``, or None where there is none."""


class LocalSource:
    """A folder, or a single file, of this machine or a mounted volume."""

    revision = ""

    def __init__(self, root: Path) -> None:
        self._root = root
        if root.is_file():
            self._paths = {root.name: root}
        else:
            self._paths = {
                path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()
            }
        self.files: Mapping[str, SourceFile] = {
            name: SourceFile(path.stat().st_size) for name, path in self._paths.items()
        }

    def get(self, name: str, target: Path, report: Callable[[int], None]) -> None:
        with self._paths[name].open("rb") as source, target.open("ab") as copy:
            source.seek(copy.tell())
            while chunk := source.read(_CHUNK):
                copy.write(chunk)
                report(len(chunk))
        shutil.copystat(self._paths[name], target)

    def index(self) -> Mapping[str, Any] | None:
        return _parse(self._paths[INDEX].read_bytes()) if INDEX in self._paths else None


class HubSource:
    """A repository of the Hugging Face hub (or of a mirror: ``HF_ENDPOINT``) at one commit."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self._repo = repo
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        try:
            info = HfApi(endpoint=self._endpoint).model_info(repo, revision=revision, files_metadata=True)
        except OfflineModeIsEnabled as error:
            raise FetchRefused(
                f"HF_HUB_OFFLINE is set, so {repo} cannot be fetched: unset it for this."
            ) from error
        except GatedRepoError as error:
            raise FetchRefused(
                f"{repo} is gated: accept its terms on its page, and set HF_TOKEN to a token of that account."
            ) from error
        except RevisionNotFoundError as error:
            raise FetchRefused(f"{repo} has no revision {revision!r}.") from error
        except RepositoryNotFoundError as error:
            raise FetchRefused(
                f"There is no repository {repo}, or it is private: check the name, or set HF_TOKEN."
            ) from error
        except HFValidationError as error:
            raise FetchRefused(f"{repo!r} is no name of a repository: {error}") from error
        if info.sha is None:
            raise FetchError(f"The hub told no commit for {repo}.")
        self.revision: str = info.sha
        self.files: Mapping[str, SourceFile] = {
            file.rfilename: SourceFile(file.size or 0, file.lfs.sha256 if file.lfs else None)
            for file in info.siblings or ()
        }

    def get(self, name: str, target: Path, report: Callable[[int], None]) -> None:
        with _Counting(target, report) as file:
            self._download(name, file, self.files[name].size)

    def index(self) -> Mapping[str, Any] | None:
        if INDEX not in self.files:
            return None
        content = io.BytesIO()
        self._download(INDEX, content, None)
        return _parse(content.getvalue())

    def _download(self, name: str, file: BinaryIO, size: int | None) -> None:
        # Unlike the hub client's own downloads, http_get can go on in a file that another process began.
        http_get(
            hf_hub_url(self._repo, name, revision=self.revision, endpoint=self._endpoint),
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=size,
            tqdm_class=_NoBar,
        )


class _Counting(io.BufferedWriter):
    """A file written to at its end, which tells how many bytes are new."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._report = report

    def write(self, chunk: Any, /) -> int:
        self._report(len(chunk))
        return super().write(chunk)

    def truncate(self, size: int | None = None, /) -> int:
        # The server ignored that only the rest was asked for, and sends everything again.
        before = os.fstat(self.fileno()).st_size
        after = super().truncate(size)
        self._report(after - before)
        return after


class _NoBar(tqdm):  # type: ignore[type-arg]
    """The hub client's own bar, hidden: ours shows all files at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))


def _parse(content: bytes) -> Mapping[str, Any]:
    try:
        index = json.loads(content)
    except ValueError:
        index = None
    if not isinstance(index, dict):
        raise FetchRefused(f"Its {INDEX} is not a JSON object, so this is no diffusers pipeline.")
    return index
