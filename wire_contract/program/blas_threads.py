"""How many threads numpy's linear algebra uses.

OpenBLAS starts one thread per core, which wait for each other in busy loops. For vectors as small as a student's they
gain nothing and cost CPU time.
"""

import numpy as np  # noqa: F401 — the limit applies only to a BLAS that is loaded
from threadpoolctl import threadpool_limits


def limit_blas_threads(threads: int) -> None:
    """Limits this process from now on, whatever was set before."""
    threadpool_limits(threads, user_api="blas")
