"""Making the next item while the one before it is used: a second core for long pipelines."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def worked_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, each made in a thread while the last one is used.

    Two items are in memory at a time. An error in making one is raised where it would be used.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, remaining, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, remaining, _END)
            yield item  # type: ignore[misc]
