"""Reads what W&B wrote into an offline run: its log of records, in LevelDB's log format."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as records

_BLOCK = 32_768
_HEADER = struct.Struct("<IHB")  # checksum, size, type
_FULL, _LAST = 1, 4


@dataclass
class OfflineRun:
    """What one run logged."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    sweep_id: str = ""
    exit_code: int | None = None
    preempting: bool = False

    def file(self, path: str) -> Path:
        """A file that the run would upload."""
        return self.folder / "files" / path


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Every offline run below ``WANDB_DIR``."""
    return [_read(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]


def _read(folder: Path) -> OfflineRun:
    run = OfflineRun(folder)
    for record in _records(next(folder.glob("*.wandb")).read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                run.run_id, run.sweep_id = record.run.run_id, record.run.sweep_id
                run.config |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
            case "config":
                for one in record.config.update:
                    run.config[one.key or one.nested_key[0]] = json.loads(one.value_json)
            case "history":
                step: dict[str, Any] = {}
                for item in record.history.item:
                    _put(step, [item.key] if item.key else list(item.nested_key), json.loads(item.value_json))
                run.history.append(step)
            case "summary":
                for one in record.summary.update:
                    _put(
                        run.summary,
                        [one.key] if one.key else list(one.nested_key),
                        json.loads(one.value_json),
                    )
            case "artifact":
                run.artifacts[record.artifact.type] = record.artifact
            case "preempting":
                run.preempting = True
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _put(into: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        into = into.setdefault(name, {})
    into[path[-1]] = value


def _records(raw: bytes) -> Iterator[Any]:
    position, parts = 7, b""
    while position + _HEADER.size <= len(raw):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER.size:
            position += left
            continue
        _, size, kind = _HEADER.unpack_from(raw, position)
        position += _HEADER.size
        parts += raw[position : position + size]
        position += size
        if kind in (_FULL, _LAST):
            record = records.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            parts = b""
            yield record
