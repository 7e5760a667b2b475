"""One edit for several behaviors, measured on all of them."""

from collections.abc import Callable, Sequence
from typing import Any

from modelsurgery.data.behaviors import Behavior, Direction
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.stacking import stacked
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.recording import recorded
from modelsurgery.pipeline.running import (
    SETTLED,
    judged_behavior,
    loaded_model,
    settled,
    unheard,
)
from modelsurgery.pipeline.runs import EDIT_FILE, STORE_FILE, open_run
from modelsurgery.pipeline.scheduling import Sizes
from modelsurgery.pipeline.sequence import (
    SequenceResult,
    directions_of,
    directory_name,
    measure_stage,
)
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe
from modelsurgery.search.edit_fitting import TEST_SHARE, Given
from modelsurgery.search.fitting import some_of_each
from modelsurgery.search.targets import targets_of


def run_at_once(
    recipe: SequenceRecipe,
    *,
    progress: Progress = silent,
    announce: Callable[[dict[str, Any]], None] = unheard,
) -> SequenceResult:
    """Make one edit for all behaviors of a recipe, and measure each of them with it.

    Args:
        recipe: with at least two of `behaviors`.
        progress: is told what is going on.
        announce: is told the plan before the work.

    Raises:
        SurgeryError: one of its kinds; the same recipe goes on with the same `out`.
    """
    steps = recipe.recipes()
    names = [directory_name(step) for step in steps]
    values = recorded(recipe)
    behaviors = [judged_behavior(step)[0] for step in steps]
    with (
        open_run(
            recipe.out,
            values,
            default_name="-and-".join([recipe.model_name, *names]),
            settled=SETTLED,
        ) as run,
        Store(run.path / STORE_FILE) as store,
    ):
        with progress("load model", 0):
            model = loaded_model(recipe, run.now)
        minutes = None if recipe.minutes is None else recipe.minutes / len(steps)
        first = steps[0].model_copy(update={"minutes": minutes})
        first, _, _ = settled(first, run, model, behaviors[0], announce, progress)
        sizes = Sizes.of(first)
        steps = [sizes.settle(step) for step in steps]
        directions = directions_of(steps, behaviors)
        before = [load_edit(path) for path in recipe.edits]
        path = run.path / EDIT_FILE
        if not path.exists():
            with stacked(model, before) as edited:
                made = _edit(recipe, edited, steps[0], behaviors, dict(directions), progress)
            save_edit(made, path)
        edits = [*before, load_edit(path)]
        measured = [judged_behavior(step) for step in steps]
        stage = measure_stage(model, recipe.model_name, edits, measured, steps, store, progress)
        result = SequenceResult(
            run.path,
            recipe.model_name,
            directions,
            (path,),
            (stage,),
            (),
            at_once=True,
        )
        run.finish(result.to_json())
    return result


def _edit(
    recipe: SequenceRecipe,
    model: LanguageModel,
    sized: Recipe,
    behaviors: Sequence[Behavior],
    directions: dict[str, Direction],
    progress: Progress,
) -> Edit:
    """One edit for all behaviors, from their labeled texts and all of their neutral text."""
    texts: dict[str, Sequence[LabeledText]] = {one.name: one.train for one in behaviors}
    if sized.train_texts is not None:
        count = round(sized.train_texts / (1 - TEST_SHARE))
        texts = {name: some_of_each(some, count) for name, some in texts.items()}
    neutral = dict.fromkeys(text for one in behaviors for text in one.validation_neutral)
    targets = targets_of(
        texts,
        directions,
        dict(zip(directions, recipe.weights, strict=True)),
    )
    given = Given(
        model, targets, list(neutral), behaviors[0].validation_facts, recipe.seed, progress
    )
    return given.fit(
        recipe.chosen_rule,
        recipe.budget.without_uncalled(),
        rows=PAPER_ROWS if recipe.rows is None else recipe.rows,
        layers=recipe.layers,
        steps=recipe.steps or 1,
        strength=recipe.strength,
    )
