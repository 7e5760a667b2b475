"""Edits of a model for several behaviors: one after the other, or one for all of them.

In a row, each edit is made on the model that has the ones before; the paper calls it
characteristics addition. Edits of one behavior act on the others, so all behaviors are measured
together after each edit, on held-out prompts, against the untouched model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from modelsurgery.data.behaviors import Behavior, Direction
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.interactions import conflicts_of
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.evaluating import Evaluation, measure
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.outcome import outcome_of
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.stacking import stacked
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.run_result import limits_json
from modelsurgery.pipeline.running import (
    judged_behavior,
    loaded_model,
    run_recipe,
    settled,
    unheard,
)
from modelsurgery.pipeline.runs import (
    EDIT_FILE,
    RECIPE_FILE,
    RUN_MANIFEST,
    STORE_FILE,
    RunDirectory,
    current_recipe,
    open_run,
    recorded_recipe,
)
from modelsurgery.pipeline.scheduling import SETTLED, Sizes
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe
from modelsurgery.results import SequenceResults, plain
from modelsurgery.search import Budget
from modelsurgery.search.edit_fitting import TEST_SHARE, Given
from modelsurgery.search.fitting import some_of_each
from modelsurgery.search.targets import targets_of

Announce = Callable[[dict[str, Any]], None]


def run_sequence(
    recipe: SequenceRecipe, *, progress: Progress = silent, announce: Announce = unheard
) -> SequenceResults:
    """Make the edits of a recipe, and measure all behaviors after each.

    Args:
        recipe: with at least one of `behaviors`, two for one edit at once.
        progress: is told what is going on.
        announce: is told the plan of each edit before its work.

    Raises:
        SurgeryError: one of its kinds; steps that are done are kept, and the same recipe goes on
            with the same `out`.
    """
    steps, is_one = recipe.recipes(), recipe.at_once
    behaviors = [judged_behavior(step)[0] for step in steps]  # refused early, if one cannot be
    names = [recipe.model_name, *(directory_name(step) for step in steps)]
    with (
        open_run(
            recipe.out,
            recorded_recipe(recipe),
            default_name=("-and-" if is_one else "-").join(names),
            keep=not is_one,
            settled=SETTLED if is_one else (),
        ) as run,
        Store(run.path / STORE_FILE) as store,
    ):
        if is_one:
            model = loaded_model(recipe, run.now, progress)
            steps = _make_one(recipe, steps, behaviors, model, run, progress, announce)
            paths = [run.path / EDIT_FILE]
        else:
            steps, paths = _make_in_a_row(recipe, steps, run, progress, announce)
            model = loaded_model(recipe, run.now, progress)
        judged = [judged_behavior(step) for step in steps]
        edits = [load_edit(path) for path in (*recipe.edits, *paths)]
        stages = [
            _measured(model, recipe.model_name, edits[:count], judged, steps, store, progress)
            for count in range(len(recipe.edits) + 1, len(edits) + 1)
        ]
        ways = _directions(steps, [behavior for behavior, _ in judged])
        conflicts = () if is_one else conflicts_of(edits)
        results = SequenceResults.model_validate(
            {
                "model": recipe.model_name,
                "behaviors": [{"name": name, "direction": way} for name, way in ways],
                "edits": [str(path) for path in paths],
                "outcomes": [
                    outcome_of(name, way, one.first.whole)
                    for (name, way), one in zip(ways, stages[-1], strict=True)
                ],
                "at_once": is_one,
                "stages": [_stage_json(stage, steps[0].budget) for stage in stages],
                "conflicts": [{**asdict(one), "verdict": one.verdict} for one in conflicts],
                "run_directory": str(run.path),
            }
        )
        run.finish(plain(results))
    return results


def _make_in_a_row(
    recipe: SequenceRecipe,
    steps: Sequence[Recipe],
    run: RunDirectory,
    progress: Progress,
    announce: Announce,
) -> tuple[list[Recipe], list[Path]]:
    """A run for each step; the steps with the sizes that their runs settled on, and their edits."""
    sized: list[Recipe] = []
    made: list[Path] = []
    for number, step in enumerate(steps, 1):
        place = run.path / f"{number}-{directory_name(step)}"
        if not (place / RUN_MANIFEST).exists():
            own = {"edits": (*recipe.edits, *made), "out": place, "now": run.now}
            in_time = _in_time(step, len(steps)).model_copy(update=own)
            run_recipe(in_time, progress=progress, announce=announce)
        kept = current_recipe(yaml.safe_load((place / RECIPE_FILE).read_text(encoding="utf-8")))
        sized.append(step.model_copy(update={key: kept.get(key) for key in SETTLED}))
        made.append(place / EDIT_FILE)
    return sized, made


def _in_time(step: Recipe, count: int) -> Recipe:
    """A step with its share of the time; the last share is for measuring all behaviors."""
    return step.model_copy(update={"minutes": step.minutes and step.minutes / (count + 1)})


def directory_name(step: Recipe) -> str:
    """A step's behavior, as its directory is named."""
    name = step.behavior_name
    if name is None:
        assert step.texts is not None
        return step.texts.stem
    return Path(name).name.removesuffix(".yaml").removesuffix(".yml")


def _make_one(
    recipe: SequenceRecipe,
    steps: Sequence[Recipe],
    behaviors: Sequence[Behavior],
    model: LanguageModel,
    run: RunDirectory,
    progress: Progress,
    announce: Announce,
) -> list[Recipe]:
    """Write one edit for all behaviors, from the labeled texts of each and all neutral text.

    Returns the steps with the sizes that the run settled on.
    """
    minutes = recipe.minutes and recipe.minutes / len(steps)
    first = steps[0].model_copy(update={"minutes": minutes})
    sizes, _, _ = settled(first, run, model, behaviors[0], announce, progress)
    sized = [sizes.settle(step) for step in steps]
    path = run.path / EDIT_FILE
    if path.exists():
        return sized
    texts: dict[str, Sequence[LabeledText]] = {one.name: one.train for one in behaviors}
    if sizes.train_texts is not None:
        count = round(sizes.train_texts / (1 - TEST_SHARE))
        texts = {name: some_of_each(some, count) for name, some in texts.items()}
    directions = dict(_directions(sized, behaviors))
    weights = dict(zip(directions, recipe.weights, strict=True))
    targets = targets_of(texts, directions, weights)
    neutral = list(dict.fromkeys(text for one in behaviors for text in one.validation_neutral))
    facts = behaviors[0].validation_facts
    with stacked(model, [load_edit(one) for one in recipe.edits]) as edited:
        made = Given(edited, targets, neutral, facts, recipe.seed, progress).fit(
            recipe.chosen_rule,
            recipe.budget.without_uncalled(),
            rows=PAPER_ROWS if recipe.rows is None else recipe.rows,
            layers=recipe.layers,
            steps=recipe.steps or 1,
            strength=recipe.strength,
        )
    save_edit(made, path)
    return sized


def _directions(
    steps: Sequence[Recipe], behaviors: Sequence[Behavior]
) -> list[tuple[str, Direction]]:
    """Name and direction of each behavior."""
    return [
        (behavior.name, step.direction or behavior.described.direction)
        for behavior, step in zip(behaviors, steps, strict=True)
    ]


def _measured(
    model: LanguageModel,
    name: str,
    edits: Sequence[Edit],
    judged: Sequence[tuple[Behavior, Judge]],
    steps: Sequence[Recipe],
    store: Store,
    progress: Progress,
) -> list[Evaluation]:
    """All behaviors with some of the edits; the damage is measured once, to the first's texts."""
    found: list[Evaluation] = []
    for (behavior, judge), step in zip(judged, steps, strict=True):
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
    return found


def _stage_json(stage: Sequence[Evaluation], budget: Budget) -> dict[str, Any]:
    """What was measured with some of the edits; the budget is for the damage to the first."""
    first = stage[0]
    facts = first.damage.facts
    return {
        "edits": len(first.edits),
        "behaviors": [
            {
                "name": one.behavior.name,
                **one.first.measured_json(),
                "uncalled_for": one.uncalled_json(),
            }
            for one in stage
        ],
        "damage": limits_json(
            budget, first.damage.effect, has_uncalled=first.damage.uncalled is not None
        ),
        "neutral_text": first.neutral_json(),
        "facts": None if facts is None else facts.to_json(),
    }
