import pytest
from full_run import FullRun, perform


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> FullRun:
    """A surgery at full size; tests that look at it are of the group "full run"."""
    return perform(tmp_path_factory.mktemp("full run"))
