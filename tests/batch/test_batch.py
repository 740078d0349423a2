"""The command as its users run it: real pictures, an engine of its own and a service's, and what goes wrong."""

import base64
import hashlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.core.errors import OutOfMemory
from tests.batch.conftest import (
    ROOT,
    SMALL,
    batch,
    command,
    contents,
    environment,
    lines_of,
    unmeasured,
    write_rows,
)
from tests.fakes import FakeEngine
from tests.live import LiveServer, free_port, serve


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A service with the shipped model."""
    with serve(warmup_size=64, warmup_steps=1, cpu_threads=1) as live:
        yield live


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """Rows that use what the API can do, and two that cannot be made."""
    gradient = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "start.png")
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    return write_rows(
        tmp_path / "rows.jsonl",
        [
            {"prompt": "a red apple", **SMALL},
            {"prompt": "a (blue:1.3) cup", **SMALL, "n_iter": 2, "seed": 7, "sampler_name": "DPM++ 2M", "id": "cup"},
            {"prompt": "a red apple", **SMALL, "sampler_name": "Nope"},
            {"prompt": "a tree", **SMALL, "init_images": "start.png", "mask": "mask.png", "denoising_strength": 0.5},
            {"prompt": "a|b", **SMALL, "script_name": "prompt matrix", "script_args": [False, False, "positive"]},
            {"prompt": "a cat", **SMALL, "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5},
            {"prompt": "a dog", **SMALL, "override_settings.samples_format": "webp", "override_settings.s_churn": 3},
            {"prompt": "a tree", **SMALL, "init_images": ["../elsewhere.png"]},
        ],
    )  # fmt: skip


def test_here_and_at_a_service_rows_become_what_the_api_answers(
    everything: Path, tmp_path: Path, server: LiveServer
) -> None:
    """One batch by this process' engine, one by a service with four rows at a time: equal but for the clock."""
    here = batch(everything, "--out", tmp_path / "here")
    assert here.returncode == 1, here.stderr
    assert "Row 3: There is no sampler 'Nope'" in here.stderr
    assert "Row 8: init_images: '../elsewhere.png' leaves the folder" in here.stderr
    assert "6 of 8 rows made, 2 failed" in here.stderr
    there = batch(everything, "--out", tmp_path / "there", "--upstream", server.url, "-c", 4)
    assert there.returncode == 1, there.stderr
    assert unmeasured(tmp_path / "here") == unmeasured(tmp_path / "there")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")

    lines = lines_of(tmp_path / "here")
    assert [line["row"] for line in lines] == [1, 2, 2, 3, 4, 5, 5, 5, 6, 7, 8]
    assert [line["grid"] for line in lines if line["row"] == 5] == [True, False, False]
    assert {Path(line["file"]).name for line in lines if line["file"]} == {
        "000001.png", "cup-1.png", "cup-2.png", "000004.png", "000005-grid.png", "000005-1.png", "000005-2.png",
        "000006.png", "000007.webp",
    }  # fmt: skip
    assert [line["code"] for line in lines if line["error"]] == ["unknown_name", "bad_image"]
    for line in lines:
        if not line["file"]:
            continue
        data = (tmp_path / "here" / line["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        assert line["seconds"]["total"] > 0
    for folder in ("here", "there"):
        stages = [line["seconds"].keys() for line in lines_of(tmp_path / folder) if line["file"]]
        assert all({"queue", "denoising", "decode", "encoding", "total"} <= one for one in stages)

    # What a client of the API gets for the very same fields, infotext and all.
    asked = [line for line in lines if line["kind"] == "txt2img" and line["file"]]
    with server.client() as client:
        for line in asked:
            answer = client.post("/sdapi/v1/txt2img", json=line["request"]).json()
            assert (
                base64.b64decode(answer["images"][line["index"]])
                == (tmp_path / "here" / line["file"]).read_bytes()
            )
    with Image.open(tmp_path / "here/images/cup-2.png") as picture:
        assert "a (blue:1.3) cup" in picture.info["parameters"]
        assert "Seed: 8," in picture.info["parameters"]
    with Image.open(tmp_path / "here/images/000006.png") as picture:
        assert picture.size == (128, 128)
    with Image.open(tmp_path / "here/sheet.webp") as sheet:
        assert sheet.width > 3 * 144


def test_two_shards_are_one_whole(everything: Path, tmp_path: Path, server: LiveServer) -> None:
    upstream = ("--upstream", server.url, "-c", 2)
    assert batch(everything, "--out", tmp_path / "whole", *upstream).returncode == 1
    first = batch(everything, "--out", tmp_path / "parts", "--shard", "1/2", *upstream)
    assert first.returncode == 1, first.stderr
    assert not (tmp_path / "parts/manifest.jsonl").exists(), "half of it is not the manifest"
    # The other one as a pod of an indexed Job.
    second = batch(
        everything,
        "--out",
        tmp_path / "parts",
        "--shards",
        2,
        *upstream,
        variables={"JOB_COMPLETION_INDEX": "0"},
    )
    assert second.returncode == 1, second.stderr
    assert unmeasured(tmp_path / "parts") == unmeasured(tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # And one that knows of no shards sees that nothing is left to be done.
    again = batch(everything, "--out", tmp_path / "parts")
    assert "6 of 8 rows made, 2 failed" in again.stderr
    assert unmeasured(tmp_path / "parts") == unmeasured(tmp_path / "whole")


def test_a_row_that_does_not_fit_into_memory_is_told_and_the_next_runs(
    tmp_path: Path, rows: Callable[..., Path]
) -> None:
    tries: list[int] = []

    def fails(request: Any) -> Exception | None:
        tries.append(request.seed)
        return (
            OutOfMemory("The device is full: ask for less.") if request.seed == 2 and len(tries) < 5 else None
        )

    path = rows(*({"prompt": "x", "seed": seed, **SMALL} for seed in (1, 2, 3)))
    with serve(FakeEngine(fail_with=fails)) as live:
        out = tmp_path / "out"
        ended = batch(path, "--out", out, "--upstream", live.url)
        assert ended.returncode == 1
        assert "Row 2: The device is full: ask for less." in ended.stderr
        assert [line["code"] for line in lines_of(out)] == [None, "out_of_memory", None]
        assert tries == [1, 2, 3]
        assert batch(path, "--out", out, "--upstream", live.url).returncode == 1
        assert tries == [1, 2, 3], "what the manifest has is not made again"
        assert batch(path, "--out", out, "--upstream", live.url, "--retry-failed").returncode == 1
        assert batch(path, "--out", out, "--upstream", live.url, "--retry-failed").returncode == 0
        assert tries == [1, 2, 3, 2, 2]
        assert [line["code"] for line in lines_of(out)] == [None, None, None]
        ended = batch(path, "--out", tmp_path / "fast", "--upstream", live.url, "--fail-fast")
        assert ended.returncode == 0


def test_fail_fast_stops(tmp_path: Path, rows: Callable[..., Path]) -> None:
    path = rows(*({"prompt": "x", "seed": seed, **SMALL} for seed in (1, 2, 3)))
    with serve(
        FakeEngine(fail_with=lambda request: OutOfMemory("Full.") if request.seed == 2 else None)
    ) as live:
        ended = batch(path, "--out", tmp_path / "out", "--upstream", live.url, "--fail-fast")
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1] == "Stopped at row 2 (--fail-fast)."
    assert len(lines_of(tmp_path / "out")) == 2


def test_fail_fast_makes_nothing_where_a_row_is_bad_from_the_start(
    tmp_path: Path, rows: Callable[..., Path]
) -> None:
    path = rows(*[{"prompt": "x", **SMALL}] * 16, {"prompt": "x", "sampler_name": "Nope"})
    for option in ("--fail-fast", "--check"):
        ended = batch(path, "--out", tmp_path / "out", option)
        assert ended.returncode == 1
        assert ended.stderr.startswith("Row 17: There is no sampler 'Nope'.")
        assert ended.stderr.endswith("17 rows, 1 of them can't be made.\n")
        assert not (tmp_path / "out").exists()


def test_a_folder_of_another_batch_is_left_alone(tmp_path: Path, rows: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    with serve(FakeEngine()) as live:
        assert batch(rows({"prompt": "x", **SMALL}), "--out", out, "--upstream", live.url).returncode == 0
        before = contents(out) | {"manifest": (out / "manifest.jsonl").read_bytes()}
        other = batch(rows({"prompt": "y", **SMALL}), "--out", out, "--upstream", live.url)
        assert other.returncode == 2
        assert "was made from another input: its row 1 asked for something else" in other.stderr
        # More rows at the end are no other batch; another checkpoint is.
        more = rows({"prompt": "x", **SMALL}, {"prompt": "y", **SMALL})
        ended = batch(more, "--out", out)
        assert ended.returncode == 2
        assert "has pictures by fake [0123456789], and this is demo_model" in ended.stderr
        assert contents(out) | {"manifest": (out / "manifest.jsonl").read_bytes()} == before
        assert batch(more, "--out", out, "--upstream", live.url).returncode == 0
        assert len(lines_of(out)) == 2
    text = (out / "manifest.jsonl").read_text()
    (out / "manifest.jsonl").write_text(text.replace('"format":1', '"format":2'))
    ended = batch(more, "--out", out)
    assert ended.returncode == 2
    assert "is a manifest of version 2, and this program writes version 1" in ended.stderr
    (out / "manifest.jsonl").write_text("hello\n")
    ended = batch(more, "--out", out)
    assert ended.returncode == 2
    assert "manifest.jsonl, line 1 is no line of a manifest" in ended.stderr


def test_where_nothing_can_be_written_nothing_is_begun(tmp_path: Path, rows: Callable[..., Path]) -> None:
    path = rows({"prompt": "x", **SMALL})
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "out", Path("/proc/out"), Path("/sys/out")):  # read-only for root, too
        ended = batch(path, "--out", folder)
        assert ended.returncode == 2
        assert f"--out {folder} can't be written to: " in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_a_full_disk_stops_the_batch_with_nothing_half_written(tmp_path: Path, server: LiveServer) -> None:
    """A limit on the size of files stands for the disk: the small pictures fit, the large one does not."""
    path = write_rows(
        tmp_path / "rows.jsonl",
        [
            {"prompt": "x", "seed": 1, **SMALL},
            {"prompt": "x", "seed": 2, **SMALL, "width": 512, "height": 512},
        ],
    )
    out = tmp_path / "out"
    arguments = (path, "--out", out, "--upstream", server.url)
    limit = 20_000
    ended = subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert ended.returncode == 3, ended.stderr
    assert "000002.png can't be written: no room is left" in ended.stderr
    assert [path.name for path in (out / "images").iterdir()] == ["000001.png"]
    assert len(lines_of(out)) == 1
    assert batch(*arguments).returncode == 0
    assert len(lines_of(out)) == 2


def test_a_signal_ends_it_and_it_goes_on(tmp_path: Path, rows: Callable[..., Path]) -> None:
    path = rows(*({"prompt": "x", "seed": seed, **SMALL, "steps": 20} for seed in range(6)))
    out = tmp_path / "out"
    engine = FakeEngine(step_time=0.15)
    with serve(engine) as live:
        arguments = (path, "--out", out, "--upstream", live.url)
        running = subprocess.Popen(
            command(*arguments), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not (out / "manifest.jsonl").exists() or len(lines_of(out)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second = batch(*arguments)
        assert second.returncode == 2
        assert "Another process is writing" in second.stderr
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 143
        assert said.endswith("Stopped by SIGTERM. Start it again to go on.\n")
        live.wait_idle()
        assert 2 <= len(lines_of(out)) < 6
        engine.step_time = 0.0
        assert batch(*arguments).returncode == 0
    assert [line["row"] for line in lines_of(out)] == [1, 2, 3, 4, 5, 6]
    began = [line["t"] for line in lines_of(out)]
    assert began == sorted(began)
    assert len(engine.served) <= 7, "at most the picture in the making is lost"


def test_a_service_that_is_away_is_waited_for(tmp_path: Path, rows: Callable[..., Path]) -> None:
    """Refusals say when to come back; a deployment in between is no reason to lose a row."""
    path = rows({"prompt": "x", "seed": 1, **SMALL})
    port = free_port()
    out = tmp_path / "out"
    running = subprocess.Popen(
        command(path, "--out", out, "--upstream", f"127.0.0.1:{port}"), cwd=ROOT, env=environment()
    )
    try:
        time.sleep(2)
        assert running.poll() is None
        gate = threading.Event()
        with serve(FakeEngine(load_gate=gate), wait_ready=False, port=port):
            time.sleep(1)
            gate.set()
            assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
    assert json.loads((out / "manifest.jsonl").read_text())["seed"] == 1


def test_a_service_that_asks_for_a_password(tmp_path: Path, rows: Callable[..., Path]) -> None:
    path = rows({"prompt": "x", "seed": 1, **SMALL}, {"prompt": "y", "seed": 2, **SMALL})
    with serve(FakeEngine(), api_auth="me:secret") as live:
        for who in ("", "me:wrong@"):
            ended = batch(path, "--out", tmp_path / "out", "--upstream", live.url.replace("//", f"//{who}"))
            assert ended.returncode == 3
            assert f"{live.url} doesn't make pictures for us: " in ended.stderr
            assert "wrong" not in ended.stderr
        ended = batch(path, "--out", tmp_path / "out", "--upstream", live.url.replace("//", "//me:secret@"))
        assert ended.returncode == 0, ended.stderr
        assert len(lines_of(tmp_path / "out")) == 2
        nowhere = batch(
            path, "--out", tmp_path / "other", "--upstream", f"{live.url.replace('//', '//me:secret@')}/x"
        )
        assert nowhere.returncode == 3
        assert lines_of(tmp_path / "other") == []


def test_one_picture_is_a_batch_of_one(tmp_path: Path, server: LiveServer) -> None:
    target = tmp_path / "apple.webp"
    ended = subprocess.run(
        [sys.executable, "-m", "service", "generate", "a red apple", "-o", target, "--seed", "7", "--steps", "1",
         "--width", "64", "--height", "64"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    body = {"prompt": "a red apple", "seed": 7, "sampler_name": "Euler a", **SMALL}
    body["override_settings"] = {"samples_format": "webp"}
    with server.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json=body).json()
    assert base64.b64decode(answer["images"][0]) == target.read_bytes()


def test_a_terminal_sees_a_bar(tmp_path: Path, rows: Callable[..., Path]) -> None:
    """Pictures, pictures a minute and the time that is left, on one line that changes."""
    path = rows(*({"prompt": "x", "seed": seed, **SMALL} for seed in range(4)))
    ours, theirs = pty.openpty()
    with serve(FakeEngine()) as live:
        running = subprocess.Popen(
            command(path, "--out", tmp_path / "out", "--upstream", live.url),
            cwd=ROOT, env=environment(TERM="xterm", COLUMNS="120"), stderr=theirs, stdout=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        assert running.wait(30) == 0
        os.close(ours)
    text = shown.decode()
    assert re.search(
        r"4/4 rows 4 pictures, [\d.]+ a minute, 0:00:00 left", re.sub(r"\x1b\[[\d;?]*\w", "", text)
    )


def test_an_address_that_is_none(tmp_path: Path, rows: Callable[..., Path]) -> None:
    ended = batch(rows({"prompt": "x"}), "--out", tmp_path / "out", "--upstream", "ftp://x")
    assert ended.returncode == 2
    assert "is no address: write http://HOST:PORT." in ended.stderr
