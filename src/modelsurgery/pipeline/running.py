"""The whole surgery that a recipe describes, from start to end.

Texts → rule → edit inside the budget → base and edited model measured on held-out data → results.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from modelsurgery.apply.coverage import Coverage, measure_coverage
from modelsurgery.apply.in_memory import edited
from modelsurgery.checkpoint.layouts import load_layout
from modelsurgery.checkpoint.named_models import origin_of
from modelsurgery.data import demo
from modelsurgery.data.behaviors import Behavior, BehaviorFile, describe_behavior, load_behavior
from modelsurgery.data.behaviors.roots import data_root
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.explanation import strongest_direction
from modelsurgery.edit.probe import DIRECTION_SOURCES, save_probe
from modelsurgery.errors import NothingChangedError, RecipeError
from modelsurgery.evaluation.damage import Damage, measure_damage
from modelsurgery.evaluation.evaluating import Evaluation, measure
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.screening import Effect
from modelsurgery.evaluation.store import Store
from modelsurgery.files.atomic import sha256_file
from modelsurgery.files.progress import Progress, silent
from modelsurgery.files.provenance import Provenance
from modelsurgery.interpret import Inside, look_inside
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model
from modelsurgery.model.stacking import stacked
from modelsurgery.pipeline.choosing import Choice, Choosing
from modelsurgery.pipeline.recipe import DEFAULT_TRIALS, Recipe
from modelsurgery.pipeline.run_result import RunResult
from modelsurgery.pipeline.runs import (
    EDIT_FILE,
    STORE_FILE,
    RunDirectory,
    open_run,
    recorded_recipe,
)
from modelsurgery.pipeline.scheduling import (
    DEFAULT_MINUTES,
    SETTLED,
    Schedule,
    Sizes,
    StageClock,
    is_small,
    make_schedule,
    measure_pace,
    with_seconds_taken,
)
from modelsurgery.report.html import write_report

RULE_DIRECTION = (
    "the added direction with the largest coefficients (each gate matrix has its own), read as a "
    "state before the final norm"
)


def unheard(plan: dict[str, Any]) -> None:
    """Let a plan pass: the default of `run_recipe`."""


def run_recipe(
    recipe: Recipe,
    *,
    progress: Progress = silent,
    announce: Callable[[dict[str, Any]], None] = unheard,
) -> RunResult:
    """Run a whole surgery: make an edit, measure it and write a run directory.

    Args:
        recipe: the settings.
        progress: receives the progress of the run.
        announce: called with the plan of the run (`Schedule.to_json`) before the work starts. Not
            called for models so small that nothing takes long.

    Returns:
        The results. The edit is in `edit.safetensors` in the run directory.

    Raises:
        SurgeryError: the run failed. No incomplete file is left behind; running the same recipe
            with the same `out` resumes an interrupted run.

    Example:
        >>> result = run_recipe(Recipe(behavior="toxicity", out="run"))  # doctest: +SKIP
        >>> result.coverage.rows_edited  # doctest: +SKIP
        119
    """
    started = time.monotonic()
    described = described_behavior(recipe)
    recipe = _resolved(recipe, described)
    values = recorded_recipe(recipe)
    before = [load_edit(path) for path in recipe.edits]
    clock = progress = StageClock(progress)
    with (
        open_run(
            recipe.out,
            values,
            default_name=f"{recipe.model_name}-{described.name}",
            settled=SETTLED,
        ) as run,
        Store(run.path / STORE_FILE) as store,
        stacked(loaded_model(recipe, run.now, progress), before) as model,
    ):
        _ = model.gates  # refuses early what can't be edited
        behavior, judge = judged_behavior(recipe, progress)
        sizes, behavior, plan = settled(recipe, run, model, behavior, announce, progress)
        recipe = sizes.settle(recipe)
        values |= asdict(sizes)

        minutes = recipe.minutes
        if plan is not None and plan["search_seconds"] is not None:
            minutes = plan["search_seconds"] / 60
        choosing = Choosing(recipe, run, model, behavior, judge, store, progress, minutes)
        choice, damage, given_up = _kept(choosing, choosing.choose())
        choice = _saved(choosing, choice)
        evaluation = _evaluated(choosing, choice.edit, damage)
        result = RunResult(
            recipe=values,
            directory=run.path,
            choice=choice,
            budget=choosing.budget,
            evaluation=evaluation,
            given_up=given_up,
            coverage=_coverage(model, choice.edit),
            inside=_inside(choosing, choice),
            plan=None if plan is None else with_seconds_taken(plan, clock.seconds),
            origin=origin_of(model.checkpoint.directory),
            seconds=time.monotonic() - started,
        )
        run.write_evaluation(evaluation)
        run.finish(result.to_json())
    with progress("report", 0):
        write_report(run.path)
    return result


def plan_recipe(recipe: Recipe, *, progress: Progress = silent) -> Schedule:
    """What a run would do, and how long that takes on this machine; nothing is written.

    Raises:
        SurgeryError: as `run_recipe` does before it works.
    """
    recipe = _resolved(recipe, described_behavior(recipe))
    before = [load_edit(path) for path in recipe.edits]
    now = recipe.now or datetime.now()
    with stacked(loaded_model(recipe, now, progress), before) as model:
        _ = model.gates  # as in a run
        behavior, _ = judged_behavior(recipe, progress)
        return _scheduled(recipe, model, behavior, progress)


def _scheduled(
    recipe: Recipe, model: LanguageModel, behavior: Behavior, progress: Progress
) -> Schedule:
    minutes = recipe.minutes or (None if is_small(model) else DEFAULT_MINUTES)
    pace = measure_pace(model, behavior, progress=progress)
    return make_schedule(recipe, model, behavior, pace, minutes=minutes)


def settled(
    recipe: Recipe,
    run: RunDirectory,
    model: LanguageModel,
    behavior: Behavior,
    announce: Callable[[dict[str, Any]], None],
    progress: Progress,
) -> tuple[Sizes, Behavior, dict[str, Any] | None]:
    """The sizes of a run, its behavior in these, and its plan; those of an earlier session if any.

    Models so small that nothing takes long have no plan unless minutes are given.
    """
    full, plan, known = Sizes.of(recipe), None, run.recorded
    sizes = full
    if known.get("samples") is not None and known.get("doses") is not None:
        sizes = Sizes.of(recipe.model_copy(update={key: known[key] for key in SETTLED}))
        plan = run.plan()
    else:
        if recipe.minutes is not None or not is_small(model):
            schedule = _scheduled(recipe, model, behavior, progress)
            sizes, plan = schedule.sizes, schedule.to_json()
        run.settle(asdict(sizes), plan)
    if plan is not None:
        announce(plan)
    if sizes.prompt_count != full.prompt_count:
        behavior, _ = judged_behavior(sizes.settle(recipe), progress)
    return sizes, _cut(behavior, sizes), plan


def _cut(behavior: Behavior, sizes: Sizes) -> Behavior:
    """A behavior with no more validation prompts and held-out neutral texts than that."""
    # Evenly: neutral texts of several kinds may stand one kind after the other.
    step = math.ceil(len(behavior.test_neutral) / sizes.neutral_texts)
    return replace(
        behavior,
        validation_prompts=behavior.validation_prompts[: sizes.validation_prompts],
        test_neutral=behavior.test_neutral[:: max(1, step)],
    )


def loaded_model(recipe: Recipe, now: datetime, progress: Progress = silent) -> LanguageModel:
    """The recipe's model, without its edits; `now` is the time that its chat template is told."""
    with progress("load model", 0):
        return load_model(
            demo.demo_model_path() if recipe.is_demo_model else recipe.model,
            device=recipe.device,
            max_memory=recipe.max_memory,
            offload=recipe.offload,
            dtype=recipe.dtype,
            revision=recipe.revision,
            layout=None if recipe.layout is None else load_layout(recipe.layout),
            chat_template=recipe.chat_template,
            now=now,
        )


def judged_behavior(recipe: Recipe, progress: Progress = silent) -> tuple[Behavior, Judge]:
    """The recipe's behavior with its texts, and who judges it."""
    sizes = Sizes.of(recipe)
    with progress("texts and judge", 0):
        behavior = load_behavior(
            described_behavior(recipe),
            is_demo=recipe.is_demo,
            data=data_root(recipe.data),
            seed=recipe.seed,
            prompt_count=sizes.prompt_count,
        )
        behavior = _cut(behavior, sizes)
        return behavior, judge_for(behavior, recipe.judge, seed=recipe.seed)


def described_behavior(recipe: Recipe) -> BehaviorFile:
    """What the recipe says of its behavior.

    Raises:
        RecipeError: no texts for this model.
    """
    name, texts = recipe.behavior_name, recipe.texts
    if name is not None:
        described = describe_behavior(name)
    else:
        assert texts is not None
        described = BehaviorFile.of_texts(texts)
    described = described.with_own(
        texts=texts,
        prompts=recipe.prompts,
        neutral=recipe.neutral,
        text_column=recipe.text_column,
        label_column=recipe.label_column,
    )
    if described.texts is None and not recipe.is_demo_model:
        raise RecipeError(
            f"behavior {name!r} has texts and a judge for the demo "
            "model only; give --texts FILE with labeled texts for this model"
        )
    return described.with_length(recipe.max_new_tokens)


def _resolved(recipe: Recipe, described: BehaviorFile) -> Recipe:
    """The recipe with everything that it leaves to the behavior or the environment."""
    return recipe.model_copy(
        update={
            "behavior": recipe.behavior_name,
            "direction": recipe.direction or described.direction,
            "data": data_root(recipe.data),
            "trials": recipe.trials or (DEFAULT_TRIALS if recipe.minutes is None else None),
        }
    )


def _kept(choosing: Choosing, choice: Choice) -> tuple[Choice, Damage, Effect | None]:
    """The choice with its damage on held-out text, or a milder one if that is over the budget.

    The effect of the choice that was given up comes third.
    """
    model, store, progress = choosing.model, choosing.store, choosing.progress
    generator = TransformersGenerator(model, store=store)

    def damage(edit: Edit) -> Damage:
        _coverage(model, edit)  # refuses an edit that changes no byte
        with progress("damage", 0):
            found = measure_damage(
                model, [edit], choosing.behavior, [choosing.judge], generator,
                store=store, progress=progress,
            )  # fmt: skip
        if found.effect.divergence == 0:
            raise NothingChangedError(
                "the edit changed weights but no output; the chosen rows have no effect, choose "
                "others or a larger strength"
            )
        return found

    first = damage(choice.edit)
    if choice.milder is None or not choosing.budget.broken(first.effect):
        return choice, first, None
    milder = replace(
        choice.milder, search=choice.search, curve=choice.curve, strength=choice.strength
    )
    return milder, damage(milder.edit), first.effect


def _saved(choosing: Choosing, choice: Choice) -> Choice:
    """The choice, its edit with its origin, after probe and edit were written."""
    recipe, model, setting = choosing.recipe, choosing.model, choice.setting
    probe_path = choosing.run.path / "probe.safetensors"
    save_probe(choice.probe, probe_path)
    settings: dict[str, Any] = {"direction": recipe.direction, "rule": recipe.chosen_rule}
    if recipe.chosen_rule == "paper":
        settings["direction_source"] = setting.rule
    else:
        if setting.damping is not None:
            settings["damping"] = setting.damping
        settings["steps"] = choice.steps
    settings["rows"] = choice.edit.row_count
    settings["layers"] = setting.window
    settings["per_layer"] = setting.per_layer
    if model.edits:
        settings["on_top_of"] = [edit.content_sha256 for edit in model.edits]
    inputs = {"probe": sha256_file(probe_path)}
    origin = Provenance(seed=recipe.seed, inputs=inputs, settings=settings)
    edit = replace(choice.edit, provenance=origin)
    save_edit(edit.bound_to(model.checkpoint, model.gates), choosing.run.path / EDIT_FILE)
    return replace(choice, edit=edit)


def _evaluated(choosing: Choosing, edit: Edit, damage: Damage) -> Evaluation:
    """Base and edited model on the held-out prompts of the first set."""
    recipe, behavior = choosing.recipe, choosing.behavior
    return measure(
        choosing.model,
        {str(choosing.run.path / EDIT_FILE): edit},
        replace(behavior, prompt_sets=behavior.prompt_sets[:1]),
        [choosing.judge],
        name=recipe.model_name,
        samples=recipe.samples or 1,
        also_greedy=True,
        seed=recipe.seed,
        damage=damage,
        store=choosing.store,
        progress=choosing.progress,
    )


def _inside(choosing: Choosing, choice: Choice) -> Inside:
    source = choice.setting.rule
    is_probed = source in DIRECTION_SOURCES
    return look_inside(
        choosing.model,
        choice.edit,
        choice.probe,
        choosing.behavior,
        direction=(
            choice.probe.direction(source) if is_probed else strongest_direction(choice.edit)
        ),
        direction_note=None if is_probed else RULE_DIRECTION,
        seed=choosing.recipe.seed,
        progress=choosing.progress,
    )


def _coverage(model: LanguageModel, edit: Edit) -> Coverage:
    with edited(model.model, edit) as changes:
        return measure_coverage(changes, model.checkpoint, model.gates)
