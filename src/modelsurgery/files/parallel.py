"""Many requests at a time, and none of them left under way."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

CONNECTIONS = 32

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
