"""The capability tasks: how the paper sets them, and what it measured (LLaMA2-7B, toxicity)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTask:
    """A task in the setting of Wang et al. (NAACL 2025), section 4.

    Attributes:
        title: one line on what it is.
        metric: what is measured.
        score: the same as a key of lm-eval, metric and filter; empty where we measure it.
        harness_name: what lm-eval calls it; empty where we measure it.
        shots: solved examples in the prompt.
        base: their number for LLaMA2-7B, per cent or perplexity; None where they give none.
        edited: the same after their detoxification.
        per_group: items of each group (BBH's tasks) that they take; None takes all.
    """

    title: str
    metric: str
    score: str = ""
    harness_name: str = ""
    shots: int = 0
    base: float | None = None
    edited: float | None = None
    per_group: int | None = None


TASKS = {
    "wikitext": PublishedTask(
        "WikiText-2, test part, windows of 1,024 tokens", "perplexity", base=6.10, edited=6.53
    ),
    "lambada": PublishedTask("the last word of a passage", "accuracy"),
    "gsm8k": PublishedTask(
        "word problems of school mathematics",
        "exact match",
        "exact_match,flexible-extract",
        "gsm8k",
        shots=8,
        base=14.6,
        edited=14.4,
    ),
    "bbh": PublishedTask(
        "BIG-Bench Hard with chains of thought",
        "exact match",
        "exact_match,get-answer",
        "bbh_cot_fewshot",
        shots=3,
        base=39.0,
        edited=37.7,
        per_group=40,
    ),
    "mmlu": PublishedTask(
        "multiple choice on 57 subjects", "accuracy", "acc,none", "mmlu", base=41.7, edited=41.7
    ),
    "tydiqa": PublishedTask(
        "questions on passages in nine languages, gold passage given",
        "F1",
        "f1,none",
        "tydiqa_goldp",
        shots=1,
        base=48.1,
        edited=45.6,
    ),
}
