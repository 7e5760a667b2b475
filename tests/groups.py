"""Groups of tests that run in one process each (pytest-xdist's `--dist loadgroup`)."""

import pytest


def group_of(item: pytest.Item) -> str:
    """The group of a test: what it is marked with, else its file."""
    mark = item.get_closest_marker("xdist_group")
    return str(item.location[0] if mark is None else mark.args[0])


def order_groups(items: list[pytest.Item]) -> None:
    """Mark tests with their groups, and put groups with slow tests first.

    Groups are handed out in this order, so that no process is left with a long one at the end.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group_of(item)))
    slow = {group_of(item) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: group_of(item) not in slow)
