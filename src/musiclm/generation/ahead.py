"""Running an iterator ahead in a thread, so that making and using overlap."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item], depth: int = 8) -> Generator[Item, None, None]:
    """The same items (none of them None), up to `depth` of them made before they are asked for.

    An error comes where the item would have come. When the consumer stops early, so does the
    thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item
    finally:
        # Without waiting: a generator that is left half-used ends in the garbage collector, which
        # may have interrupted the start of another thread and holds its lock.
        pool.shutdown(wait=False, cancel_futures=True)
