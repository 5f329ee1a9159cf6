"""How many threads numpy's linear algebra uses.

OpenBLAS takes a thread a core, which wait for each other by spinning. On vectors as small as a student's they gain
nothing and cost computing.
"""

import numpy as np  # noqa: F401 — only a BLAS that is loaded can be told
from threadpoolctl import threadpool_limits


def limit_blas_threads(threads: int) -> None:
    """From now on, in this process, whatever was set before."""
    threadpool_limits(threads, user_api="blas")
