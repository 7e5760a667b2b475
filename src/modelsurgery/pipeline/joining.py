"""`surgery worker`: a process that makes trials of a search that another one began."""

import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelsurgery.edit.edit_file import load_edit
from modelsurgery.evaluation.store import Store
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress
from modelsurgery.files.schema import parse
from modelsurgery.model.stacking import stacked
from modelsurgery.pipeline.choosing import Choosing
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.running import judged_behavior, loaded_model
from modelsurgery.pipeline.runs import STORE_FILE, RunDirectory
from modelsurgery.search.sharing import find_search
from modelsurgery.search.storages import Location


def join_search(
    storage: Location,
    *,
    study: str | None,
    wait_seconds: float,
    instead: Mapping[str, Any],
    progress: Progress,
) -> tuple[str, int]:
    """Make trials of a search until enough were made by all processes, or no more are wanted.

    The recipe comes from the attributes of the study, the sums over texts from the run directory
    of the process that began it, where that can be read here; else they are made again.

    Args:
        storage: journal file or URL, as for `surgery tune --storage`.
        study: its name, or how that begins, where the storage has several searches.
        wait_seconds: how long to wait for a search to begin.
        instead: keys of the recipe that are different here, as the place of the model.
        progress: is told what is going on.

    Returns:
        Name of the study, and how many trials were made here.

    Raises:
        RecipeError: model, texts or something else that trials depend on is not the same here.
        StorageError: there is no such search, or the storage cannot be used.
    """
    with progress("wait for a search", 0):
        shared = find_search(storage, study, wait_seconds=wait_seconds)
    if shared.is_over:
        return shared.study, 0
    recipe = parse({**shared.recipe, **instead}, Recipe, f"study {shared.study}")
    assert recipe.now is not None
    before = [load_edit(path) for path in recipe.edits]
    with (
        tempfile.TemporaryDirectory(prefix="surgery-worker-") as own,
        # The store is SQLite, which shared disks do not serve well.
        Store(Path(own) / STORE_FILE) as store,
        stacked(loaded_model(recipe, recipe.now, progress), before) as model,
    ):
        directory = Path(shared.directory)
        is_here = directory.is_dir() and os.access(directory, os.R_OK | os.W_OK)
        run = RunDirectory(directory if is_here else Path(own), recipe.now, {})
        behavior, judge = judged_behavior(recipe, progress)
        choosing = Choosing(recipe, run, model, behavior, judge, store, progress)
        made = choosing.join(shared, storage, recipe.seed + _process_number())
    return shared.study, made


def _process_number() -> int:
    """A number that no other process of a search has, for proposals other than theirs."""
    return int(sha256_json([socket.gethostname(), os.getpid()])[:8], 16)
