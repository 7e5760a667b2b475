"""What all tests use.

Nothing heavy is imported before a test needs it: pytest-xdist's first process, for which the others
wait, reads this file too.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from groups import order_groups
from memory_files import write_to_memory

if TYPE_CHECKING:
    from searched import Searched

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Of tests and of every command that they start: with tiny models a second thread only waits, and
# processes with two threads each wait for each other. torch reads it when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"
write_to_memory()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file run in one process, unless they are marked to be with others, or alone."""
    order_groups(items)


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and models beside the checkout; tests that need them skip where they are not."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real data and small real models), which is not there")
    return SHARED


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama in f32; read only."""
    from tiny import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def demo_path() -> Path:
    from modelsurgery import demo_model_path

    return demo_model_path()


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> "Searched":
    """A search on the demo model; tests that look at it are of the group "search"."""
    from searched import perform_search

    return perform_search(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: what was fetched to SURGERY_TEST_SMOLLM2, else to the usual place.

    The first use downloads 93 MB into the user's cache; tests skip where that cannot be done.
    Tests that use it are of the group "smollm2".
    """
    from modelsurgery.errors import FetchError
    from modelsurgery.model.fetching import fetch_model

    given = os.environ.get("SURGERY_TEST_SMOLLM2")
    if given:
        return Path(given)
    try:
        return fetch_model("smollm2").directory
    except FetchError as error:
        pytest.skip(f"needs SmolLM2-135M-Instruct: {error}")
