"""Evaluating a model, and edits of it, on a behavior: what changed, and what broke.

`evaluate` measures base and edited model on the same held-out prompts of a behavior's protocol,
then the damage: perplexity and divergence on neutral text, facts, and tasks that were asked for.
Everything that is generated and judged is kept in the run directory's store, so that the same
command goes on after an interruption and ends with the same results.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from modelsurgery.checkpoint.layouts import load_layout
from modelsurgery.data import demo
from modelsurgery.data.behaviors import Behavior, BehaviorFile, load_held_out
from modelsurgery.data.behaviors.roots import local_root
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit
from modelsurgery.errors import EvaluationError, RecipeError
from modelsurgery.evaluation.capability import available_tasks, measure_capability
from modelsurgery.evaluation.generation import Generator, TransformersGenerator
from modelsurgery.evaluation.generation.vllm import VllmGenerator
from modelsurgery.evaluation.judges import TEXTS, Judge, judge_for, judge_spec
from modelsurgery.evaluation.judges.review import ReviewRow, export_for_review
from modelsurgery.evaluation.language_modelling import LanguageModelling, compare_language_modelling
from modelsurgery.evaluation.measurement import facts_right, measure_facts
from modelsurgery.evaluation.protocol import (
    Comparison,
    SetMeasurement,
    corrected_together,
    decodings_of,
    measure_prompt_set,
)
from modelsurgery.evaluation.statistics import Rate
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model
from modelsurgery.pipeline.runs import STORE_FILE, RunDirectory, open_run
from modelsurgery.report.html import write_report

REVIEW_FILE = "review.csv"


class EvaluationPlan(BaseModel):
    """What to measure on which model.

    Attributes:
        model: directory, name of a fetched model or id of the Hub; `embedded` is the model that
            ships with the package.
        edits: edit files, applied together; none measures the model as it is.
        behavior: what is measured, as its file says.
        data: directory with local copies of public data sets, or `hub`; None takes what ships
            with the package, else the Hub.
        judges: who judges, as `--judge` spells them; the first decides. None: the behavior's own.
        sets: names of the behavior's prompt sets that are measured; None takes all.
        limit: prompts of each set, at most.
        samples: sampled continuations of each prompt; 0 continues greedily, once.
        tasks: capability tasks.
        task_limit: items of each capability task, at most.
        export_for_review: so many continuations are written to a sheet for a person to label.
        backend: what generates.
        seed: of sampling, of the choice of prompts, and of the split of a behavior's own texts.
        device: cpu, cuda, …; None takes a GPU where there is one.
        dtype: float32, bfloat16 or float16; None takes f32 on a CPU, else the stored one.
        revision: of a model on the Hub.
        layout: file that says where the gate rows are, for a family that is not known.
        chat_template: name of one of the model's chat templates; None takes `default`.
        now: the time that a chat template is told; None takes the time when the run begins.
        store: file that keeps what was generated and judged; None keeps it in the run directory.
        out: run directory; None takes a new one below `surgery-runs`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    edits: tuple[Path, ...] = ()
    behavior: BehaviorFile
    data: Path | None = None
    judges: tuple[str, ...] = ()
    sets: tuple[str, ...] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    samples: Annotated[int, Field(ge=0)] = 0
    tasks: tuple[str, ...] = ()
    task_limit: Annotated[int, Field(ge=1)] | None = None
    export_for_review: Annotated[int, Field(ge=1)] | None = None
    backend: Literal["transformers", "vllm"] = "transformers"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    layout: Path | None = None
    chat_template: str | None = None
    now: datetime | None = None
    store: Path | None = None
    out: Path | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the model is the embedded one."""
        return demo.is_embedded(self.model)

    @property
    def is_lab(self) -> bool:
        """Whether the behavior is of the embedded model's world."""
        return self.is_embedded and self.behavior.lab


class Told(Protocol):
    """A result that can be told in plain values."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        plan: what was asked for.
        directory: where everything was written.
        model: name and fingerprint of the model.
        edits: hash of each edit's content, by file name.
        judges: name, version and note of each judge.
        sets: the behavior on each prompt set.
        language_modelling: perplexity and divergence on neutral text; None with another backend.
        neutral_note: what the neutral text is.
        facts: exact match, base and edited, None for the latter when there is no edit; None where
            there are no facts.
        tasks: results of capability tasks, by name.
        speed: tokens per second; not part of the results, which are the same in every run.
    """

    plan: EvaluationPlan
    directory: Path
    model: tuple[str, str]
    edits: dict[str, str]
    judges: tuple[dict[str, str], ...]
    sets: tuple[SetMeasurement, ...]
    language_modelling: LanguageModelling | None
    neutral_note: str
    facts: tuple[Rate, Rate | None] | None
    tasks: Mapping[str, Told]
    speed: dict[str, Any]

    @property
    def wholes(self) -> dict[str, Comparison]:
        """Rates on each prompt set, p-values corrected for the number of sets."""
        return corrected_together({one.prompts.name: one.whole for one in self.sets})

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `results.json`: no times, no paths of the run."""
        behavior, wholes = self.plan.behavior, self.wholes
        return {
            "model": {"name": self.model[0], "fingerprint": self.model[1]},
            "edits": self.edits,
            "behavior": {
                "name": behavior.name,
                "title": behavior.title,
                "shows": behavior.shows,
                "opposite": behavior.opposite,
            },
            "judges": list(self.judges),
            "sets": [{**one.to_json(), **wholes[one.prompts.name].to_json()} for one in self.sets],
            "damage": {
                "neutral_text": self._neutral_json(),
                "facts": self._facts_json(),
                "tasks": {name: one.to_json() for name, one in self.tasks.items()},
            },
            "seed": self.plan.seed,
        }

    def _facts_json(self) -> list[dict[str, Any] | None] | None:
        if self.facts is None:
            return None
        return [None if rate is None else asdict(rate) for rate in self.facts]

    def _neutral_json(self) -> dict[str, Any] | None:
        measured = self.language_modelling
        if measured is None:
            return None
        base, edited = measured.base_perplexity, measured.edited_perplexity
        return {
            "text": self.neutral_note,
            "tokens": measured.tokens,
            "base_perplexity": base,
            "edited_perplexity": edited,
            "rise": None if edited is None else edited / base - 1,
            "divergence": measured.divergence,
        }


def evaluate(plan: EvaluationPlan, *, progress: Progress = silent) -> Evaluation:
    """Measure a model, and edits of it, on a behavior and on what must not break.

    Args:
        plan: what to measure.
        progress: is told what is going on.

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
    with progress("load model", 0):
        model = _model(plan)
    name = demo.EMBEDDED if plan.is_embedded else Path(plan.model).resolve().name
    values = plan.model_dump(mode="json", exclude={"out", "store"})
    with (
        ExitStack() as stack,
        open_run(
            plan.out, values, default_name=f"{name}-{plan.behavior.name}-evaluation", keep=True
        ) as run,
        Store(plan.store or run.path / STORE_FILE) as store,
    ):
        model = replace(model, now=run.now)
        generator = _generator(plan, model, store, stack)
        chosen = list(edits.values())
        measured = tuple(
            measure_prompt_set(
                generator,
                chosen,
                prompts,
                judges,
                decodings_of(prompts, plan.samples, plan.seed),
                store=store,
                progress=progress,
            )
            for prompts in behavior.prompt_sets
        )
        is_ours = plan.backend == "transformers"
        facts = behavior.facts if is_ours else ()
        result = Evaluation(
            plan,
            run.path,
            (name, model.fingerprint()),
            {path: edit.content_sha256 for path, edit in edits.items()},
            tuple({"name": one.name, "version": one.version, "note": one.note} for one in judges),
            measured,
            compare_language_modelling(model, behavior.neutral, chosen, progress=progress)
            if is_ours
            else None,
            behavior.neutral_note,
            _facts(model, chosen, facts) if facts else None,
            measure_capability(
                model,
                chosen,
                plan.tasks,
                data=local_root(plan.data),
                limit=plan.task_limit,
                progress=progress,
            ),
            generator.speed.to_json(),
        )
        _write(plan, run, result)
    write_report(run.path)
    return result


def _facts(
    model: LanguageModel, edits: Sequence[Edit], facts: Sequence[tuple[str, str]]
) -> tuple[Rate, Rate | None]:
    if edits:
        return measure_facts(model, edits, facts)
    return facts_right(model, (), facts), None


def _check_names(plan: EvaluationPlan) -> None:
    """Refuse what does not exist before anything is loaded."""
    known = available_tasks()
    for name in plan.tasks:
        if name not in known:
            raise RecipeError(f"no capability task {name!r}; expected some of {', '.join(known)}")
    if plan.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise EvaluationError("--backend vllm needs vLLM; pip install 'modelsurgery[vllm]'")
    if plan.tasks and plan.backend != "transformers":
        raise RecipeError("capability tasks run with --backend transformers only; leave them out")


def _model(plan: EvaluationPlan) -> LanguageModel:
    return load_model(
        demo.embedded_model_path() if plan.is_embedded else plan.model,
        device=plan.device if plan.backend == "transformers" else "cpu",
        dtype=plan.dtype,
        revision=plan.revision,
        layout=None if plan.layout is None else load_layout(plan.layout),
        chat_template=plan.chat_template,
    )


def _behavior(plan: EvaluationPlan) -> Behavior:
    """What is asked for of the behavior, and no data besides."""
    specs = [judge_spec(plan.behavior, one, is_lab=plan.is_lab) for one in plan.judges or [None]]
    return load_held_out(
        plan.behavior,
        is_lab=plan.is_lab,
        data=plan.data,
        seed=plan.seed,
        prompt_count=plan.limit,
        sets=plan.sets,
        with_texts=TEXTS in specs,
        with_neutral=plan.backend == "transformers",
    )


def _judges(plan: EvaluationPlan, behavior: Behavior) -> tuple[Judge, ...]:
    specs: Sequence[str | None] = plan.judges or [None]
    judges = tuple(judge_for(behavior, spec, seed=plan.seed) for spec in specs)
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise RecipeError(f"judges {', '.join(names)}; expected each of them once")
    return judges


def _generator(
    plan: EvaluationPlan, model: LanguageModel, store: Store, stack: ExitStack
) -> Generator:
    if plan.backend == "vllm":
        return stack.enter_context(VllmGenerator(model))
    return TransformersGenerator(model, store=store)


def _write(plan: EvaluationPlan, run: RunDirectory, result: Evaluation) -> None:
    for one in result.sets:
        run.write_lines(f"samples/{one.prompts.name}.jsonl", one.samples())
    if plan.export_for_review is not None:
        rows = [row for one in result.sets for row in _review_rows(one)]
        export_for_review(rows, run.path / REVIEW_FILE, plan.export_for_review, plan.seed)
    run.finish(result.to_json(), apart=result.speed)


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
