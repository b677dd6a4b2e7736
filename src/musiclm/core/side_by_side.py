"""Jobs side by side: each on one thread, results in order, the same for any number of threads."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from musiclm.core.runtime import one_thread

Item = TypeVar("Item")
Made = TypeVar("Made")
_JOBS_A_THREAD = 2


def side_by_side(
    job: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    num_threads: int,
    on_done: Callable[[int], None] | None = None,
) -> list[Made]:
    """What a job makes of each item.

    Threads pay where most of the time is spent in torch or NumPy, which let other threads run.
    Several small jobs at once use two cores better than one job that is split among them, and a
    job on one thread rounds alike however many others there are.

    Args:
        job: Must be safe to run in several threads.
        items: Taken one by one, a few ahead of the job.
        num_threads: Jobs at once.
        on_done: Told how many results there are, in the calling thread.
    """
    made: list[Made] = []
    waiting: deque[Future[Made]] = deque()

    def take() -> None:
        made.append(waiting.popleft().result())
        if on_done is not None:
            on_done(len(made))

    with (
        one_thread(),
        ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for item in items:
            waiting.append(pool.submit(job, item))
            if len(waiting) >= _JOBS_A_THREAD * num_threads:
                take()
        while waiting:
            take()
    return made
