"""Stand-ins, on 127.0.0.1, for what no test can have: W&B's server and a cluster's API server.

They answer what the real clients (``wandb agent``, ``wandb.controller``, ``wandb launch-agent``) ask, keep what they
are sent, and know nothing else. What they cannot show is how W&B's server fills in a queue's template variables, and
what a cluster makes of a Job.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class StandIn:
    """A server whose answers come from :meth:`answer`; ``asked`` has the requests in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        raise NotImplementedError


@contextmanager
def running(standin: StandIn) -> Iterator[None]:
    """Serve ``standin`` while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(size)
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                body = None
            parts = urlsplit(self.path)
            with standin.lock:
                standin.asked.append((self.command, self.path, body))
                status, said = standin.answer(self.command, parts.path, parse_qs(parts.query), body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Wandb(StandIn):
    """W&B's GraphQL: an answer for each operation that the clients name."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: list[str] = []
        self.operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"Viewer": self._viewer}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """The data of one operation."""
        if path != "/graphql":
            return 404, {}  # telemetry
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", body["query"])
        name = found[1] if found else ""
        if name not in self.operations:
            self.unknown.append(name or body["query"])
            return 200, {"data": {}}
        return 200, {"data": self.operations[name](body.get("variables") or {})}

    @staticmethod
    def _viewer(variables: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": "team"}}]}
        return {
            "viewer": {
                "id": "u",
                "entity": "team",
                "username": "u",
                "email": "",
                "flags": "{}",
                "teams": teams,
            }
        }


class Sweeps(Wandb):
    """What W&B's server does for a sweep with a local controller.

    It turns what the controller schedules into runs, hands them to the agent, and tells the controller how they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = ""
        self.state = "PENDING"
        self.controller = "{}"
        self.scheduled: list[dict[str, str]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self._commands: list[dict[str, Any]] = []
        self.operations |= {
            "UpsertSweep": self._upsert,
            "SweepWithRuns": self._sweep,
            "CreateAgent": lambda variables: {"createAgent": {"agent": {"id": "agent"}}},
            "Heartbeat": self._heartbeat,
        }

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.config = variables["config"]
        if variables.get("controller"):
            self.controller = variables["controller"]
            self._schedule(json.loads(self.controller).get("schedule", []))
        project = {"id": "p", "name": "pictures", "entity": {"id": "t", "name": "team"}}
        return {
            "upsertSweep": {"sweep": {"name": "sweep", "project": project}, "configValidationWarnings": []}
        }

    def _schedule(self, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if entry["id"] in {one["id"] for one in self.scheduled}:
                continue
            arguments = entry["data"]["args"]
            if arguments is None:
                self.state = "FINISHED"
                self._commands.append({"type": "exit"})
                return
            run = f"run{len(self.runs)}"
            self.state = "RUNNING"
            self.scheduled.append({"id": entry["id"], "runid": run})
            self.runs[run] = {"state": "pending", "config": arguments}
            self._commands.append({"type": "run", "run_id": run, "args": arguments, "program": "unused"})

    def _sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"node": {
                "name": name, "state": run["state"], "config": json.dumps(run["config"]), "exitcode": 0,
                "heartbeatAt": None, "shouldStop": False, "failed": False, "stopped": False,
                "running": run["state"] == "running", "summaryMetrics": "{}", "sampledHistory": [],
            }}
            for name, run in self.runs.items()
        ]  # fmt: skip
        sweep = {
            "id": "sweep-id", "name": "sweep", "method": "grid", "state": self.state, "description": "",
            "config": self.config, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": None, "updatedAt": None,
            "earlyStopJobRunning": False, "bestLoss": None, "controller": self.controller,
            "scheduler": json.dumps({"scheduled": self.scheduled}), "runs": {"edges": nodes},
        }  # fmt: skip
        return {"project": {"sweep": sweep}}

    def _heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        alive = json.loads(variables["runState"])
        for name, run in self.runs.items():
            if run["state"] == "running" and name not in alive:
                run["state"] = "finished"
        # One at a time: the next when the one before has ended.
        commands, self._commands = ([], self._commands) if alive else (self._commands[:1], self._commands[1:])
        for command in commands:
            if command["type"] == "run":
                self.runs[command["run_id"]]["state"] = "running"
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}


class Queue(Wandb):
    """What W&B's server does for a launch agent: one queue with one item, and the state of its run."""

    def __init__(self, item: dict[str, Any]) -> None:
        super().__init__()
        self._items = [{"runQueueItemId": "item", "runSpec": item}]
        self.acknowledged: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self.ended = False
        agent = {
            "id": "agent", "name": "agent", "runQueues": ["q"], "hostname": "h", "agentStatus": "", "heartbeatAt": None,
        }  # fmt: skip
        queue = {"id": "q", "name": "diffusion", "createdBy": "u", "access": "USER"}
        self.operations |= {
            "ProjectRunQueues": lambda variables: {"project": {"runQueues": [queue]}},
            "createLaunchAgent": lambda variables: {"createLaunchAgent": {"launchAgentId": "agent"}},
            "LaunchAgent": lambda variables: {"launchAgent": {**agent, "stopPolling": self.ended}},
            "EntityIsTeam": lambda variables: {"entity": {"id": "t", "isTeam": True}},
            "updateLaunchAgent": lambda variables: {"updateLaunchAgent": {"success": True}},
            "popFromRunQueue": lambda variables: {
                "popFromRunQueue": self._items.pop() if self._items else None
            },
            "ackRunQueueItem": self._acknowledge,
            "failRunQueueItem": self._fail,
            "updateRunQueueItemWarning": lambda variables: {"updateRunQueueItemWarning": {"success": True}},
            "RunState": self._state,
            "RunStoppedStatus": lambda variables: {"project": {"run": {"stopped": False}}},
        }

    def _state(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Asked when the agent saw the Job's end: whoever watches it presses the button then."""
        self.ended = True
        return {"project": {"run": {"state": "finished"}}}

    def _acknowledge(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.acknowledged.append(variables)
        return {"ackRunQueueItem": {"success": True}}

    def _fail(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.failed.append(variables)
        self.ended = True
        return {"failRunQueueItem": {"success": True}}


class Cluster(StandIn):
    """A cluster's API server for one namespace: it takes Jobs and Secrets, and says that the Job succeeded.

    ``calls`` has every (verb, group, resource) that was asked for, as a Role would name them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[tuple[str, str, str]] = set()
        self.elsewhere: list[str] = []
        self.made: dict[str, list[dict[str, Any]]] = {"jobs": [], "secrets": []}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Kubernetes' REST paths: /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE[/NAME[/SUBRESOURCE]]."""
        found = re.fullmatch(
            r"/(?:api|apis/([^/]+))/v1/namespaces/diffusion/(\w+)(?:/([^/]+))?(?:/(\w+))?", path
        )
        if found is None:
            self.elsewhere.append(f"{method} {path}")
            return 404, {"kind": "Status", "code": 404}
        group, resource, name, below = found[1] or "", found[2], found[3], found[4]
        watched = query.get("watch", ["false"])[0].lower() in ("true", "1")
        read = "watch" if watched else "get" if name else "list"
        verb = {"GET": read, "POST": "create", "DELETE": "delete", "PUT": "update", "PATCH": "patch"}[method]
        self.calls.add((verb, group, f"{resource}/{below}" if below else resource))
        if method == "POST":
            body["metadata"].setdefault("name", "launched")
            body["metadata"] |= {"uid": "1", "resourceVersion": "1"}
            self.made[resource].append(body)
            return 201, body
        if watched:
            return 200, self._event() if resource == "jobs" and self.made["jobs"] else {
                "type": "BOOKMARK",
                "object": {},
            }
        kinds = {"jobs": "JobList", "pods": "PodList", "secrets": "SecretList"}
        if name is None:
            listed = {"metadata": {"resourceVersion": "1"}, "items": []}
            return 200, {"kind": kinds[resource], "apiVersion": f"{group}/v1".lstrip("/"), **listed}
        return 200, self.made[resource][0] if self.made.get(resource) else {
            "kind": "Status",
            "status": "Success",
        }

    def _event(self) -> dict[str, Any]:
        condition = {"type": "Complete", "status": "True"}
        job = {**self.made["jobs"][0], "status": {"succeeded": 1, "conditions": [condition]}}
        return {"type": "MODIFIED", "object": job}
