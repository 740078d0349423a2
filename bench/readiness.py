"""How promptly /readyz answers while images are made and encoded. Goal: p99 under 50 ms on two cores.

Asks every 50 ms, as an aggressive Knative readiness probe does, on a fresh connection each time, while 512×512 images
are made back to back and a 1024×1024 one is encoded now and then. The last line is one JSON object.

    python -m bench.readiness [--seconds 40]
"""

import argparse
import json
import statistics
import threading
import time

import httpx

from bench.process import running


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40.0)
    chosen = parser.parse_args()
    with running() as service:
        done = threading.Event()
        made = 0

        def make() -> None:
            nonlocal made
            with httpx.Client(base_url=service.url, timeout=300) as client:
                while not done.is_set():
                    side = 1024 if made % 4 == 3 else 512
                    body = {"prompt": "pretty dog", "steps": 4, "width": side, "height": side}
                    client.post("/sdapi/v1/txt2img", json=body).raise_for_status()
                    made += 1

        def ask(seconds: float) -> list[float]:
            times = []
            # One client, since making one costs more than a probe; no kept connection, as a probe has none either.
            fresh = httpx.Limits(max_keepalive_connections=0)
            with httpx.Client(base_url=service.url, timeout=10, limits=fresh) as client:
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    began = time.perf_counter()
                    client.get("/readyz").raise_for_status()
                    times.append(time.perf_counter() - began)
                    time.sleep(max(0.0, 0.05 - times[-1]))
            return times

        ask(1.0)
        idle = ask(chosen.seconds / 4)
        maker = threading.Thread(target=make)
        maker.start()
        busy = ask(chosen.seconds)
        done.set()
        maker.join()
    print(
        json.dumps(
            {
                "readyz_p99_ms_while_generating": round(statistics.quantiles(busy, n=100)[98] * 1000, 2),
                "readyz_p50_ms_while_generating": round(statistics.median(busy) * 1000, 2),
                "readyz_max_ms_while_generating": round(max(busy) * 1000, 2),
                "readyz_p99_ms_idle": round(statistics.quantiles(idle, n=100)[98] * 1000, 2),
                "probes": len(busy),
                "images": made,
            }
        )
    )


if __name__ == "__main__":
    main()
