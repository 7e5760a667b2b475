"""What a model can do, before and after an edit: perplexity, LAMBADA, and tasks of lm-eval."""

from collections.abc import Sequence
from pathlib import Path

from modelsurgery.data.corpora import (
    corpora,
    find_corpus,
    load_corpus_passages,
    load_corpus_questions,
)
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.evaluation.capability.published import TASKS, PublishedTask
from modelsurgery.evaluation.capability.results import (
    Item,
    PerplexityResult,
    TaskResult,
    compare_items,
)
from modelsurgery.evaluation.capability.windows import compare_perplexity
from modelsurgery.evaluation.language_modelling import greedy_answers
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

__all__ = [
    "Item",
    "PerplexityResult",
    "PublishedTask",
    "TaskResult",
    "available_tasks",
    "measure_capability",
]


def available_tasks() -> dict[str, PublishedTask]:
    """What can be measured, by name, with the paper's setting and its numbers."""
    return TASKS


def measure_capability(
    model: LanguageModel,
    edits: Sequence[Edit],
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    progress: Progress = silent,
) -> dict[str, PerplexityResult | TaskResult]:
    """Measure tasks with the base and the edited model, item by item.

    Args:
        model: the base model.
        edits: applied together, in memory; none measures the base model alone.
        tasks: names of `available_tasks`.
        data: directory with local copies of the data sets, a folder each.
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
        if name not in TASKS:
            raise RecipeError(f"no capability task {name!r}; expected some of {', '.join(TASKS)}")
        if name == "wikitext":
            text = "".join(load_corpus_passages(name, _located(name, data), split="test"))
            results[name] = compare_perplexity(model, text, edits, limit=limit, progress=progress)
        elif name == "lambada":
            results[name] = _lambada(model, edits, data, limit, progress)
        else:
            from modelsurgery.evaluation.capability.harness import measure_task

            results[name] = measure_task(
                model, edits, name, data, limit, max_new_tokens, progress=progress
            )
    return results


def _lambada(
    model: LanguageModel,
    edits: Sequence[Edit],
    data: Path | None,
    limit: int | None,
    progress: Progress,
) -> TaskResult:
    questions = load_corpus_questions("lambada", _located("lambada", data))[:limit]
    pairs = [(one.question, f" {one.answer}") for one in questions]
    base = greedy_answers(model, pairs, progress=progress)
    edited = greedy_answers(model, pairs, edits, progress=progress) if edits else None
    items = [
        Item(str(number), None, float(hit), None if edited is None else float(edited[number]))
        for number, hit in enumerate(base)
    ]
    return compare_items("lambada", items)


def _located(name: str, data: Path | None) -> Path | None:
    if data is None:
        return None
    found = find_corpus(name, data)
    if found is None:
        raise TextsError(
            f"{data}: no folder {name}; expected {corpora()[name].title}, published at "
            f"{corpora()[name].home}"
        )
    return found
