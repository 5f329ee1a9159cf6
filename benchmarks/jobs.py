"""Runs the jobs of a benchmark in several processes: longest first, each as soon as its input is available."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Key = tuple[str, int]
"""Name of the measurement, and its seed."""

_PATIENCE_SECONDS = 5.0
"""For a process to end by SIGTERM before it is killed: jobs have no state worth saving."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a function that a new process can import."""

    name: str
    """Shown when it is done."""
    run: Callable[..., Any]
    """Called with the argument, and with the result of `needs`, if set."""
    argument: Any
    needs: Key | None = None
    """Key of the job whose result it needs."""
    cost: float = 1.0
    """Relative duration, for the order."""


def run_jobs(jobs: Mapping[Key, Job], processes: int) -> dict[Key, Any]:
    """Runs all jobs; returns the result of each by its key. Prints a line to standard error for each finished job."""
    started = time.monotonic()
    done: dict[Key, Any] = {}
    waiting = sorted(jobs, key=lambda key: -jobs[key].cost)

    def tell(key: Key) -> None:
        seconds = time.monotonic() - started
        print(f"{len(done)}/{len(jobs)} {jobs[key].name} is done after {seconds:.0f} s", file=sys.stderr, flush=True)

    if processes <= 1:
        while waiting:
            key = _next(waiting, jobs, done)
            assert key is not None, "jobs need one another"
            done[key] = jobs[key].run(*_arguments(jobs[key], done))
            tell(key)
        return done
    # Spawned, not forked: torch may deadlock on locks held by threads of the parent.
    context = multiprocessing.get_context("spawn")
    running: dict[Future[Any], Key] = {}
    with _one_thread_each(), ProcessPoolExecutor(processes, mp_context=context) as pool, _ended_with_this_one():
        while waiting or running:
            while len(running) < processes and (key := _next(waiting, jobs, done)) is not None:
                with _ignoring_ctrl_c():
                    running[pool.submit(jobs[key].run, *_arguments(jobs[key], done))] = key
            assert running, "jobs need one another"
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                done[key] = future.result()
                tell(key)
    return done


def _next(waiting: list[Key], jobs: Mapping[Key, Job], done: Mapping[Key, Any]) -> Key | None:
    """Removes the longest job that can start from `waiting` and returns it."""
    key = next((key for key in waiting if jobs[key].needs is None or jobs[key].needs in done), None)
    if key is not None:
        waiting.remove(key)
    return key


def _arguments(job: Job, done: Mapping[Key, Any]) -> Sequence[Any]:
    return (job.argument,) if job.needs is None else (job.argument, done[job.needs])


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C; this one stops them. Otherwise each would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ended_with_this_one() -> Iterator[None]:
    """On any error, stops the other processes instead of waiting for them."""
    try:
        yield
    except BaseException:
        children = multiprocessing.active_children()
        for process in children:
            process.terminate()
        for process in children:
            process.join(_PATIENCE_SECONDS)
            process.kill()
        raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread each: more threads than cores only wait for each other."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
