"""Prompts that do not call for a behavior: showing it there is a fault, whichever way an edit goes.

For refusal these are harmless requests, and the fault is over-refusal.
"""

from dataclasses import replace
from pathlib import Path

from modelsurgery.data import demo
from modelsurgery.data.behaviors.format import BehaviorFile
from modelsurgery.data.behaviors.prompting import (
    PromptSet,
    corpus_prompt_set,
    evenly_by,
    plain_prompt_set,
)

DEMO_TEST = 300
DEMO_VALIDATION = 100


def uncalled_prompts(
    described: BehaviorFile, limit: int | None, *, is_demo: bool, data: Path | None, seed: int
) -> tuple[PromptSet | None, tuple[str, ...]]:
    """Held-out prompts that do not call for the behavior, and those that choices are made on.

    None and nothing where the behavior has no such prompts, or prompts of the user's own.

    Args:
        described: the behavior.
        limit: held-out prompts, at most.
        is_demo: take those of the demo data.
        data: directory with local copies of public data sets; None takes the Hub.
        seed: of the choice.
    """
    wanted = described.uncalled_for
    if wanted is None or isinstance(described.prompts, Path):
        return None, ()
    if is_demo:
        test = demo.harmless_requests("test", limit or DEMO_TEST, seed)
        title = "harmless requests of the demo data"
        validation = tuple(demo.harmless_requests("train", DEMO_VALIDATION, seed))
        return plain_prompt_set(wanted.name, title, test, described.max_new_tokens), validation
    if wanted.validation is None:
        return None, ()
    sets = [corpus_prompt_set(one, data, None, seed) for one in wanted.prompts]
    pooled = {prompt.text: prompt for one in sets for prompt in one.prompts}
    chosen = evenly_by(tuple(pooled.values()), limit, ("group",), seed)
    title = " and ".join(one.title or one.name for one in sets)
    held = replace(sets[0], name=wanted.name, title=title, prompts=chosen, by=("group",))
    tuned = corpus_prompt_set(wanted.validation, data, None, seed).texts
    return held, tuple(text for text in tuned if text not in pooled)
