"""`surgery evaluate`: an evaluation with capability tasks, in a run directory.

Base and edited model are measured on the same held-out prompts of a behavior's protocol, then the
damage: perplexity and divergence on neutral text, facts, and tasks that were asked for. Everything
that is generated and judged is kept in the run directory's store, so that the same command goes on
after an interruption and ends with the same results.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modelsurgery.apply.compatibility import check_fits
from modelsurgery.checkpoint.layouts import load_layout
from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.data import demo
from modelsurgery.data.behaviors import Behavior, BehaviorFile, load_test_part
from modelsurgery.data.behaviors.roots import local_root
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit
from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.capability import check_tasks, measure_capability
from modelsurgery.evaluation.damage import measure_damage
from modelsurgery.evaluation.evaluating import Evaluation, measure
from modelsurgery.evaluation.generation import Generator, TransformersGenerator
from modelsurgery.evaluation.generation.adapters import SharedDirectory
from modelsurgery.evaluation.generation.llama_cpp import LlamaCppGenerator, check_llama_cpp
from modelsurgery.evaluation.generation.server import ServerGenerator
from modelsurgery.evaluation.generation.serving import check_server
from modelsurgery.evaluation.judges import TEXTS, Judge, judge_for, judge_spec
from modelsurgery.evaluation.judges.review import ReviewRow, export_for_review
from modelsurgery.evaluation.protocol import SetMeasurement
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model, load_without_weights
from modelsurgery.pipeline.evaluation_options import EvaluationOptions, check_edited
from modelsurgery.pipeline.runs import STORE_FILE, open_run
from modelsurgery.report.html import write_report

REVIEW_FILE = "review.csv"


class EvaluationPlan(EvaluationOptions):
    """What to measure on which model."""

    behavior: BehaviorFile

    @property
    def is_demo_model(self) -> bool:
        """Whether the model is the demo one."""
        return demo.is_demo_model(self.model)

    @property
    def is_demo(self) -> bool:
        """Whether the behavior is of the demo data."""
        return self.is_demo_model and self.behavior.demo


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation that was written down in a directory."""

    directory: Path
    evaluation: Evaluation
    speed: dict[str, Any]  # tokens per second; apart from results, which are the same in every run


def run_evaluation(plan: EvaluationPlan, *, progress: Progress = silent) -> EvaluationRun:
    """Measure a model, and edits of it, on a behavior and on what must not break.

    Returns:
        What was found; `results.json`, `samples/*.jsonl` and the store are in its directory.

    Raises:
        SurgeryError: one of its kinds. What was generated and judged until then is kept, and the
            same plan with the same `out` goes on from there.
    """
    _check_names(plan)
    edits = {str(path): load_edit(path) for path in plan.edits}
    # All that can be wrong with the plan shows before a run directory is made.
    behavior = _behavior(plan)
    judges = _judges(plan, behavior)
    check_fits(
        demo.demo_model_path() if plan.is_demo_model else Path(plan.model), [*edits.values()]
    )
    with progress("load model", 0):
        model = _model(plan)
    name = demo.DEMO if plan.is_demo_model else Path(plan.model).resolve().name
    # How a server is asked may change before an evaluation goes on; what it is asked may not.
    values = plan.model_dump(mode="json", exclude={"out", "store", "adapter_dir", "concurrency"})
    with (
        ExitStack() as stack,
        open_run(
            plan.out, values, default_name=f"{name}-{plan.behavior.name}-evaluation", keep=True
        ) as run,
        Store(plan.store or run.path / STORE_FILE) as store,
    ):
        model = replace(model, now=run.now)
        generator = _generator(plan, model, store, stack)
        evaluation = _measured(
            plan, model, name, edits, behavior, judges, generator, store, progress
        )
        result = EvaluationRun(run.path, evaluation, generator.speed.to_json())
        run.write_evaluation(evaluation)
        if plan.export_for_review is not None:
            rows = [row for one in evaluation.sets for row in _review_rows(one)]
            export_for_review(rows, run.path / REVIEW_FILE, plan.export_for_review, plan.seed)
        run.finish(evaluation.to_json(), apart=result.speed)
    write_report(run.path)
    return result


def _measured(
    plan: EvaluationPlan,
    model: LanguageModel,
    name: str,
    edits: dict[str, Edit],
    behavior: Behavior,
    judges: Sequence[Judge],
    generator: Generator,
    store: Store,
    progress: Progress,
) -> Evaluation:
    """Damage and capability first, then the prompts."""
    chosen = list(edits.values())
    is_read = plan.backend == "transformers"
    damage = measure_damage(
        model, chosen, behavior, judges, generator,
        is_read=is_read, store=store, progress=progress,
    )  # fmt: skip
    tasks = measure_capability(
        model,
        chosen,
        plan.tasks,
        data=local_root(plan.data),
        include=plan.include_path,
        limit=plan.task_limit,
        progress=progress,
    )
    return measure(
        model,
        edits,
        behavior,
        judges,
        name=name,
        samples=plan.samples,
        seed=plan.seed,
        damage=damage,
        tasks=tasks,
        generator=generator,
        store=store,
        progress=progress,
    )


def _check_names(plan: EvaluationPlan) -> None:
    """Refuse what does not exist before anything is loaded."""
    check_tasks(plan.tasks, plan.include_path)
    _check_server(plan)
    if plan.backend == "llama.cpp":
        check_llama_cpp()
        if not is_gguf(plan.model):
            raise RecipeError(
                f"--backend llama.cpp and the model {plan.model}; expected a GGUF file"
            )
    check_edited(plan.edited, plan.edits, plan.backend)
    if plan.tasks and plan.backend != "transformers":
        raise RecipeError("capability tasks run with --backend transformers only; omit them")


def _check_server(plan: EvaluationPlan) -> None:
    if (plan.backend == "server") != (plan.server is not None):
        raise RecipeError(
            f"backend {plan.backend} and server {plan.server}; expected --server URL, with no "
            "other --backend"
        )
    if plan.server is None:
        if plan.server_model or plan.adapter_dir or plan.concurrency:
            raise RecipeError("--server-model, --adapter-dir and --concurrency need --server URL")
        return
    if plan.adapter_dir is not None:
        SharedDirectory.read(plan.adapter_dir)
    check_server(plan.server, plan.server_model)


def _model(plan: EvaluationPlan) -> LanguageModel:
    model = demo.demo_model_path() if plan.is_demo_model else plan.model
    options: dict[str, Any] = {
        "revision": plan.revision,
        "layout": None if plan.layout is None else load_layout(plan.layout),
        "chat_template": plan.chat_template,
    }
    if plan.backend != "transformers":
        return load_without_weights(model, **options)
    for name in ("device", "max_memory", "offload", "dtype"):
        options[name] = getattr(plan, name)
    return load_model(model, **options)


def _behavior(plan: EvaluationPlan) -> Behavior:
    """What is asked for of the behavior, and no data besides."""
    specs = [judge_spec(plan.behavior, one, is_demo=plan.is_demo) for one in plan.judges or [None]]
    # Requests that do not call for the behavior are among its texts.
    has_uncalled = plan.behavior.uncalled_for is not None and plan.sets is None
    return load_test_part(
        plan.behavior,
        is_demo=plan.is_demo,
        data=plan.data,
        seed=plan.seed,
        prompt_count=plan.limit,
        sets=plan.sets,
        with_texts=TEXTS in specs or has_uncalled,
        with_neutral=plan.backend == "transformers",
    )


def _judges(plan: EvaluationPlan, behavior: Behavior) -> tuple[Judge, ...]:
    specs: Sequence[str | None] = plan.judges or [None]
    judges = tuple(judge_for(behavior, spec, seed=plan.seed) for spec in specs)
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise RecipeError(f"judges {', '.join(names)}; expected different judges")
    return judges


def _generator(
    plan: EvaluationPlan, model: LanguageModel, store: Store, stack: ExitStack
) -> Generator:
    if plan.server is not None:
        shared = None if plan.adapter_dir is None else SharedDirectory.read(plan.adapter_dir)
        server = ServerGenerator(
            model,
            plan.server,
            served=plan.server_model,
            shared=shared,
            concurrency=plan.concurrency,
            store=store,
        )
        return stack.enter_context(server)
    if plan.backend == "llama.cpp":
        return stack.enter_context(LlamaCppGenerator(model, edited=plan.edited, store=store))
    return TransformersGenerator(model, store=store)


def _review_rows(measured: SetMeasurement) -> list[ReviewRow]:
    sides: list[tuple[Literal["base", "edited"], Any]] = [("base", measured.base)]
    if measured.edited is not None:
        sides.append(("edited", measured.edited))
    return [
        ReviewRow(prompt.text, continuation.text, side, verdict)
        for side, given in sides
        for texts, verdicts in zip(given.rounds, given.verdicts, strict=True)
        for prompt, continuation, verdict in zip(
            measured.prompts.prompts, texts, verdicts, strict=True
        )
    ]
