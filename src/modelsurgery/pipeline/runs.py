"""A run directory: everything one run wrote, whole or resumable.

It holds `recipe.resolved.yaml  manifest.json  probe.safetensors  edit.safetensors
samples/*.jsonl  results.json  plan.json  features/*.safetensors  store.sqlite  study.journal`. The
manifest is written last: a directory with a recipe and no manifest was interrupted, and the same
command goes on with it.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save

from modelsurgery.data import demo
from modelsurgery.errors import NoSignalError, SurgeryError
from modelsurgery.evaluation.evaluating import Evaluation
from modelsurgery.files.atomic import (
    refuse_existing,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)
from modelsurgery.files.progress import Progress, silent
from modelsurgery.files.provenance import Provenance
from modelsurgery.model.chat_template import Text
from modelsurgery.model.hidden_states import HiddenStates, extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.pipeline.recipe import Recipe

RECIPE_FILE = "recipe.resolved.yaml"
RUN_MANIFEST = "manifest.json"
EDIT_FILE = "edit.safetensors"
STORE_FILE = "store.sqlite"
STUDY_FILE = "study.journal"
PLAN_FILE = "plan.json"
UNRECORDED = {"out", "storage"}  # of a recipe; a storage's URL may hold a password
PATHS = ("texts", "prompts", "neutral", "data", "layout")  # keys of a recipe with paths alone

# What earlier versions called parts of a recipe, so that their interrupted runs go on.
EARLIER_KEYS = {
    "fit_texts": "train_texts",  # earlier name
    "tuning_prompts": "validation_prompts",  # earlier name
    "tuning": "validation",  # earlier name
    "lab": "demo",  # earlier name
}
EARLIER_VALUES: dict[tuple[str | None, str], str] = {
    ("model", "embedded"): "demo",  # earlier name
    ("judge", "lab"): "demo",  # earlier name
    ("judges", "lab"): "demo",  # earlier name
    ("split", "tuning"): "validation",  # earlier name
}


@dataclass(frozen=True)
class RunDirectory:
    """Where a run keeps what it makes."""

    path: Path  # the directory
    # The time that chat templates are told: that of the recipe, or when the run began.
    now: datetime
    # The recipe as it is written there, with what an earlier session settled.
    recorded: dict[str, Any]

    def settle(self, values: dict[str, Any], plan: dict[str, Any] | None) -> None:
        """Write down what the recipe left open, so that a session that goes on does the same.

        The values are by key of the recipe; the plan that they come from is kept beside it.
        """
        if plan is not None:
            write_json(self.path / PLAN_FILE, plan)
        self.recorded.update(values)
        write_text(self.path / RECIPE_FILE, _yaml(self.recorded))

    def plan(self) -> dict[str, Any] | None:
        """The plan that was settled on, if there is one."""
        path = self.path / PLAN_FILE
        if not path.is_file():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def hidden_states(
        self,
        model: LanguageModel,
        texts: Sequence[Text],
        layers: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> HiddenStates:
        """`extract_hidden_states`, or what it gave before for the same model and texts."""
        ids = model.token_ids(texts)
        key = sha256_json([model.fingerprint(), str(model.model.dtype), ids, list(layers)])
        path = self.path / "features" / f"{key[:32]}.safetensors"
        if path.is_file():
            try:
                cached = load(path.read_bytes())
                return HiddenStates({layer: cached[str(layer)] for layer in layers})
            except (SafetensorError, KeyError):
                path.unlink()  # damaged by something else: made again below
        states = extract_hidden_states(model, texts, layers, progress=progress)
        tensors: dict[str, torch.Tensor] = {str(k): v for k, v in states.by_layer.items()}
        write_bytes(path, save(tensors))
        return states

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write everything that was generated and judged."""
        for name, rows in evaluation.samples.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(self.path / "samples" / f"{name}.jsonl", "".join(lines))

    def finish(self, results: dict[str, Any], *, apart: dict[str, Any] | None = None) -> None:
        """Write the results and, last, the manifest that says that the run is whole.

        Args:
            results: what every run of this recipe gives.
            apart: what differs from run to run, as times: content of `speed.json`.
        """
        write_json(self.path / "results.json", results)
        # The store and the study may be shared with a run that still writes to them.
        files = sorted(
            path
            for path in self.path.rglob("*")
            if path.is_file() and not path.name.startswith((STORE_FILE, STUDY_FILE))
        )
        if apart is not None:
            write_json(self.path / "speed.json", apart)
        write_json(
            self.path / RUN_MANIFEST,
            {
                "provenance": Provenance().to_json(),
                "sha256": {str(path.relative_to(self.path)): sha256_file(path) for path in files},
            },
        )


@contextmanager
def open_run(
    path: Path | None,
    recipe: dict[str, Any],
    *,
    default_name: str,
    keep: bool = False,
    settled: Sequence[str] = (),
) -> Iterator[RunDirectory]:
    """Start a run directory, or go on with one that the same recipe left unfinished.

    A run that fails takes its directory away again, if it made it; one that is interrupted, or has
    made trials, keeps it, to go on from.

    Args:
        path: where; None takes the first `surgery-runs/NAME-N` that is free or that this recipe
            left unfinished.
        recipe: the resolved recipe, as plain values. Where its `now` is None, the time is put in
            its place, or that of the run that is gone on with.
        default_name: NAME.
        keep: keep the directory of a run that fails, too, because what it holds can be used again.
        settled: keys of the recipe that a run may settle itself (`RunDirectory.settle`): where
            they are None, they are those of the run that is gone on with.

    Raises:
        OutputExistsError: a finished run, another recipe's run, or something else is there.
        StorageError: the place cannot be written.
    """
    if path is None:
        names = (Path("surgery-runs") / f"{default_name}-{number}" for number in itertools.count(1))
        path = next(
            name
            for name in names
            if not name.exists() or _unfinished(name, recipe, settled) is not None
        )
    recorded = _unfinished(path, recipe, settled)
    is_resumed = recorded is not None
    if recorded is None:
        refuse_existing(path)
        now = recipe.get("now") or datetime.now().isoformat(timespec="seconds")
        recorded = {**recipe, "now": now}
    made = [place for place in (path, *path.parents) if not place.exists()]
    try:
        write_text(path / RECIPE_FILE, _yaml(recorded))
        yield RunDirectory(path, datetime.fromisoformat(recorded["now"]), recorded)
    except NoSignalError:  # the same texts will say no more the next time
        if not any(path.glob(f"*/{RUN_MANIFEST}")) and (made or is_resumed):
            _take_away(path, made)
        raise
    except SurgeryError:
        is_useful = keep and any(one.name != RECIPE_FILE for one in path.iterdir())
        if made and not is_useful and not (path / STUDY_FILE).exists():
            _take_away(path, made)
        raise


def _take_away(path: Path, made: Sequence[Path]) -> None:
    """Remove a run directory; of those made for it, which are above, what no other run is in."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # it is not empty
        for parent in made[1:]:
            parent.rmdir()


def _unfinished(
    path: Path, recipe: dict[str, Any], settled: Sequence[str]
) -> dict[str, Any] | None:
    """What a run recorded that the same recipe left unfinished, at another time or at this."""
    resolved = path / RECIPE_FILE
    if not resolved.is_file() or (path / RUN_MANIFEST).exists():
        return None
    try:
        recorded = current_recipe(yaml.safe_load(resolved.read_text(encoding="utf-8")))
        datetime.fromisoformat(recorded["now"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return None
    asked = {**recipe, "now": recipe.get("now") or recorded["now"]}
    for key in settled:
        if key in recipe and recipe[key] is None:
            asked[key] = recorded.get(key)
    return recorded if _yaml(recorded) == _yaml(current_recipe(asked)) else None


def recorded_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values."""
    return recipe.model_dump(mode="json", exclude=UNRECORDED)


def recorded_for_others(recipe: Recipe, now: datetime) -> dict[str, Any]:
    """A recipe as plain values that mean the same in any directory, and at any time but `now`."""
    values = recorded_recipe(recipe.model_copy(update={"now": now}))
    for key in ("model", "behavior", *PATHS):
        given = values[key]
        if given is not None and _is_path(key, given):
            values[key] = str(Path(given).resolve())
    values["edits"] = [str(path.resolve()) for path in recipe.edits]
    return values


def _is_path(key: str, given: str) -> bool:
    """Whether a value is a path rather than a name, as whoever reads it decides."""
    if key == "model":
        return not demo.is_demo_model(given) and Path(given).exists()
    return Path(given).is_file() if key == "behavior" else Path(given).exists()


def current_recipe(recorded: Any, key: str | None = None) -> Any:
    """A recorded recipe as this version spells it."""
    if isinstance(recorded, dict):
        names = {name: EARLIER_KEYS.get(name, name) for name in recorded}
        return {names[name]: current_recipe(value, names[name]) for name, value in recorded.items()}
    if isinstance(recorded, list):
        return [current_recipe(one, key) for one in recorded]
    return EARLIER_VALUES.get((key, recorded), recorded) if isinstance(recorded, str) else recorded


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
