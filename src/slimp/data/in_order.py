"""Work of several threads, returned in order, with a limit on unfinished work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Results in the order of `items`, computed by threads; close it to stop early.

    Args:
        work: called once per item, from several threads.
        items: taken as results are asked for.
        threads: number of threads.
        ahead: items started and not yet returned, at most.
    """
    pending = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        begun = deque(pool.submit(work, item) for item in islice(pending, ahead))
        try:
            while begun:
                yield begun.popleft().result()
                begun.extend(pool.submit(work, item) for item in islice(pending, 1))
        finally:
            pool.shutdown(cancel_futures=True)
