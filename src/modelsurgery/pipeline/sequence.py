"""Several surgeries in a row: each probe is trained on the model that has the edits before.

The paper calls it characteristics addition. Edits of one behavior act on the others, so all
behaviors are measured together after each step, on held-out prompts, against the untouched model.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from modelsurgery.data.behaviors import Behavior
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit
from modelsurgery.edit.interactions import Conflict, conflicts_of
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.measurement import (
    BehaviorMeasurement,
    decoding_of,
    measure_behavior,
    measure_facts,
)
from modelsurgery.evaluation.outcome import Outcome, outcome_of
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.statistics import Rate
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.pipeline.recipe import Recipe, SequenceRecipe
from modelsurgery.pipeline.results import Damage
from modelsurgery.pipeline.running import (
    SETTLED,
    judged_behavior,
    loaded_model,
    run_recipe,
    unheard,
)
from modelsurgery.pipeline.runs import MANIFEST_FILE, RECIPE_FILE, STORE_FILE, open_run
from modelsurgery.pipeline.scheduling import Sizes


@dataclass(frozen=True)
class Stage:
    """The model after some of the edits, against the untouched one.

    Attributes:
        edits: how many edits it has.
        behaviors: each behavior of the sequence, sampled, in order.
        damage: to the first behavior's held-out neutral text and facts.
        facts: exact match, base and edited; None where there are no facts.
    """

    edits: int
    behaviors: tuple[BehaviorMeasurement, ...]
    damage: Damage
    facts: tuple[Rate, Rate] | None

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "edits": self.edits,
            "behaviors": [
                {
                    "name": name,
                    "base": asdict(one.base),
                    "edited": asdict(one.edited),
                    "change": {**asdict(one.change), "verdict": one.change.verdict},
                    "reduction": one.reduction,
                    "verdicts": {"base": one.base_verdicts, "edited": one.edited_verdicts},
                }
                for name, one in zip(names, self.behaviors, strict=True)
            ],
            "damage": self.damage.to_json(),
            "facts": None if self.facts is None else [asdict(rate) for rate in self.facts],
        }


@dataclass(frozen=True)
class SequenceResult:
    """What a sequence of surgeries gave.

    Attributes:
        directory: holds a run directory for each step.
        model: name of the model.
        names: behaviors in order, with the direction of each.
        steps: run directory of each step.
        stages: the model after 1, 2, … edits.
        conflicts: what the edits do to each other.
    """

    directory: Path
    model: str
    names: tuple[tuple[str, str], ...]
    steps: tuple[Path, ...]
    stages: tuple[Stage, ...]
    conflicts: tuple[Conflict, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of each behavior with all edits."""
        return tuple(
            outcome_of(name, "toward" if way == "toward" else "away", measured)
            for (name, way), measured in zip(self.names, self.stages[-1].behaviors, strict=True)
        )

    @property
    def edits(self) -> tuple[Path, ...]:
        """Files of the edits, in order."""
        return tuple(step / "edit.safetensors" for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `results.json`."""
        names = [name for name, _ in self.names]
        return {
            "model": self.model,
            "behaviors": [{"name": name, "direction": way} for name, way in self.names],
            "edits": [str(path) for path in self.edits],
            "outcomes": [asdict(one) for one in self.outcomes],
            "stages": [stage.to_json(names) for stage in self.stages],
            "conflicts": [{**asdict(one), "verdict": one.verdict} for one in self.conflicts],
            "run_directory": str(self.directory),
        }


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
    steps = [_in_time(step, len(recipe.behaviors)) for step in recipe.steps()]
    described = [_called(step) for step in steps]
    values = recipe.model_dump(mode="json", exclude={"out"})
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
            if not (place / MANIFEST_FILE).exists():
                shared = {"edits": (*recipe.edits, *made), "out": place, "now": run.now}
                run_recipe(step.model_copy(update=shared), progress=progress, announce=announce)
            made.append(place / "edit.safetensors")
        edits = [load_edit(path) for path in (*recipe.edits, *made)]
        first = len(recipe.edits) + 1
        steps = [_as_run(step, place) for step, place in zip(steps, places, strict=True)]
        measured = [judged_behavior(step) for step in steps]
        with progress("load model", 0):
            model = loaded_model(recipe, run.now)
        first_behavior, _ = measured[0]
        with progress("damage", 0):
            screen = Screen(
                model, (), (), first_behavior.neutral, first_behavior.facts, progress=progress
            )
        stages = tuple(
            _stage(model, screen, edits[:count], measured, steps, store, progress)
            for count in range(first, len(edits) + 1)
        )
        result = SequenceResult(
            run.path,
            recipe.model_name,
            tuple(
                (behavior.name, step.direction or behavior.described.direction)
                for (behavior, _), step in zip(measured, steps, strict=True)
            ),
            tuple(places),
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
    recorded = yaml.safe_load((place / RECIPE_FILE).read_text(encoding="utf-8"))
    return step.model_copy(update={key: recorded.get(key) for key in SETTLED})


def _called(step: Recipe) -> str:
    """A step's behavior, as its directory is named."""
    name = step.behavior_name
    if name is None:
        assert step.texts is not None
        return step.texts.stem
    return Path(name).name.removesuffix(".yaml").removesuffix(".yml")


def _stage(
    model: LanguageModel,
    screen: Screen,
    edits: Sequence[Edit],
    measured: Sequence[tuple[Behavior, Judge]],
    steps: Sequence[Recipe],
    store: Store,
    progress: Progress,
) -> Stage:
    first, _ = measured[0]
    with progress("damage", 0):
        effect = screen.measure([functools.reduce(operator.add, edits)], progress=progress)[0]
    damage = Damage(steps[0].budget, effect, screen.clean_loss, screen.clean_tokens)
    behaviors = []
    for (behavior, judge), step in zip(measured, steps, strict=True):
        prompts = behavior.prompt_sets[0]
        seeds = range(step.seed, step.seed + Sizes.of(step).samples)
        behaviors.append(
            measure_behavior(
                model,
                edits,
                prompts.texts,
                judge,
                [decoding_of(prompts, seed) for seed in seeds],
                store=store,
                progress=progress,
            )
        )
    facts = None
    if first.facts:
        facts = measure_facts(model, edits, first.facts, progress=progress)
    return Stage(len(edits), tuple(behaviors), damage, facts)
