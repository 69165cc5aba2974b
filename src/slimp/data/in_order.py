"""Work of several threads, returned in order, with a limit on unfinished work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with the number of items done and the number in all."""
THREADS = min(8, os.cpu_count() or 1)


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 2 * THREADS
) -> Generator[Result, None, None]:
    """Results in the order of `items`, computed by threads; close it to stop early.

    At most `ahead` items are started and not yet returned.
    """
    pending = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        begun = deque(pool.submit(work, item) for item in islice(pending, ahead))
        try:
            while begun:
                yield begun.popleft().result()
                begun.extend(pool.submit(work, item) for item in islice(pending, 1))
        finally:
            pool.shutdown(cancel_futures=True)
