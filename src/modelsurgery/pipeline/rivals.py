"""`surgery rivals`: methods side by side, each measured at the same divergences.

A method with one seed is a cell of a grid, which any worker can measure. Each row is written as
soon as it is measured, so that the same command goes on after an interruption. A method that does
not work on a model, or breaks it, is told of and does not stop the others.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypeVar

from modelsurgery.errors import EvaluationError, RecipeError, SurgeryError
from modelsurgery.evaluation.capability import check_tasks
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.loading import load_without_weights
from modelsurgery.pipeline.grids import Ended, Executor, Kept, content_name, perform_all
from modelsurgery.pipeline.method_cells import MethodCell, kept_setting
from modelsurgery.pipeline.rivals_plan import RivalsPlan
from modelsurgery.pipeline.runs import RUN_MANIFEST, STORE_FILE, RunDirectory, open_run
from modelsurgery.report.html import write_report
from modelsurgery.results import read_results
from modelsurgery.results.evaluations import EvaluatedBehavior, EvaluatedModel
from modelsurgery.results.parts import JudgeNote, Part
from modelsurgery.results.rivals import MethodNote, RivalsResults
from modelsurgery.rivals import methods_of
from modelsurgery.rivals.summary import summarize

Note = TypeVar("Note", bound=Part)


@dataclass(frozen=True)
class RivalsRun:
    """A comparison that was written down."""

    directory: Path  # where
    results: RivalsResults  # what was measured
    # Cells that nobody could finish, and why; the same plan with the same `out` begins them again.
    lost: dict[str, str] = field(default_factory=dict)


def run_rivals(
    plan: RivalsPlan, *, executor: Executor | None = None, progress: Progress = silent
) -> RivalsRun:
    """Measure methods side by side; arguments are as for `run_comparisons`.

    Returns:
        What was found; `results.json`, a row a file in `rows/` and the store are in its directory.

    Raises:
        EvaluationError: no method gave anything.
        SurgeryError: another of its kinds. What was measured until then is kept, and the same plan
            with the same `out` goes on from there.
    """
    (found,) = run_comparisons([plan], executor=executor, progress=progress)
    assert isinstance(found, RivalsRun)
    return found


def run_comparisons(
    plans: Sequence[RivalsPlan], *, executor: Executor | None = None, progress: Progress = silent
) -> list[RivalsRun | SurgeryError]:
    """Measure comparisons, such as of several models, as one grid.

    Args:
        plans: what to compare. Several with the same `out` get a run directory of their own each,
            below it and named by what is compared; those that are finished are read.
        executor: who measures; None does so in this process.
        progress: is told what is going on.

    Returns:
        What was found, in order, or why a comparison gave nothing.

    Raises:
        SurgeryError: a plan or the executor cannot be used, or no comparison gave anything.
    """
    kept = Kept()
    if len(plans) > 1:
        plans = [plan.model_copy(update={"out": _place(plan)}) for plan in plans]
    found = _finished_before(plans)
    with ExitStack() as stack:
        stack.callback(kept.drop)
        # All that can be wrong with a plan shows before a run directory is made.
        with progress("texts and judges", 0):
            checked = {
                number: _Checked.of(plan, kept)
                for number, plan in enumerate(plans)
                if number not in found
            }
        runs = {number: stack.enter_context(one.opened()) for number, one in checked.items()}
        grids = {number: one.cells(runs[number]) for number, one in checked.items()}
        cells = [cell for some in grids.values() for cell in some if cell.missing]
        ended = {one.name: one for one in perform_all(executor, cells, kept, progress)}
        for number, one in checked.items():
            try:
                found[number] = _finished(one, runs[number], grids[number], ended)
            except SurgeryError as error:
                found[number] = error
        errors = [one for one in found.values() if isinstance(one, SurgeryError)]
        if len(errors) == len(plans):
            raise errors[0]
    return [found[number] for number in range(len(plans))]


def _finished_before(plans: Sequence[RivalsPlan]) -> dict[int, RivalsRun | SurgeryError]:
    """Those of several comparisons that an earlier session finished, by number."""
    found: dict[int, RivalsRun | SurgeryError] = {}
    for number, plan in enumerate(plans if len(plans) > 1 else ()):
        if plan.out is not None and (plan.out / RUN_MANIFEST).exists():
            results = read_results(plan.out)
            if isinstance(results, RivalsResults):
                found[number] = RivalsRun(plan.out, results)
    return found


def _place(plan: RivalsPlan) -> Path | None:
    """The run directory of one plan of several."""
    if plan.out is None:
        return None
    return plan.out / content_name(plan.name, plan.model_dump(mode="json", exclude={"out"}))


@dataclass(frozen=True)
class _Checked:
    """A plan that can be measured, as far as that can be told beforehand.

    It has all methods by name, the model's fingerprint, the name of the prompt set with the number
    of prompts, and the judges of the last seed.
    """

    plan: RivalsPlan
    fingerprint: str
    prompts: tuple[str, int]
    judges: list[JudgeNote]

    @classmethod
    def of(cls, plan: RivalsPlan, kept: Kept) -> "_Checked":
        """Check the names of methods and tasks, the model, and texts and judges of all seeds."""
        methods = methods_of(plan.kind)
        unknown = [name for name in plan.methods if name not in methods]
        if unknown:
            raise RecipeError(f"method {unknown[0]!r}; expected one of {', '.join(methods)}")
        check_tasks(plan.tasks, None)
        fingerprint = load_without_weights(plan.place).fingerprint()
        settings = [kept_setting(kept, plan, seed) for seed in plan.seeds]
        return cls(
            plan.model_copy(update={"methods": plan.methods or tuple(methods)}),
            fingerprint,
            (settings[0].prompts.name, len(settings[0].prompts.prompts)),
            [_told(JudgeNote, one) for one in settings[-1].judges],
        )

    def opened(self) -> AbstractContextManager[RunDirectory]:
        """The run directory, new or one to go on with."""
        values = self.plan.model_dump(mode="json", exclude={"out"})
        return open_run(self.plan.out, values, default_name=self.plan.name, keep=True)

    def cells(self, run: RunDirectory) -> list[MethodCell]:
        """A cell for each method and seed."""
        return [
            MethodCell(
                self.plan.model_copy(update={"methods": (method,), "seeds": (seed,)}),
                run.path,
                run.now,
            )
            for seed, method in product(self.plan.seeds, self.plan.methods)
        ]


def _finished(
    checked: _Checked, run: RunDirectory, cells: Sequence[MethodCell], ended: Mapping[str, Ended]
) -> RivalsRun:
    """Write the results of a comparison whose cells have ended.

    Raises:
        EvaluationError: no method gave anything; where all failed alike, their error.
    """
    plan = checked.plan
    failed = [
        (cell, how.error)
        for cell in cells
        if (how := ended.get(cell.name)) is not None and how.error is not None
    ]
    without = {cell.name for cell, _ in failed}
    rows = [row for cell in cells if cell.name not in without for row in cell.rows]
    if not rows:
        (_, first), *others = failed
        if all(str(error) == str(first) for _, error in others):
            raise first
        raise EvaluationError(f"no method gave anything; the first: {first}")
    results = RivalsResults(
        model=EvaluatedModel(name=plan.model_name, fingerprint=checked.fingerprint),
        behavior=_told(EvaluatedBehavior, plan.behavior),
        direction=plan.way,
        prompts=checked.prompts,
        judges=checked.judges,
        divergences=sorted(plan.divergences),
        seeds=list(plan.seeds),
        base_tokens_per_second=rows[0].cost.base_tokens_per_second,
        methods=[_told(MethodNote, methods_of(plan.kind)[name]) for name in plan.methods],
        rows=rows,
        summary=summarize(rows, plan.way),
        failed={cell.plan.methods[0]: str(error) for cell, error in failed},
    )
    for lock in run.path.glob(f"{STORE_FILE}-*.lock"):  # of workers of a cluster, which ended
        lock.unlink(missing_ok=True)
    run.finish(results.model_dump(mode="json"))
    write_report(run.path)
    lost = {cell.label: str(error) for cell, error in failed if ended[cell.name].is_lost}
    if lost:  # the same plan is to go on from here
        (run.path / RUN_MANIFEST).unlink()
    return RivalsRun(run.path, results, lost)


def _told(kind: type[Note], one: object) -> Note:
    """What results tell of a judge, a behavior or a method: its attributes of the same names."""
    return kind.model_validate(one, from_attributes=True)
