"""Parts of one operation on several threads, for loops that do not hold the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch


def in_parallel(work: Callable[[int], None], parts: int) -> None:
    """Call `work` with each number below `parts`, on as many threads as torch uses; return when all is done.

    Which thread does which part is left to chance, so parts must not depend on each other.
    """
    left = iter(range(parts))

    def work_on() -> None:
        for part in left:
            work(part)

    others = min(torch.get_num_threads(), parts) - 1
    futures = [_pool(os.getpid(), others).submit(work_on) for _ in range(others)] if others > 0 else []
    work_on()
    for future in futures:
        future.result()


@cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    # A process that was forked has the pool, and none of its threads.
    return ThreadPoolExecutor(threads, "horen-route", initializer=_leave_core, initargs=(_cores(),))


def _cores() -> set[int]:
    """Return the cores that any thread of this process may use: torch's are bound to one each, and so is the caller."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cores = os.sched_getaffinity(0)
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                cores |= os.sched_getaffinity(int(task.name))
    return cores


def _leave_core(cores: set[int]) -> None:
    with suppress(OSError):
        if cores:
            os.sched_setaffinity(0, cores)
