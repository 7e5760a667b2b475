"""`surgery rivals`: methods side by side, each measured at the same divergences.

Each row is written as soon as it is measured, so that the same command goes on after an
interruption. A method that does not work on a model, or breaks it, is told of and does not stop the
others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from modelsurgery.data import demo
from modelsurgery.data.behaviors import Behavior, BehaviorFile, PromptSet, load_behavior
from modelsurgery.data.behaviors.roots import local_root
from modelsurgery.errors import EvaluationError, RecipeError, SurgeryError
from modelsurgery.evaluation.capability import check_tasks
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.store import Store
from modelsurgery.files.atomic import write_text
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model
from modelsurgery.pipeline.runs import STORE_FILE, RunDirectory, open_run
from modelsurgery.report.html import write_report
from modelsurgery.results.evaluations import EvaluatedBehavior, EvaluatedModel
from modelsurgery.results.parts import JudgeNote
from modelsurgery.results.rivals import MethodNote, RivalRow, RivalsResults
from modelsurgery.rivals import Method, gather_materials, methods_of
from modelsurgery.rivals.measuring import Bench
from modelsurgery.rivals.method import screen_of
from modelsurgery.rivals.summary import summarize
from modelsurgery.search.fitting import RULE_TEXTS

DIVERGENCES = (0.01, 0.02, 0.05)
PROMPTS = 150


class RivalsPlan(BaseModel):
    """What to compare on which model.

    Attributes:
        kind: other methods, or the rules with one thing changed each.
        model: directory, name of a fetched model or id of the Hub; `demo` is the model that
            ships with the package.
        behavior: what is to change, as its file says.
        direction: away from it, or toward it; None takes the behavior's own.
        methods: names of methods; none takes all.
        divergences: mean KL(base ‖ changed) on validation text, nats per token, that each method is
            brought to.
        seeds: of texts, prompts and samples; each is measured.
        texts: training texts of each label, at most.
        prompts: held-out prompts, at most.
        prompt_set: name of the behavior's prompt set; None takes the first.
        judges: the first decides. None: the behavior's own.
        tasks: capability tasks.
        task_limit: items of each, at most.
        data: directory with local copies of public data sets, or `hub`.
        device: cpu, cuda, …; None takes a GPU where there is one.
        dtype: float32, bfloat16 or float16.
        out: run directory; None takes a new one below `surgery-runs`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rivals", "ablations"] = "rivals"
    model: Annotated[str, AfterValidator(demo.current_name)]
    behavior: BehaviorFile
    direction: Literal["away", "toward"] | None = None
    methods: tuple[str, ...] = ()
    divergences: tuple[Annotated[float, Field(gt=0, lt=10)], ...] = DIVERGENCES
    seeds: tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...] = (0,)
    texts: Annotated[int, Field(ge=2)] = RULE_TEXTS
    prompts: Annotated[int, Field(ge=1)] = PROMPTS
    prompt_set: str | None = None
    judges: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_limit: Annotated[int, Field(ge=1)] | None = None
    data: Path | None = None
    device: str | None = None
    dtype: str | None = None
    out: Path | None = None

    @property
    def is_demo_model(self) -> bool:
        """Whether the model is the demo one."""
        return demo.is_demo_model(self.model)

    @property
    def way(self) -> Literal["away", "toward"]:
        """Away from the behavior, or toward it."""
        return self.direction or self.behavior.direction


@dataclass(frozen=True)
class RivalsRun:
    """A comparison that was written down.

    Attributes:
        directory: where.
        results: what was measured.
    """

    directory: Path
    results: RivalsResults


def run_rivals(plan: RivalsPlan, *, progress: Progress = silent) -> RivalsRun:
    """Measure methods side by side.

    Args:
        plan: what to compare.
        progress: is told what is going on.

    Returns:
        What was found; `results.json`, a row a file in `rows/` and the store are in its directory.

    Raises:
        EvaluationError: no method gave anything.
        SurgeryError: another of its kinds. What was measured until then is kept, and the same plan
            with the same `out` goes on from there.
    """
    chosen = _chosen(plan)
    check_tasks(plan.tasks, None)
    with progress("load model", 0):
        model = load_model(
            demo.demo_model_path() if plan.is_demo_model else plan.model,
            device=plan.device,
            dtype=plan.dtype,
        )
    name = demo.DEMO if plan.is_demo_model else Path(plan.model).resolve().name
    values = plan.model_dump(mode="json", exclude={"out"}) | {"methods": [*chosen]}
    # All that can be wrong with the plan shows before a run directory is made.
    behaviors = {seed: _behavior(plan, seed) for seed in plan.seeds}
    prompts = [_prompt_set(plan, behavior) for behavior in behaviors.values()]
    judges: dict[int, Sequence[Judge]] = {
        seed: [judge_for(behavior, spec, seed=seed) for spec in plan.judges or [None]]
        for seed, behavior in behaviors.items()
    }
    with (
        open_run(
            plan.out, values, default_name=f"{name}-{plan.behavior.name}-{plan.kind}", keep=True
        ) as run,
        Store(run.path / STORE_FILE) as store,
    ):
        rows: list[RivalRow] = []
        failed: dict[str, str] = {}
        bench = partial(_bench, plan, replace(model, now=run.now), run, store, progress)
        for seed, behavior in behaviors.items():
            # Cached: nothing is read again where all rows are there.
            make_bench = cache(partial(bench, behavior, judges[seed], seed))
            found, wrong = _rows_and_failures(plan, chosen, run, make_bench, seed, progress)
            rows += found
            failed |= wrong
        if not rows:
            first = next(iter(failed.values()))
            raise EvaluationError(f"no method gave anything; the first: {first}")
        results = RivalsResults(
            model=EvaluatedModel(name=name, fingerprint=model.fingerprint()),
            behavior=_behavior_note(behavior),
            direction=plan.way,
            prompts=(prompts[0].name, len(prompts[0].prompts)),
            judges=[
                JudgeNote(name=one.name, version=one.version, note=one.note)
                for one in judges[plan.seeds[-1]]
            ],
            divergences=sorted(plan.divergences),
            seeds=list(plan.seeds),
            base_tokens_per_second=rows[0].cost.base_tokens_per_second,
            methods=[note_of(method) for method in chosen.values()],
            rows=rows,
            summary=summarize(rows, plan.way),
            failed=failed,
        )
        run.finish(results.model_dump(mode="json"))
    write_report(run.path)
    return RivalsRun(run.path, results)


def _rows_and_failures(
    plan: RivalsPlan,
    chosen: dict[str, Method],
    run: RunDirectory,
    make_bench: Callable[[], Bench],
    seed: int,
    progress: Progress,
) -> tuple[list[RivalRow], dict[str, str]]:
    """The rows of all methods with one seed, and the errors of those that failed, by name."""
    rows: list[RivalRow] = []
    failed: dict[str, str] = {}
    with progress(f"methods, seed {seed}", len(chosen)) as advance:
        for method in chosen.values():
            try:
                rows += _rows(run, make_bench, method, plan.divergences, seed)
            except SurgeryError as error:
                failed[method.name] = str(error)
            advance(1)
    return rows, failed


def _chosen(plan: RivalsPlan) -> dict[str, Method]:
    methods = methods_of(plan.kind)
    unknown = [name for name in plan.methods if name not in methods]
    if unknown:
        raise RecipeError(f"method {unknown[0]!r}; expected one of {', '.join(methods)}")
    return {name: methods[name] for name in plan.methods or methods}


def _behavior(plan: RivalsPlan, seed: int) -> Behavior:
    return load_behavior(
        plan.behavior,
        is_demo=plan.is_demo_model and plan.behavior.demo,
        data=plan.data,
        seed=seed,
        prompt_count=plan.prompts,
    )


def _prompt_set(plan: RivalsPlan, behavior: Behavior) -> PromptSet:
    """The prompts that are measured."""
    sets = {one.name: one for one in behavior.prompt_sets}
    wanted = plan.prompt_set or next(iter(sets))
    if wanted not in sets:
        raise RecipeError(f"prompt set {wanted!r}; expected one of {', '.join(sets)}")
    return sets[wanted]


def _bench(
    plan: RivalsPlan,
    model: LanguageModel,
    run: RunDirectory,
    store: Store,
    progress: Progress,
    behavior: Behavior,
    judges: Sequence[Judge],
    seed: int,
) -> Bench:
    """What the methods are measured on with one seed."""
    sign = -1 if plan.way == "toward" else 1
    with progress("base model", 0):
        given = gather_materials(
            model,
            behavior,
            sign=sign,
            texts=plan.texts,
            passes=Passes(model, Ledger(run.path / "statistics")),
            seed=seed,
            progress=progress,
        )
        test = screen_of(model, behavior.test, behavior.test_neutral, sign, progress)
    return Bench(
        given,
        _prompt_set(plan, behavior),
        test,
        judges,
        store,
        plan.tasks,
        local_root(plan.data),
        plan.task_limit,
        progress,
    )


def _rows(
    run: RunDirectory,
    make_bench: Callable[[], Bench],
    method: Method,
    divergences: Sequence[float],
    seed: int,
) -> list[RivalRow]:
    """The rows of a method, those of an earlier session read."""
    paths = {
        target: run.path / "rows" / f"{seed}-{method.name}-{target:g}.json"
        for target in divergences
    }
    found = {target: row for target, path in paths.items() if (row := _read_row(path)) is not None}
    missing = [target for target in divergences if target not in found]
    if missing:
        for row in make_bench().rows(method, missing):
            write_text(paths[row.target], row.model_dump_json(indent=2))
            found[row.target] = row
    return [found[target] for target in sorted(found)]


def _read_row(path: Path) -> RivalRow | None:
    try:
        return RivalRow.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def _behavior_note(behavior: Behavior) -> EvaluatedBehavior:
    described = behavior.described
    return EvaluatedBehavior(
        name=described.name,
        title=described.title,
        shows=described.shows,
        opposite=described.opposite,
    )


def note_of(method: Method) -> MethodNote:
    """What results tell of a method."""
    return MethodNote(
        name=method.name,
        title=method.title,
        source=method.source,
        delivery=method.delivery,
        settings=method.settings,
        note=method.note,
    )
