"""A cell of a comparison: one method with one seed, measured on what all of that seed share."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelsurgery.apply.loaded_weights import is_offloaded
from modelsurgery.data.behaviors import Behavior, PromptSet, load_behavior
from modelsurgery.data.behaviors.roots import local_root
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.store import Store
from modelsurgery.files.atomic import remove_unfinished, write_text
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model
from modelsurgery.pipeline.grids import Cell, Kept
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.rivals_plan import RivalsPlan
from modelsurgery.pipeline.runs import STORE_FILE
from modelsurgery.results.rivals import RivalRow
from modelsurgery.rivals import gather_materials, methods_of
from modelsurgery.rivals.measuring import Bench
from modelsurgery.rivals.method import screen_of

MODEL, SETTING, BENCH = range(3)  # levels of what a worker keeps from one cell to the next


@dataclass(frozen=True)
class SeedSetting:
    """What is measured with one seed, on which held-out prompts, and who judges: the first."""

    behavior: Behavior
    prompts: PromptSet
    judges: Sequence[Judge]

    @classmethod
    def of(cls, plan: RivalsPlan, seed: int) -> "SeedSetting":
        """That of a plan with one of its seeds.

        Raises:
            SurgeryError: texts, prompts or judges that cannot be used.
        """
        behavior = load_behavior(
            plan.behavior,
            is_demo=plan.is_demo_model and plan.behavior.demo,
            data=plan.data,
            seed=seed,
            prompt_count=plan.prompts,
        )
        sets = {one.name: one for one in behavior.prompt_sets}
        wanted = plan.prompt_set or next(iter(sets))
        if wanted not in sets:
            raise RecipeError(f"prompt set {wanted!r}; expected one of {', '.join(sets)}")
        judges = [judge_for(behavior, spec, seed=seed) for spec in plan.judges or [None]]
        return cls(behavior, sets[wanted], judges)


@dataclass(frozen=True)
class MethodCell(Cell):
    """The one method and seed of a plan, at all divergences: it is fitted once for all of them.

    Results are below the run's `directory`; `now` is the time that chat templates are told.
    """

    plan: RivalsPlan
    directory: Path
    now: datetime

    @property
    def label(self) -> str:
        """Model, behavior, method and seed."""
        plan = self.plan
        return f"{plan.model_name} {plan.behavior.name} {plan.methods[0]}, seed {plan.seeds[0]}"

    @property
    def content(self) -> dict[str, Any]:
        """The plan, as JSON values."""
        return self.plan.model_dump(mode="json", exclude={"out"})

    def planned(self) -> Recipe:
        """A surgery of the model: methods that train adapters take more."""
        return Recipe(model=self.plan.model, dtype=self.plan.dtype)

    def row_file(self, target: float) -> Path:
        """Where the row of a divergence is."""
        name = f"{self.plan.seeds[0]}-{self.plan.methods[0]}-{target:g}.json"
        return self.directory / "rows" / name

    @property
    def rows(self) -> list[RivalRow]:
        """The rows that were measured, by divergence."""
        read = (_read_row(self.row_file(target)) for target in sorted(self.plan.divergences))
        return [row for row in read if row is not None]

    @property
    def missing(self) -> list[float]:
        """Divergences that were not measured yet."""
        there = {row.target for row in self.rows}
        return [target for target in self.plan.divergences if target not in there]

    def perform(self, kept: Kept) -> None:
        """Write the rows that are missing.

        Raises:
            SurgeryError: the method does not work on this model or with these texts, or it broke
                the model.
        """
        method = methods_of(self.plan.kind)[self.plan.methods[0]]
        if missing := self.missing:
            for target in missing:  # a worker that had this cell before may have been killed
                remove_unfinished(self.row_file(target))
            for row in self._bench(kept).rows(method, missing):
                write_text(self.row_file(row.target), row.model_dump_json(indent=2))

    def _bench(self, kept: Kept) -> Bench:
        """What methods are measured on with this seed, the same for all of them."""
        plan, seed = self.plan, self.plan.seeds[0]

        def load(_: ExitStack) -> LanguageModel:
            with kept.progress("load model", 0):
                loaded = load_model(plan.place, device=plan.device, dtype=plan.dtype)
            if is_offloaded(loaded.model):
                raise UnsupportedModelError(
                    f"{plan.model} does not fit on the devices; methods change and train weights "
                    "in place: use more GPUs, a narrower --dtype or a smaller model"
                )
            return loaded

        def make(stack: ExitStack) -> Bench:
            name = STORE_FILE if kept.node is None else f"{STORE_FILE}-{kept.node}"
            store = stack.enter_context(Store(self.directory / name))
            timed, behavior = replace(model, now=self.now), setting.behavior
            sign = -1 if plan.way == "toward" else 1
            with kept.progress("base model", 0):
                given = gather_materials(
                    timed,
                    behavior,
                    sign=sign,
                    texts=plan.texts,
                    passes=Passes(timed, Ledger(self.directory / "statistics")),
                    seed=seed,
                    progress=kept.progress,
                )
                texts, neutral = behavior.test, behavior.test_neutral
                test = screen_of(timed, texts, neutral, sign, kept.progress)
            return Bench(
                given,
                setting.prompts,
                test,
                setting.judges,
                store,
                plan.tasks,
                local_root(plan.data),
                plan.task_limit,
                kept.progress,
            )

        model = kept.get(MODEL, (plan.model, plan.device, plan.dtype), load)
        setting = kept_setting(kept, plan, seed)
        return kept.get(BENCH, (self.directory, _without_axes(plan), seed), make)


def _without_axes(plan: RivalsPlan) -> RivalsPlan:
    """What all cells of a plan have in common."""
    return plan.model_copy(update={"methods": (), "seeds": (), "out": None})


def kept_setting(kept: Kept, plan: RivalsPlan, seed: int) -> SeedSetting:
    """`SeedSetting.of`, unless it was the last that this worker made."""
    return kept.get(SETTING, (_without_axes(plan), seed), lambda _: SeedSetting.of(plan, seed))


def _read_row(path: Path) -> RivalRow | None:
    try:
        return RivalRow.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
