"""What a model can do, before and after an edit: perplexity, LAMBADA, and tasks of lm-eval."""

from collections.abc import Sequence
from pathlib import Path

from modelsurgery.data.behaviors.roots import locate_corpus
from modelsurgery.data.corpora import load_corpus_passages, load_corpus_questions
from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.capability.results import (
    Item,
    PerplexityResult,
    TaskResult,
    compare_items,
)
from modelsurgery.evaluation.capability.tasks import check_task
from modelsurgery.evaluation.capability.windows import compare_perplexity
from modelsurgery.evaluation.language_modelling import greedy_answers
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

__all__ = [
    "Item",
    "PerplexityResult",
    "TaskResult",
    "check_tasks",
    "measure_capability",
]

OWN_TASKS = ("wikitext", "lambada")  # measured without lm-eval


def measure_capability(
    model: LanguageModel,
    edits: Sequence[Edit],
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    include: Path | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    progress: Progress = silent,
) -> dict[str, PerplexityResult | TaskResult]:
    """Measure tasks with the base and the edited model, item by item.

    Args:
        model: the base model.
        edits: applied together, in memory; none measures the base model alone.
        tasks: `wikitext`, `lambada`, or names of tasks, groups and tags of lm-evaluation-harness.
        data: directory with local copies of the data sets, a folder each; without it lm-eval
            loads its data from the Hub.
        include: directory with task files of one's own, in lm-eval's YAML.
        limit: items (windows of WikiText) of each task, at most, chosen by a hash of the item.
        max_new_tokens: of an answer; None takes the task's own.
        progress: is told of items done.

    Raises:
        RecipeError: no such task.
        TextsError: its data set is not there.
        EvaluationError: the extra `eval` is not installed.
    """
    results: dict[str, PerplexityResult | TaskResult] = {}
    for name in tasks:
        if name == "wikitext":
            text = "".join(load_corpus_passages(name, locate_corpus(name, data), split="test"))
            results[name] = compare_perplexity(model, text, edits, limit=limit, progress=progress)
        elif name == "lambada":
            results[name] = _lambada(model, edits, data, limit, progress)
        else:
            from modelsurgery.evaluation.capability.harness import measure_task

            results[name] = measure_task(
                model,
                edits,
                name,
                data,
                limit,
                include=include,
                max_new_tokens=max_new_tokens,
                progress=progress,
            )
    return results


def check_tasks(tasks: Sequence[str], include: Path | None = None) -> None:
    """Refuse tasks that can't be measured, before anything is loaded.

    Raises:
        RecipeError: no such task.
        EvaluationError: the extra `eval` is not installed.
    """
    for name in tasks:
        if name not in OWN_TASKS:
            check_task(name, include)


def _lambada(
    model: LanguageModel,
    edits: Sequence[Edit],
    data: Path | None,
    limit: int | None,
    progress: Progress,
) -> TaskResult:
    questions = load_corpus_questions("lambada", locate_corpus("lambada", data))[:limit]
    pairs = [(one.question, f" {one.answer}") for one in questions]
    base = greedy_answers(model, pairs, progress=progress)
    edited = greedy_answers(model, pairs, edits, progress=progress) if edits else None
    items = [
        Item(str(number), None, float(hit), None if edited is None else float(edited[number]))
        for number, hit in enumerate(base)
    ]
    return compare_items("lambada", items)
