"""Tests that share something expensive run in one process, which pytest-xdist has to be told."""

import pytest

from groups import group_of


@pytest.fixture
def nodeid(request: pytest.FixtureRequest) -> str:
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("needs several processes, as in `make test`")
    nodeid: str = request.node.nodeid
    return nodeid


@pytest.mark.xdist_group("a group")
def test_a_group_reaches_the_scheduler(nodeid: str) -> None:
    assert nodeid.endswith("@a group")


def test_groups_with_slow_tests_come_first(request: pytest.FixtureRequest) -> None:
    is_slow: dict[str, bool] = {}
    for item in request.session.items:
        group = group_of(item)
        is_slow[group] = is_slow.get(group, False) or item.get_closest_marker("slow") is not None
    assert list(is_slow.values()) == sorted(is_slow.values(), reverse=True)


def test_a_file_is_a_group(nodeid: str) -> None:
    assert nodeid.endswith("@tests/unit/test_groups.py")
