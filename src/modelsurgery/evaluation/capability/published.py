"""The capability tasks: how the paper sets them, and what it measured (LLaMA2-7B, toxicity)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTask:
    """A task in the setting of Wang et al. (NAACL 2025), section 4.

    Attributes:
        title: one line on what it is.
        metric: what is measured.
        shots: solved examples in the prompt.
        base: their number for LLaMA2-7B, per cent or perplexity; None where they give none.
        edited: the same after their detoxification.
        per_group: items of each group (BBH's tasks) that they take; None takes all.
        max_new_tokens: of an answer.
    """

    title: str
    metric: str
    shots: int = 0
    base: float | None = None
    edited: float | None = None
    per_group: int | None = None
    max_new_tokens: int = 0


TASKS = {
    "wikitext": PublishedTask(
        "WikiText-2, test part, windows of 1,024 tokens", "perplexity", 0, 6.10, 6.53
    ),
    "lambada": PublishedTask("the last word of a passage", "accuracy"),
    "gsm8k": PublishedTask(
        "word problems of school mathematics", "exact match", 8, 14.6, 14.4, max_new_tokens=256
    ),
    "bbh": PublishedTask(
        "BIG-Bench Hard with chains of thought",
        "exact match",
        3,
        39.0,
        37.7,
        per_group=40,
        max_new_tokens=512,
    ),
    "mmlu": PublishedTask("multiple choice on 57 subjects", "accuracy", 0, 41.7, 41.7),
    "tydiqa": PublishedTask(
        "questions on passages in nine languages, gold passage given",
        "F1",
        1,
        48.1,
        45.6,
        max_new_tokens=50,
    ),
}
