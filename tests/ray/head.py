"""A small Ray cluster, for as long as standard input is open: ``python -m tests.ray.head TEMP METRICS_PORT``."""

import json
import sys
import warnings
from typing import Any

import ray


def main() -> None:
    """Start, say where it is, wait, stop."""
    warnings.simplefilter("ignore")
    temp, port = sys.argv[1:]
    context: Any = ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        _temp_dir=temp,
        _metrics_export_port=int(port),
        log_to_driver=False,
    )
    print(json.dumps({"address": context.address_info["gcs_address"]}), flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
