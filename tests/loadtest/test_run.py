"""Runs against real servers: closed and open loop, sessions, streams, Ctrl-C, exit codes."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from typer.testing import Result

from loadtest.result import RunResult

Cli = Callable[..., Result]
Serve = Callable[[Any], str]


class Pods:
    """A service of several pods, each of which makes one image at a time; the first image of each is cold."""

    def __init__(self, count: int, *, sticky: bool = False, seconds: float = 0.01) -> None:
        self.app = FastAPI()
        self.seen: list[dict[str, Any]] = []
        self.most = 0
        self._sticky = sticky
        self._seconds = seconds
        self._names = [f"sd-00001-deployment-7d9c-{index:05d}" for index in range(count)]
        self._locks = {name: asyncio.Lock() for name in self._names}
        self._warm: set[str] = set()
        self._busy = 0
        self.app.post("/sdapi/v1/txt2img")(self.image)
        self.app.get("/hello")(lambda: "hello")

    async def image(self, request: Request, response: Response) -> dict[str, Any]:
        """One image."""
        self.seen.append({
            "body": await request.body(),
            "cookie": request.cookies.get("sd"),
            "headers": dict(request.headers),
            "peer": request.client and request.client.port,
        })  # fmt: skip
        number = len(self.seen)
        self._busy += 1
        self.most = max(self.most, self._busy)
        name = self._names[(number * 7 // 3) % len(self._names)]
        if self._sticky:
            name = request.cookies.get("sd") or name
            response.set_cookie("sd", name)
        async with self._locks[name]:
            await asyncio.sleep(self._seconds)
        response.headers["X-Served-By"] = name
        response.headers["X-Request-Id"] = f"request-{number}"
        if name not in self._warm:
            self._warm.add(name)
            response.headers["X-Cold-Start"] = "1"
        self._busy -= 1
        return {"images": ["abc"], "info": "{}"}


def measured(run_cli: Cli, tmp_path: Path, url: str, *more: str, expected: int = 0) -> tuple[RunResult, str]:
    path = tmp_path / "result.json"
    result = run_cli("run", url, "--quiet", "--json", str(path), *more)
    assert result.exit_code == expected, result.output
    return RunResult.read(path), result.stdout


def test_the_classic_run(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    pods = Pods(5)
    run, text = measured(run_cli, tmp_path, serve_app(pods.app))
    assert (run.requests, run.succeeded, run.failed) == (50, 50, 0)
    assert len(pods.seen) == 50
    assert pods.most == 5
    assert all(json.loads(one["body"]) == {"prompt": "pretty dog"} for one in pods.seen)
    assert all(one["headers"]["content-type"] == "application/json" for one in pods.seen)
    assert {one["cookie"] for one in pods.seen} == {None}
    assert len({one["peer"] for one in pods.seen}) == 5, "connections are kept alive, one for each user"
    assert sum(pod.answers for pod in run.pods) == 50
    assert (len(run.pods), run.cold_starts) == (5, 5)
    assert run.overhead.per_request is not None
    assert "This client's own share: " in text
    assert "not reported, 50 requests can't bear them: 99% (230 needed), 99.9% (2302 needed)" in text
    assert run.latency.at(95) is not None
    assert run.latency.at(99) is None
    assert len(run.records) == 50
    assert not run.sampled
    assert {one.request_id for one in run.records} == {f"request-{number}" for number in range(1, 51)}


def test_get_without_a_body(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    run, _ = measured(run_cli, tmp_path, f"{serve_app(Pods(1).app)}/hello", "-n", "7", "--no-calibrate")
    assert (run.plan.method, run.succeeded, run.pods) == ("GET", 7, ())
    assert run.overhead.per_request is None


def test_prompts_and_sizes_in_turn(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    pods = Pods(2)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n# no\na cow\n")
    run, text = measured(
        run_cli, tmp_path, serve_app(pods.app), "-n", "16", "--prompt", "a dog", "--prompts", str(prompts),
        "--size", "64x64", "--size", "96x64", "--steps", "3", "--no-calibrate",
    )  # fmt: skip
    asked = Counter(
        (body["prompt"], body["width"]) for body in (json.loads(one["body"]) for one in pods.seen)
    )
    assert set(asked) == {(prompt, width) for prompt in ("a dog", "a cat", "a cow") for width in (64, 96)}
    assert max(asked.values()) - min(asked.values()) <= 1
    assert sum(part.count for part in run.groups.values()) == 16
    assert len(run.groups) == 6
    assert "By request" in text


def test_an_open_loop_keeps_its_times_while_the_server_stalls(
    run_cli: Cli, serve_app: Serve, tmp_path: Path
) -> None:
    pods = Pods(1, seconds=0.05)
    run, text = measured(
        run_cli, tmp_path, serve_app(pods.app), "-n", "20", "--rate", "100", "--max-in-flight", "1",
        "--no-calibrate",
    )  # fmt: skip
    assert [one.intended for one in run.records] == pytest.approx([number / 100 for number in range(20)])
    assert pods.most == 1
    # A stall isn't hidden: the last request left long after its time and its latency holds the wait.
    last = run.records[-1]
    assert last.sent > last.intended
    assert last.latency > last.done - last.sent
    assert run.latency.slowest == pytest.approx(max(one.done - one.intended for one in run.records))
    assert "--max-in-flight was reached" in text


def test_poisson_and_recorded_arrivals(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    url = serve_app(Pods(3).app)
    run, _ = measured(
        run_cli, tmp_path, url, "-n", "30", "--rate", "200", "--poisson", "--seed", "4", "--no-calibrate"
    )
    again, _ = measured(
        run_cli, tmp_path, url, "-n", "30", "--rate", "200", "--poisson", "--seed", "4", "--no-calibrate"
    )
    assert [one.intended for one in run.records] == [one.intended for one in again.records]
    recording = tmp_path / "trace.jsonl"
    recording.write_text(
        "".join(json.dumps({"t": 5 + number / 50, "prompt": str(number)}) + "\n" for number in range(12))
    )
    pods = Pods(3)
    run, _ = measured(
        run_cli, tmp_path, serve_app(pods.app), "--trace", str(recording), "--speed", "2", "--no-calibrate"
    )
    assert [one.intended for one in run.records] == pytest.approx([number / 100 for number in range(12)])
    assert {json.loads(one["body"])["prompt"] for one in pods.seen} == {str(number) for number in range(12)}


def test_a_duration_ends_a_run_and_lets_requests_finish(
    run_cli: Cli, serve_app: Serve, tmp_path: Path
) -> None:
    pods = Pods(3)
    run, _ = measured(
        run_cli, tmp_path, serve_app(pods.app), "-z", "1s", "-c", "3", "--think", "10ms", "--no-calibrate"
    )
    assert run.requests == run.succeeded == len(pods.seen) > 0
    assert run.unfinished == 0
    assert all(one.sent < 1 for one in run.records)


@pytest.mark.parametrize("sticky", [True, False])
def test_cookies_and_stickiness(run_cli: Cli, serve_app: Serve, tmp_path: Path, sticky: bool) -> None:
    pods = Pods(4, sticky=sticky)
    run, text = measured(
        run_cli, tmp_path, serve_app(pods.app), "-n", "48", "-c", "6", "--sessions", "6", "--no-calibrate"
    )
    assert run.stickiness is not None
    assert run.stickiness.same_pod + run.stickiness.other_pod == 42
    if sticky:
        assert run.stickiness.other_pod == 0
        assert sum(one["cookie"] is None for one in pods.seen) == 6, "each session begins without a cookie"
        assert "Sessions stayed on their pod in 100% of 42 follow-up requests" in text
    else:
        assert run.stickiness.other_pod > 0
        assert {one["cookie"] for one in pods.seen} == {None}


def test_without_keep_alive_each_request_has_its_connection(
    run_cli: Cli, serve_app: Serve, tmp_path: Path
) -> None:
    pods = Pods(2)
    measured(run_cli, tmp_path, serve_app(pods.app), "-n", "8", "--disable-keepalive", "--no-calibrate")
    assert len({one["peer"] for one in pods.seen}) == 8


def streaming_app(ending: str) -> FastAPI:
    """Events as the service sends them: version 1 of its streaming contract."""
    application = FastAPI()
    calls = iter(range(1000))

    def event(name: str, **data: Any) -> bytes:
        return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()

    @application.post("/v1/generate")
    async def generate(request: Request) -> StreamingResponse:
        assert request.headers["accept"] == "text/event-stream"
        number = next(calls)

        async def events() -> AsyncIterator[bytes]:
            yield event("queued", version=1, task_id="t", position=1)
            yield b": heartbeat\n\n"
            yield event("started", version=1, task_id="t", waited=0.01)
            for step in range(1, 5):
                yield event(
                    "progress", task_id="t", step=step, steps=4, image_index=0, progress=step / 4, eta=None
                )
                await asyncio.sleep(0.005)
            result = event("result", images=["A" * 300_000], cold_start=number == 0, served_by="pod-x")
            match ending:
                case "result":
                    for begin in range(0, len(result), 50_000):  # an image comes in many chunks
                        yield result[begin : begin + 50_000]
                        await asyncio.sleep(0)
                case "error":
                    yield event(
                        "error", status=507, code="out_of_memory", blame="model", detail="Needs 7 GiB."
                    )
                case "busy" if number % 2 == 0:
                    yield event(
                        "error", status=503, code="queue_full", blame="server", detail="", retry_after=0
                    )
                case "busy":
                    yield result
                case "empty":
                    yield event("result", images=[])
                case _:
                    return

        return StreamingResponse(events(), media_type="text/event-stream")

    return application


def test_a_stream_and_its_first_progress(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    run, text = measured(
        run_cli, tmp_path, serve_app(streaming_app("result")), "--stream", "-n", "24", "--no-calibrate"
    )
    assert run.succeeded == 24
    assert run.streaming is not None
    assert run.streaming.first_progress.count == run.streaming.started.count == 24
    assert run.streaming.progress_events == 96
    for one in run.records:
        assert one.first_progress is not None
        assert one.first_progress < one.latency
    assert (run.cold_starts, [pod.name for pod in run.pods]) == (1, ["pod-x"])
    assert "first progress:" in text


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("error", "stream error out_of_memory"), ("cut", "stream without result"), ("empty", "no image")],
)
def test_a_stream_that_ends_badly(
    run_cli: Cli, serve_app: Serve, tmp_path: Path, ending: str, kind: str
) -> None:
    run, _ = measured(
        run_cli,
        tmp_path,
        serve_app(streaming_app(ending)),
        "--stream",
        "-n",
        "6",
        "--no-calibrate",
        expected=3,
    )
    assert {failure.kind: failure.count for failure in run.failures} == {kind: 6}
    if ending == "error":
        assert run.failures[0].example == "Needs 7 GiB."


def test_a_stream_that_asks_to_come_back(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    run, _ = measured(
        run_cli, tmp_path, serve_app(streaming_app("busy")), "--stream", "-n", "5", "-c", "1",
        "--honour-retry-after", "--no-calibrate",
    )  # fmt: skip
    assert (run.succeeded, run.retries) == (5, 5)


def test_a_plain_answer_is_no_stream(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    url = f"{serve_app(Pods(1).app)}/sdapi/v1/txt2img"
    run, _ = measured(run_cli, tmp_path, url, "--stream", "-n", "2", "--no-calibrate", expected=3)
    assert run.failures[0].kind == "no event stream"
    assert "application/json" in run.failures[0].example


def test_thresholds_set_the_exit_code(run_cli: Cli, serve_app: Serve, tmp_path: Path) -> None:
    url = serve_app(Pods(2).app)
    more = ("-n", "50", "--no-calibrate")
    run, text = measured(run_cli, tmp_path, url, *more, "--fail-if", "p95>60", "--fail-if", "errors>0")
    assert [verdict.broken for verdict in run.thresholds] == [False, False]
    run, text = measured(run_cli, tmp_path, url, *more, "--fail-if", "p50>0.000001", expected=1)
    assert "BROKEN  p50>0.000001" in text
    run, _ = measured(run_cli, tmp_path, url, *more, "--fail-if", "pods<3", "--fail-if", "rps<0", expected=1)
    assert [verdict.broken for verdict in run.thresholds] == [True, False]
    refused = run_cli("run", url, "-n", "50", "--fail-if", "p99>60")
    assert refused.exit_code == 2
    assert "needs at least 230 requests" in refused.stderr


def test_failures_count_as_slow_for_thresholds(
    run_cli: Cli, raw_server: Callable[..., str], answer: Callable[..., bytes], tmp_path: Path
) -> None:
    """A service can't pass its P90 by failing what would have been slow."""
    calls = iter(range(1000))

    def every_fifth_fails(connection: Any, _: bytes) -> None:
        connection.sendall(answer(b"", "500 Internal Server Error") if next(calls) % 5 == 0 else answer())

    run, _ = measured(
        run_cli, tmp_path, raw_server(every_fifth_fails), "-n", "50", "-c", "1", "--fail-if", "p90>1h",
        "--no-calibrate", expected=1,
    )  # fmt: skip
    assert run.failed == 10
    assert "beyond every answer" in run.thresholds[0].text
    run, _ = measured(
        run_cli, tmp_path, raw_server(every_fifth_fails), "-n", "50", "-c", "1", "--fail-if", "p75>1h",
        "--no-calibrate",
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_still_reports(
    raw_server: Callable[..., str], answer: Callable[..., bytes], tmp_path: Path, number: int
) -> None:
    calls = iter(range(1000))
    stuck = threading.Event()

    def two_answers_then_silence(connection: Any, _: bytes) -> None:
        call = next(calls)
        if call < 4:
            connection.sendall(answer(X_Served_By="pod-a"))
        elif call == 5:
            stuck.set()

    url = raw_server(two_answers_then_silence)
    path, page = tmp_path / "result.json", tmp_path / "page.html"
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "run", url, "-n", "50", "-c", "2", "-t", "100", "--no-calibrate",
         "--json", str(path), "--html", str(page)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert stuck.wait(120)
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, errors
    assert "Traceback" not in output + errors
    assert "Interrupted: 2 requests still in flight" in output
    assert "[200]\t4 responses" in output
    run = RunResult.read(path)
    assert (run.requests, run.succeeded, run.unfinished, run.interrupted) == (4, 4, 2, True)
    assert page.read_text().endswith("</html>\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("ftp://x",), "no URL"),
        (("http://127.0.0.1", "-t", "0"), "-t must be more than 0"),
        (("http://127.0.0.1", "-t", "inf"), "-t must be more than 0"),
        (("http://127.0.0.1", "--speed", "0"), "--speed"),
        (("http://127.0.0.1", "-d", "x", "-D", "y"), "not both"),
        (("http://127.0.0.1", "-H", "nonsense"), "Name: value"),
        (("http://127.0.0.1", "-a", "nonsense"), "user:password"),
        (("http://127.0.0.1", "-x", "socks5://x"), "HTTP proxy"),
        (("http://127.0.0.1", "--json", "/nowhere/x.json"), "can't be written"),
        (("http://127.0.0.1", "--fail-if", "p95"), "--fail-if"),
    ],
)
def test_bad_usage_is_one_sentence(run_cli: Cli, arguments: tuple[str, ...], complaint: str) -> None:
    result = run_cli("run", *arguments, "--quiet")
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout
