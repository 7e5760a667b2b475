"""The bridge to lm-evaluation-harness (extra `eval`): its requests, on the model in memory.

The tasks are ours, made from local files, so that nothing is fetched; the harness batches and
truncates, generates, and compares likelihoods, as for the numbers that are published with it.
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from modelsurgery.apply.in_memory import edited
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.capability.items import LETTERS, Question, load_items, score
from modelsurgery.evaluation.capability.published import TASKS
from modelsurgery.evaluation.capability.results import Item, TaskResult, compare_items
from modelsurgery.evaluation.predictions import last_logits
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.chat_template import Rendered
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import opening_ids, without_beginning

BATCH_ITEMS = 8  # of generated answers


def measure_task(
    model: LanguageModel,
    edits: Sequence[Edit],
    task: str,
    data: Path | None,
    limit: int | None,
    max_new_tokens: int | None = None,
    *,
    progress: Progress = silent,
) -> TaskResult:
    """Scores of base and edited model on the same items.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed.
        TextsError: the task's files are not there.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError(
            f"task {task!r} needs lm-evaluation-harness; pip install 'modelsurgery[eval]'"
        )
    questions = load_items(task, data, limit)
    # The harness refuses answers as long as the model's context; half of it is for the prompt.
    length = min(max_new_tokens or TASKS[task].max_new_tokens, model.context_length // 2)
    with progress(task, 2 if edits else 1) as advance:
        base = _scores(model, task, questions, length)
        advance(1)
        after = None
        if edits:
            with edited(model.model, *edits):
                after = _scores(model, task, questions, length)
            advance(1)
    items = [
        Item(one.identity, one.group, base[number], None if after is None else after[number])
        for number, one in enumerate(questions)
    ]
    return compare_items(task, items)


def _scores(
    model: LanguageModel, task: str, questions: Sequence[Question], max_new_tokens: int
) -> list[float]:
    """Score of each question with the model as it is now."""
    with _quietly():
        import datasets
        import lm_eval
        from lm_eval.api.task import ConfigurableTask

        rows = [asdict(replace(one, group=one.group or "")) for one in questions]
        table = datasets.Dataset.from_list([{**row, "row": k} for k, row in enumerate(rows)])
        config: dict[str, Any] = {
            "task": task,
            "custom_dataset": lambda **_: datasets.DatasetDict({"test": table}),
            "test_split": "test",
            "num_fewshot": 0,  # the shots stand in the prompt
            "doc_to_text": lambda row: row["prompt"],
            "metadata": {"version": 1},
        }
        if questions[0].is_choice:
            config |= {
                "output_type": "multiple_choice",
                "doc_to_choice": lambda _: list(LETTERS),
                "doc_to_target": lambda row: LETTERS.index(row["answers"][0]),
                "metric_list": [{"metric": "acc"}],
            }
        else:
            config |= {
                "output_type": "generate_until",
                "doc_to_target": lambda row: row["answers"][0],
                "generation_kwargs": {
                    "until": list(questions[0].until),
                    "max_gen_toks": max_new_tokens,
                    "do_sample": False,
                },
                "process_results": lambda row, said: {
                    "score": score(task, questions[row["row"]], said[0])
                },
                "metric_list": [
                    {"metric": "score", "aggregation": "mean", "higher_is_better": True}
                ],
            }
        answer = lm_eval.simple_evaluate(
            model=_harness_model(model, 1 if questions[0].is_choice else BATCH_ITEMS),
            tasks=[ConfigurableTask(config=config)],
            bootstrap_iters=0,
            log_samples=True,
        )
    samples = sorted(answer["samples"][task], key=lambda one: one["doc_id"])
    return [float(one["acc" if questions[0].is_choice else "score"]) for one in samples]


def _harness_model(model: LanguageModel, batch_items: int) -> Any:
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
            return super()._loglikelihood_tokens(kept, *given, **named)

        def _model_call(self, inps: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            batch = {"input_ids": inps, "attention_mask": torch.ones_like(inps)}
            with torch.inference_mode():
                return last_logits(model.model, batch, self.answer_tokens)

    return HarnessModel(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_items)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the harness's logs, progress bars and deprecations."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
