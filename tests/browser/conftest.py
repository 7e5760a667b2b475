"""A real browser, and run directories for it to look at."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from run_directories import enlarged

from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.running import run_recipe
from modelsurgery.report.html import write_report

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
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a search, so that its results have every part."""
    recipe = Recipe(
        trials=2, prompt_count=40, samples=1, max_capability_drop=50, max_perplexity_rise=0.5,
        out=tmp_path_factory.mktemp("report") / "run",
    )  # fmt: skip
    return run_recipe(recipe).directory


@pytest.fixture(scope="session")
def report(finished_run: Path) -> Path:
    """The report of that run."""
    return write_report(finished_run)


@pytest.fixture(scope="session")
def large_report(finished_run: Path) -> Path:
    """The report of a run of 1,200 prompts with long answers, some of them hostile."""
    return write_report(enlarged(finished_run, finished_run.with_name("large"), prompts=1200))
