"""Work in threads that ends with what asked for it: many requests at a time, or one item ahead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

CONNECTIONS = 32
_END = object()

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    most: int = CONNECTIONS,
    ended: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Results in order; after an error or Ctrl-C no further item is begun, and none is under way.

    One item, or `most` = 1, needs no thread. `ended` is called after an error or Ctrl-C, before
    what is under way is waited for.
    """
    if most == 1 or len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(most, len(items))) as pool:
        coming = [pool.submit(work, item) for item in items]
        try:
            for one in wait(coming, return_when=FIRST_EXCEPTION).done:
                one.result()
            return [one.result() for one in coming]
        except BaseException:
            ended()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


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
