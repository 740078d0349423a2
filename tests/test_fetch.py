"""``python -m service fetch``, against local folders and against a small hub of our own on 127.0.0.1."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save

from service.fetch import FetchError, FetchRefused, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def weights(seed: int = 0, size: int = 1000) -> bytes:
    return save({"weight": np.random.default_rng(seed).random(size, dtype=np.float32)})


def pipeline(**more: bytes) -> dict[str, bytes]:
    """The files of a small diffusers pipeline, and things that such repositories have besides."""
    return {
        "model_index.json": json.dumps(INDEX).encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights(1),
        "unet/diffusion_pytorch_model.fp16.safetensors": weights(2),
        "unet/diffusion_pytorch_model.bin": b"a pickle that nobody needs",
        "scheduler/scheduler_config.json": b"{}",
        "safety_checker/model.safetensors": weights(3),
        "v1-5-pruned.ckpt": b"another pickle that nobody needs",
        "LICENSE.md": b"as is",
    } | {name.replace("__", "/"): content for name, content in more.items()}


NEEDED = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
    "LICENSE.md",
}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


class Hub(ThreadingHTTPServer):
    """The two endpoints of the Hugging Face hub that a fetch uses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        """Close the connection after so many bytes of weights in all, from then on before the first."""
        self.damage = False
        self.ignore_ranges = False


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if about := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.path.split("?")[0]):
            self._about(about[1], about[2])
        elif file := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", self.path):
            self._file(self.server.repos[file[1]][file[2]], weights=file[2].endswith(".safetensors"))
        else:
            self._answer(404, b"{}")

    def _about(self, repo: str, revision: str | None) -> None:
        if repo not in self.server.repos:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        if repo == "someone/gated":
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
            return
        if revision not in (None, "main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings: list[dict[str, Any]] = []
        for name, content in self.server.repos[repo].items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        about = {
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }
        self._answer(200, json.dumps(about).encode())

    def _file(self, content: bytes, *, weights: bool) -> None:
        start = 0
        status = 200
        asked = self.headers.get("Range")
        if asked and not self.server.ignore_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            status = 206
        if weights and self.server.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        rest = content[start:]
        if weights and self.server.break_after is not None:
            now = rest[: self.server.break_after]
            self.server.break_after -= len(now)
            self._answer(status, now, {"Content-Length": str(len(rest))})
            self.close_connection = True
            return
        self._answer(status, rest, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50)  # 10 MB: more than these small files have
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub client's pause between its own attempts
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_pipeline_from_the_hub(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repos["someone/small"] = pipeline()
    target = fetch("someone/small", models_dir=tmp_path)
    assert target == tmp_path / "checkpoints" / "small"
    assert names(target) == NEEDED
    assert (target / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(1)
    assert [path.name for path in target.parent.iterdir() if path.name.endswith(".partial")] == []
    shown = capsys.readouterr()
    assert "(100 %)" in shown.err
    assert shown.out == ""


def test_variant_gets_its_plain_name(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/small"] = pipeline()
    target = fetch("someone/small", to=tmp_path / "half", variant="fp16")
    assert names(target) == NEEDED
    assert (target / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(2)


def test_the_only_variant_is_taken(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/half"] = pipeline()
    del hub.repos["someone/half"]["unet/diffusion_pytorch_model.safetensors"]
    target = fetch("someone/half", models_dir=tmp_path)
    assert (target / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(2)


def test_no_network_once_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/small"] = pipeline()
    target = fetch("someone/small", models_dir=tmp_path)
    hub.requests.clear()
    assert fetch("someone/small", models_dir=tmp_path) == target
    assert fetch("someone/small", models_dir=tmp_path, revision=COMMIT) == target
    assert hub.requests == []


def test_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/small"] = pipeline()
    whole = len(weights(1))
    hub.break_after = 100
    with pytest.raises(FetchError, match="goes on where it stopped") as stopped:
        fetch("someone/small", models_dir=tmp_path)
    assert stopped.value.exit_code == 1
    assert not (tmp_path / "checkpoints" / "small").exists()
    (part,) = tmp_path.rglob("*.part")
    there = part.stat().st_size
    assert there == 100 < whole
    hub.break_after = None
    hub.requests.clear()
    target = fetch("someone/small", models_dir=tmp_path)
    assert (target / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(1)
    asked = {path.partition(COMMIT)[2]: bytes_ for path, bytes_ in hub.requests if COMMIT in path}
    assert asked["/unet/diffusion_pytorch_model.safetensors"] == f"bytes={there}-"
    assert "/unet/config.json" not in asked  # it was whole


def test_server_that_ignores_ranges(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repos["someone/small"] = pipeline()
    hub.ignore_ranges = True
    hub.break_after = 100
    with pytest.raises(FetchError):
        fetch("someone/small", models_dir=tmp_path)
    hub.break_after = None
    target = fetch("someone/small", models_dir=tmp_path)
    assert (target / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(1)
    assert re.findall(r"\((\d+) %\)", capsys.readouterr().err)[-1] == "100"


def test_damage_on_the_way_is_noticed(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/small"] = pipeline()
    hub.damage = True
    with pytest.raises(FetchError, match="arrived damaged") as damaged:
        fetch("someone/small", models_dir=tmp_path)
    assert damaged.value.exit_code == 1
    hub.damage = False
    fetch("someone/small", models_dir=tmp_path)


def test_one_file_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/mixed"] = {"sub/a.safetensors": weights(1), "b.safetensors": weights(2)}
    target = fetch("someone/mixed/sub/a.safetensors", models_dir=tmp_path)
    assert target == tmp_path / "checkpoints" / "a.safetensors"
    assert target.read_bytes() == weights(1)
    hub.requests.clear()
    assert fetch("someone/mixed/sub/a.safetensors", models_dir=tmp_path) == target
    assert hub.requests == []
    with pytest.raises(FetchRefused, match=r"no such file.*b\.safetensors, sub/a\.safetensors"):
        fetch("someone/mixed/c.safetensors", models_dir=tmp_path)
    hub.repos["someone/mixed"]["d.json"] = b"{}"
    with pytest.raises(FetchRefused, match=r"is not a \.safetensors file"):
        fetch("someone/mixed/d.json", models_dir=tmp_path)


def test_repository_with_one_checkpoint(hub: Hub, tmp_path: Path) -> None:
    hub.repos["someone/one"] = {"a.safetensors": weights(1), "README.md": b""}
    target = fetch("someone/one", models_dir=tmp_path)
    assert names(target) == {"a.safetensors"}


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        ("someone/absent", None, "no repository"),
        ("someone/gated", None, "HF_TOKEN"),
        ("someone/small", "v9", "no revision 'v9'"),
        ("someone/pickled", None, r"unet as a pickle only .*from_pretrained\('someone/pickled'\)"),
        ("someone/checkpoint", None, r"a\.ckpt is a pickle.*safetensors"),
        ("someone/several", None, r"someone/several/a\.safetensors, someone/several/b\.safetensors"),
        ("someone/nothing", None, "no checkpoint"),
        ("someone/variants", None, r"variants only \(bf16, fp16\)"),
        ("someone/shards", None, "several files"),
        ("someone/odd", None, "not a JSON object"),
        ("someone/empty", None, "names no parts"),
        ("someone/small/a.ckpt", None, r"a\.ckpt is a pickle"),
    ],
)
def test_hub_refusals(hub: Hub, tmp_path: Path, model: str, revision: str | None, says: str) -> None:
    hub.repos["someone/gated"] = {}
    hub.repos["someone/small"] = pipeline()
    hub.repos["someone/pickled"] = pipeline()
    for name in list(hub.repos["someone/pickled"]):
        if name.endswith(".safetensors"):
            del hub.repos["someone/pickled"][name]
    hub.repos["someone/checkpoint"] = {"a.ckpt": b""}
    hub.repos["someone/several"] = {"a.safetensors": weights(), "b.safetensors": weights()}
    hub.repos["someone/nothing"] = {"README.md": b""}
    hub.repos["someone/variants"] = {
        "model_index.json": json.dumps(INDEX).encode(),
        "unet/model.fp16.safetensors": weights(),
        "unet/model.bf16.safetensors": weights(),
    }
    hub.repos["someone/shards"] = {
        "model_index.json": json.dumps(INDEX).encode(),
        "unet/model.fp16-00001-of-00002.safetensors": weights(),
        "unet/model.fp16-00002-of-00002.safetensors": weights(),
        "unet/model.safetensors.index.fp16.json": b"{}",
    }
    hub.repos["someone/odd"] = {"model_index.json": b"[1]"}
    hub.repos["someone/empty"] = {"model_index.json": b"{}"}
    with pytest.raises(FetchRefused, match=says) as refused:
        fetch(model, models_dir=tmp_path, revision=revision)
    assert refused.value.exit_code == 2
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchRefused, match="HF_HUB_OFFLINE is set"):
        fetch("someone/small", models_dir=tmp_path)


def test_hub_out_of_reach(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match="Run the same command again") as stopped:
        fetch("someone/small", models_dir=tmp_path)
    assert stopped.value.exit_code == 1


def test_local_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", pipeline())
    target = fetch(str(source), models_dir=tmp_path / "models")
    assert target == tmp_path / "models" / "checkpoints" / "mine"
    assert names(target) == NEEDED
    np.testing.assert_array_equal(
        load_file(target / "unet/diffusion_pytorch_model.safetensors")["weight"],
        load_file(source / "unet/diffusion_pytorch_model.safetensors")["weight"],
    )
    assert fetch(str(source), models_dir=tmp_path / "models") == target


def test_local_copy_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "mine", pipeline())
    partial = tmp_path / "models" / "checkpoints" / ".mine.local.partial"
    write(
        partial,
        {"unet/diffusion_pytorch_model.safetensors.part": weights(1)[:500], "unet/config.json": b"{}"},
    )
    target = fetch(str(source), models_dir=tmp_path / "models")
    assert (target / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(1)
    assert not partial.exists()


def test_sharded_local_folder(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {
        "model_index.json": json.dumps(INDEX).encode(),
        "unet/model.safetensors.index.json": json.dumps(index).encode(),
        "unet/model-00001-of-00002.safetensors": weights(1),
        "unet/model-00002-of-00002.safetensors": weights(2),
    }
    assert names(fetch(str(write(tmp_path / "big", files)), models_dir=tmp_path)) == set(files)
    (tmp_path / "big" / "unet/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FetchRefused, match=r"names model-00002-of-00002\.safetensors, which is not there"):
        fetch(str(tmp_path / "big"), to=tmp_path / "elsewhere")


def test_local_file(tmp_path: Path) -> None:
    source = write(tmp_path, {"a.safetensors": weights()}) / "a.safetensors"
    target = fetch(str(source), models_dir=tmp_path / "models")
    assert target == tmp_path / "models" / "checkpoints" / "a.safetensors"
    assert target.read_bytes() == weights()
    assert names(target.parent) == {"a.safetensors", ".a.safetensors.fetched.json"}


def test_weights_that_are_there_already_are_checked_in_place(tmp_path: Path) -> None:
    source = write(tmp_path / "checkpoints" / "mine", pipeline())
    assert fetch(str(source), models_dir=tmp_path) == source


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (weights()[:-1], "no complete safetensors file"),
        (weights() + b"x", "no complete safetensors file"),
        (b"", "no complete safetensors file"),
        (save({}), "without a single tensor"),
        (pickle.dumps({"weight": 1}), "pickle by another name"),
        (b"PK\x03\x04" + b"\0" * 40, "pickle by another name"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    ],
)
def test_bad_weights(tmp_path: Path, content: bytes, says: str) -> None:
    source = write(tmp_path, {"bad.safetensors": content}) / "bad.safetensors"
    with pytest.raises(FetchRefused, match=says):
        fetch(str(source), models_dir=tmp_path / "models")
    assert not (tmp_path / "models" / "checkpoints" / "bad.safetensors").exists()


def test_local_refusals(tmp_path: Path) -> None:
    for model in ("/nowhere/at/all", "./nowhere", "~/nowhere/x", "nothing"):
        with pytest.raises(FetchRefused, match="neither a file or folder here nor a Hugging Face id"):
            fetch(model, models_dir=tmp_path)
    write(tmp_path, {"old.ckpt": b"", "text.json": b"{}"})
    with pytest.raises(FetchRefused, match=r"old\.ckpt is a pickle"):
        fetch(str(tmp_path / "old.ckpt"), models_dir=tmp_path)
    with pytest.raises(FetchRefused, match="no checkpoint"):
        fetch(str(tmp_path / "text.json"), models_dir=tmp_path)


def test_destination_in_use(tmp_path: Path) -> None:
    one = write(tmp_path / "one", pipeline())
    two = write(tmp_path / "two", pipeline())
    target = fetch(str(one), to=tmp_path / "here")
    with pytest.raises(FetchRefused, match=r"holds .*one"):
        fetch(str(two), to=target)
    with pytest.raises(FetchRefused, match="variant none"):
        fetch(str(one), to=target, variant="fp16")
    with pytest.raises(FetchRefused, match="was not fetched by this command"):
        fetch(str(one), to=two)
    (target / "unet/config.json").write_text("edited")
    with pytest.raises(FetchRefused, match="is not as it was fetched"):
        fetch(str(one), to=target)


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "mine", pipeline())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(FetchRefused, match="make room"):
        fetch(str(source), models_dir=tmp_path)


def test_fetch_needs_no_torch() -> None:
    code = "import sys, service.fetch; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
