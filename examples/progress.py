"""Progress and result on one response: python examples/progress.py [http://127.0.0.1:7860] [file]."""

import base64
import json
import sys
from pathlib import Path

import httpx


def main(server: str = "http://127.0.0.1:7860", file: str = "dog.png") -> None:
    """Print each event; write the picture."""
    body = {"prompt": "pretty dog", "steps": 20}
    with httpx.stream(
        "POST", f"{server}/v1/generate", json=body, headers={"Accept": "text/event-stream"}, timeout=600
    ) as answer:
        answer.raise_for_status()
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if kind == "progress":
                    print(f"{data['progress']:4.0%}  {data['stage']}")
                elif kind == "result":
                    Path(file).write_bytes(base64.b64decode(data["images"][0]))
                    print(f"{file} (seed {data['seeds'][0]}, by {data['served_by']})")
                elif kind == "error":
                    sys.exit(data["detail"])


if __name__ == "__main__":
    main(*sys.argv[1:])
