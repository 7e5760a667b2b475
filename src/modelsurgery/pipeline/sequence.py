"""Several surgeries in a row: each probe is trained on the model that has the edits before.

The paper calls it characteristics addition. Edits of one behavior act on the others, so all
behaviors are measured together after each step, on held-out prompts, against the untouched model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from modelsurgery.data.behaviors import Behavior, Direction
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit
from modelsurgery.edit.interactions import Conflict, conflicts_of
from modelsurgery.evaluation.evaluating import Evaluation, measure
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.outcome import outcome_of
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.recording import recorded
from modelsurgery.pipeline.results import limits_json
from modelsurgery.pipeline.running import (
    SETTLED,
    judged_behavior,
    loaded_model,
    run_recipe,
    unheard,
)
from modelsurgery.pipeline.runs import (
    EDIT_FILE,
    RECIPE_FILE,
    RUN_MANIFEST,
    STORE_FILE,
    current_recipe,
    open_run,
)
from modelsurgery.pipeline.scheduling import Sizes
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe
from modelsurgery.results import Outcome, SequenceResults, plain
from modelsurgery.search import Budget


@dataclass(frozen=True)
class Stage:
    """The model after some of the edits, against the untouched one.

    Attributes:
        edits: how many edits it has.
        evaluations: of each behavior of the sequence, sampled, in order. The damage is that of the
            first, to whose neutral text and facts the budget applies.
        budget: of the first step.
    """

    edits: int
    evaluations: tuple[Evaluation, ...]
    budget: Budget

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        first = self.evaluations[0]
        facts = first.damage.facts
        return {
            "edits": self.edits,
            "behaviors": [
                {
                    "name": one.behavior.name,
                    **one.first.measured_json(),
                    "uncalled_for": one.uncalled_json(),
                }
                for one in self.evaluations
            ],
            "damage": limits_json(
                self.budget, first.damage.effect, has_uncalled=first.damage.uncalled is not None
            ),
            "neutral_text": first.neutral_json(),
            "facts": None if facts is None else facts.to_json(),
        }


@dataclass(frozen=True)
class SequenceResult:
    """What a sequence of surgeries gave.

    Attributes:
        directory: holds a run directory for each step.
        model: name of the model.
        names: behaviors in order, with the direction of each.
        edits: files of the edits, in order.
        stages: the model after 1, 2, … edits.
        conflicts: what the edits do to each other.
        at_once: whether one edit was made for all behaviors.
    """

    directory: Path
    model: str
    names: tuple[tuple[str, Direction], ...]
    edits: tuple[Path, ...]
    stages: tuple[Stage, ...]
    conflicts: tuple[Conflict, ...]
    at_once: bool = False

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of each behavior with all edits."""
        return tuple(
            outcome_of(name, way, measured.first.whole)
            for (name, way), measured in zip(self.names, self.stages[-1].evaluations, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `results.json`."""
        return plain(self.results())

    def results(self) -> SequenceResults:
        """The same as typed values."""
        return SequenceResults.model_validate(
            {
                "model": self.model,
                "behaviors": [{"name": name, "direction": way} for name, way in self.names],
                "edits": [str(path) for path in self.edits],
                "outcomes": self.outcomes,
                "at_once": self.at_once,
                "stages": [stage.to_json() for stage in self.stages],
                "conflicts": [{**asdict(one), "verdict": one.verdict} for one in self.conflicts],
                "run_directory": str(self.directory),
            }
        )


def run_sequence(
    recipe: SequenceRecipe,
    *,
    progress: Progress = silent,
    announce: Callable[[dict[str, Any]], None] = unheard,
) -> SequenceResult:
    """Perform the surgeries of a recipe in order and measure all behaviors after each.

    Args:
        recipe: with at least one of `behaviors`.
        progress: is told what is going on.
        announce: is told the plan of each step before its work.

    Raises:
        SurgeryError: one of its kinds; steps that are done are kept, and the same recipe goes on
            with the same `out`.
    """
    steps = [_in_time(step, len(recipe.behaviors)) for step in recipe.recipes()]
    described = [directory_name(step) for step in steps]
    values = recorded(recipe)
    name = "-".join([recipe.model_name, *described])
    for step in steps:
        judged_behavior(step)  # refused early, if one cannot be
    with (
        open_run(recipe.out, values, default_name=name, keep=True) as run,
        Store(run.path / STORE_FILE) as store,
    ):
        places = [run.path / f"{number}-{one}" for number, one in enumerate(described, 1)]
        made: list[Path] = []
        for step, place in zip(steps, places, strict=True):
            if not (place / RUN_MANIFEST).exists():
                shared = {"edits": (*recipe.edits, *made), "out": place, "now": run.now}
                run_recipe(step.model_copy(update=shared), progress=progress, announce=announce)
            made.append(place / EDIT_FILE)
        edits = [load_edit(path) for path in (*recipe.edits, *made)]
        first = len(recipe.edits) + 1
        steps = [_as_run(step, place) for step, place in zip(steps, places, strict=True)]
        measured = [judged_behavior(step) for step in steps]
        with progress("load model", 0):
            model = loaded_model(recipe, run.now)
        stages = tuple(
            measure_stage(model, recipe.model_name, edits[:count], measured, steps, store, progress)
            for count in range(first, len(edits) + 1)
        )
        result = SequenceResult(
            run.path,
            recipe.model_name,
            directions_of(steps, [behavior for behavior, _ in measured]),
            tuple(place / EDIT_FILE for place in places),
            stages,
            conflicts_of(edits),
        )
        run.finish(result.to_json())
    return result


def _in_time(step: Recipe, count: int) -> Recipe:
    """A step with its share of the time; the last share is for measuring all behaviors."""
    if step.minutes is None:
        return step
    return step.model_copy(update={"minutes": step.minutes / (count + 1)})


def _as_run(step: Recipe, place: Path) -> Recipe:
    """A step with the sizes that its run settled on."""
    recorded = current_recipe(yaml.safe_load((place / RECIPE_FILE).read_text(encoding="utf-8")))
    return step.model_copy(update={key: recorded.get(key) for key in SETTLED})


def directory_name(step: Recipe) -> str:
    """A step's behavior, as its directory is named."""
    name = step.behavior_name
    if name is None:
        assert step.texts is not None
        return step.texts.stem
    return Path(name).name.removesuffix(".yaml").removesuffix(".yml")


def directions_of(
    steps: Sequence[Recipe], behaviors: Sequence[Behavior]
) -> tuple[tuple[str, Direction], ...]:
    """Name and direction of each behavior."""
    return tuple(
        (behavior.name, step.direction or behavior.described.direction)
        for behavior, step in zip(behaviors, steps, strict=True)
    )


def measure_stage(
    model: LanguageModel,
    name: str,
    edits: Sequence[Edit],
    measured: Sequence[tuple[Behavior, Judge]],
    steps: Sequence[Recipe],
    store: Store,
    progress: Progress,
) -> Stage:
    """All behaviors with some of the edits; the damage is measured once, to the first's texts."""
    found: list[Evaluation] = []
    for (behavior, judge), step in zip(measured, steps, strict=True):
        shared = replace(found[0].damage, uncalled=None) if found else None
        found.append(
            measure(
                model,
                {str(number): edit for number, edit in enumerate(edits, 1)},
                replace(behavior, prompt_sets=behavior.prompt_sets[:1]),
                [judge],
                name=name,
                samples=Sizes.of(step).samples,
                seed=step.seed,
                damage=shared if behavior.test_uncalled is None else None,
                store=store,
                progress=progress,
            )
        )
    first, _ = measured[0]
    budget = steps[0].budget
    return Stage(
        len(edits), tuple(found), budget if first.test_uncalled else budget.without_uncalled()
    )
