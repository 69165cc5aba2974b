"""Work of several threads, handed on in order, with no more of it under way than a few items."""

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
    """Results in the order of `items`, worked out by threads; close it to stop early.

    Args:
        work: called once per item, from several threads.
        items: taken from as results are asked for.
        threads: at work.
        ahead: items begun and not yet handed on; an interruption waits for those under way only.
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
