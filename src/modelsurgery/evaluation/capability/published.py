"""How the paper sets the capability tasks; what it measured is in `results/published.yaml`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTask:
    """A task in the setting of Wang et al. (NAACL 2025), section 4."""

    title: str  # one line on what it is
    metric: str  # what is measured
    score: str = ""  # the same as a key of lm-eval, metric and filter; empty where we measure it
    harness_name: str = ""  # what lm-eval calls it; empty where we measure it
    shots: int = 0  # solved examples in the prompt
    per_group: int | None = None  # items of each group (BBH's tasks) that they take; None takes all


TASKS = {
    "wikitext": PublishedTask("WikiText-2, test part, windows of 1,024 tokens", "perplexity"),
    "lambada": PublishedTask("the last word of a passage", "accuracy"),
    "gsm8k": PublishedTask(
        "word problems of school mathematics",
        "exact match",
        "exact_match,flexible-extract",
        "gsm8k",
        shots=8,
    ),
    "bbh": PublishedTask(
        "BIG-Bench Hard with chains of thought",
        "exact match",
        "exact_match,get-answer",
        "bbh_cot_fewshot",
        shots=3,
        per_group=40,
    ),
    "mmlu": PublishedTask("multiple choice on 57 subjects", "accuracy", "acc,none", "mmlu"),
    "tydiqa": PublishedTask(
        "questions on passages in nine languages, gold passage given",
        "F1",
        "f1,none",
        "tydiqa_goldp",
        shots=1,
    ),
}
