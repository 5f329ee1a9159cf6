"""`make fuzz`: many damaged payloads on all cores. The seed is printed; the same seed gives the same payloads."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.fuzz.batches import BATCH_PAYLOADS, Finding, run_batch
from tests.fuzz.target import Seen


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--payloads", type=int, default=1_000_000, help="how many, rounded up to whole batches")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to have the same payloads again")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="one a core unless told otherwise")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    batches = -(-arguments.payloads // BATCH_PAYLOADS)
    print(f"fuzz: {batches * BATCH_PAYLOADS} payloads, seed {seed}, {arguments.processes} processes", flush=True)
    began, total = time.monotonic(), Seen()
    # An executor rather than a Pool: a worker that dies, or cannot begin, is an error here and not a wait for ever.
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(partial(run_batch, seed=seed), range(batches)):
            if isinstance(result, Finding):
                print(result, flush=True)
                pool.shutdown(wait=False, cancel_futures=True)
                return 1
            total.add(result)
    seconds = time.monotonic() - began
    print(
        f"fuzz: nothing found in {seconds:.0f} s, {total.payloads / seconds:.0f} payloads a second. "
        f"{total.decoded} were messages, {total.values} of them good for weights, {total.refused} refused; "
        f"slowest {total.seconds_max:.3f} s, memory up to {total.memory_share_max:.0%} of what is allowed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
