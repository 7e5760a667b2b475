"""A real browser, and run directories for it to look at."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from run_directories import enlarged

from modelsurgery.report.html import write_report
from searched import Searched

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; tests that need it skip where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs chromium, which is not there; .ci/browser installs it")
    with sync_playwright() as playwright:
        # Its own sandbox refuses to start for root, as which containers of CI run.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def report(searched: Searched) -> Path:
    """The report of a run with a search, so that its results have every part."""
    return write_report(searched.directory)


@pytest.fixture(scope="session")
def large_report(searched: Searched) -> Path:
    """The report of a run of 1,200 prompts with long answers, some of them hostile."""
    run = searched.directory
    return write_report(enlarged(run, run.with_name("large"), prompts=1200))
