"""The bridge to lm-evaluation-harness (extra `eval`): its requests, on the model in memory.

The harness makes prompts, batches and truncates, generates, compares likelihoods and scores, as for
the numbers that are published with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modelsurgery.apply.in_memory import edited
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.capability.published import TASKS
from modelsurgery.evaluation.capability.results import Item, TaskResult, compare_items
from modelsurgery.evaluation.capability.tasks import HarnessTasks, find_tasks, quietly
from modelsurgery.evaluation.predictions import last_logits
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.chat_template import Rendered
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import opening_ids, without_beginning

BATCH_ITEMS = 8  # of generated answers
ANSWER_TOKENS = 256  # at most, where a task says nothing; the harness's own default


def measure_task(
    model: LanguageModel,
    edits: Sequence[Edit],
    name: str,
    data: Path | None,
    limit: int | None,
    *,
    include: Path | None = None,
    max_new_tokens: int | None = None,
    progress: Progress = silent,
) -> TaskResult:
    """Scores of base and edited model on the same items.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed.
        RecipeError: no such task, or one that this can't measure.
        TextsError: the task's data are not there.
    """
    found = find_tasks(name, data, include)
    for task in found.tasks.values():
        _shorten(task, max_new_tokens, model.context_length)
    chosen = found.chosen(limit, TASKS[name].per_group if name in TASKS else None)
    after: dict[tuple[str, int], float] = {}
    with progress(name, 2 if edits else 1) as advance:
        base = _scores(model, found, chosen)
        advance(1)
        if edits:
            with edited(model.model, *edits):
                after = _scores(model, found, chosen)
            advance(1)
    several = len(found.tasks) > 1
    items = [
        Item(f"{task}/{number}", task if several else None, score, after.get((task, number)))
        for (task, number), score in base.items()
    ]
    return compare_items(name, items, score=found.score, shots=found.shots)


def _shorten(task: Any, max_new_tokens: int | None, context_length: int) -> None:
    """Keep answers in half of the context: the harness refuses those that leave no prompt."""
    if task.OUTPUT_TYPE != "generate_until":
        return
    own = (task.config.generation_kwargs or {}).get("max_gen_toks", ANSWER_TOKENS)
    length = min(max_new_tokens or own, context_length // 2)
    task.set_config("generation_kwargs", {"max_gen_toks": length}, update=True)


def _scores(
    model: LanguageModel, found: HarnessTasks, chosen: dict[str, list[int]]
) -> dict[tuple[str, int], float]:
    """Score of each chosen item, by task and number, with the model as it is now."""
    metric, _, kept = found.score.partition(",")
    with quietly():
        # Not `simple_evaluate`: it reads all task files, seeds the process, and asks git and pip.
        from lm_eval.defaults import DEFAULT_OTHER_SEED
        from lm_eval.evaluator import evaluate

        tasks = {name: found.tasks[name] for name in chosen}
        for task in tasks.values():
            task.set_fewshot_seed(DEFAULT_OTHER_SEED)
        answer = evaluate(
            _harness_model(model), {"tasks": tasks}, samples=chosen, bootstrap_iters=0
        )
    scores = {
        (name, sample["doc_id"]): float(sample[metric])
        for name in chosen
        for sample in answer["samples"][name]
        if sample["filter"] == kept
    }
    if not all(0 <= score <= 1 for score in scores.values()):
        raise RecipeError(
            f"{found.score} gives {', '.join(chosen)} scores that are not from 0 to 1; expected "
            "a task with shares"
        )
    return scores


def _harness_model(model: LanguageModel) -> Any:
    """The model as the harness takes it, with our token ids.

    Its own (0.4.13) are the tokenizer's, which may put an end behind a prompt and its answer; and a
    prompt that is too long loses its beginning together with the opening.

    The harness takes log-probabilities of all positions of a batch, and then reads those of the
    answers, which are the last ones of a prompt alone in its batch. So no others are made: a prompt
    of 2,000 tokens and a vocabulary of 262,144 would take 4 GB.
    """
    from lm_eval.models.huggingface import HFLM

    opening = opening_ids(model.tokenizer)

    class HarnessModel(HFLM):  # type: ignore[misc]
        @property
        def device(self) -> torch.device:
            return model.device  # its own is that of a weight, which may be offloaded

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            left_truncate_len: int | None = None,
            **_: Any,
        ) -> list[int]:
            text = Rendered(string) if add_special_tokens is False else string
            (ids,) = model.token_ids([text])
            return without_beginning(ids, left_truncate_len or len(ids), opening)

        def tok_batch_encode(
            self,
            strings: list[str],
            padding_side: str = "left",
            left_truncate_len: int | None = None,
            truncation: bool = False,
        ) -> tuple[Any, Any]:
            rows = [self.tok_encode(one, left_truncate_len=left_truncate_len) for one in strings]
            batch = model.batch_of(rows, side=padding_side)
            return batch["input_ids"], batch["attention_mask"]

        def _loglikelihood_tokens(self, requests: Any, *given: Any, **named: Any) -> Any:
            self.answer_tokens = max(len(answer) for _, _, answer in requests)
            kept = [
                (pair, without_beginning(before, self.max_length + 1 - len(ids), opening), ids)
                for pair, before, ids in requests
            ]
            self.batch_size_per_gpu = 1
            try:
                return super()._loglikelihood_tokens(kept, *given, **named)
            finally:
                self.batch_size_per_gpu = BATCH_ITEMS

        def _model_call(self, inps: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            batch = {"input_ids": inps, "attention_mask": torch.ones_like(inps)}
            with torch.inference_mode():
                return last_logits(model.model, batch, self.answer_tokens)

    return HarnessModel(pretrained=model.model, tokenizer=model.tokenizer, batch_size=BATCH_ITEMS)
