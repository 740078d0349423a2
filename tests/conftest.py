"""Before any test imports torch: how many threads it takes, and that they wait without spinning.

Workers of xdist share the cores; so do the services that tests start, which inherit the variables.
"""

import os

from service import threads

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads.available() // _WORKERS)))
threads.prepare()
