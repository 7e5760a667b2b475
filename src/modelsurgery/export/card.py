"""A model card: what was edited, what changed and what broke, how to use it and how to go back.

huggingface_hub writes the front matter that the Hub reads: base model and its relation, license,
tags, results. Text of others, as names of models, is put on one line and into code marks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modelsurgery.edit.edit import Edit
from modelsurgery.results import RunResults
from modelsurgery.results.tables import CARD, run_table

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

Form = Literal["adapter", "merged"]
NOT_MEASURED = "These edits were not measured, or their results were not given."


@dataclass(frozen=True)
class CardFacts:
    """What a card tells."""

    base_model: str  # id or name of the base
    license: str | None  # of the base, as the Hub spells it; None if it is not known
    form: Form  # an adapter or merged weights
    edits: Sequence[Edit]  # the edits, in order
    results: Sequence[RunResults] = ()  # of their runs, where there are any
    recipes: Sequence[str] = ()  # content of their `recipe.resolved.yaml`, in the same order


def model_card(facts: CardFacts) -> "ModelCard":
    """The card: Markdown with YAML front matter."""
    from huggingface_hub import ModelCard

    parts = [_what(facts), _numbers(facts), _use(facts), _limits(facts)]
    if facts.recipes:
        recipes = "\n\n".join(f"```yaml\n{recipe.strip()}\n```" for recipe in facts.recipes)
        parts.append(f"## Recipe\n\n{recipes}")
    body = "\n\n".join(part.strip() for part in parts)
    return ModelCard(f"---\n{_front_matter(facts).to_yaml()}\n---\n\n{body}\n")


def _front_matter(facts: CardFacts) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    is_adapter = facts.form == "adapter"
    return ModelCardData(
        base_model=facts.base_model,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "transformers",
        license=facts.license,
        pipeline_tag="text-generation",
        tags=["model-surgery", "modelsurgery"],
        # Of results there has to be a model's name; without any it would be a key of its own.
        model_name=f"{facts.base_model} after surgery" if facts.results else None,
        eval_results=[one for result in facts.results for one in _eval_results(result)] or None,
    )


def _eval_results(result: RunResults) -> "list[EvalResult]":
    """What a run measured of the edited model, as the Hub lists it."""
    from huggingface_hub import EvalResult

    behavior, edited = result.behavior.name, result.behavior.edited
    measured = {"perplexity": ("held-out neutral text", result.perplexity.edited)}
    if edited is not None:
        measured["behavior_rate"] = (f"held-out prompts of {behavior}", edited.rate)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=behavior,
            dataset_name=dataset,
            metric_type=metric,
            metric_value=value,
        )
        for metric, (dataset, value) in measured.items()
    ]


def _what(facts: CardFacts) -> str:
    count = len(facts.edits)
    lines = [
        f"# {_code(facts.base_model)} after surgery",
        "",
        f"{'A PEFT adapter' if facts.form == 'adapter' else 'Edited weights'} made with "
        "modelsurgery: multiples of directions were added to some MLP gate rows (after Wang et "
        "al., Model Surgery, NAACL 2025). Nothing was fine-tuned.",
        "",
    ]
    for number, edit in enumerate(facts.edits, 1):
        settings = edit.provenance.settings
        told = [
            f"{edit.row_count:,} of {edit.candidate_rows:,} gate rows",
            f"strength {edit.strength:.4g} (α = {edit.alpha:.4g})",
        ]
        if "rule" in settings:
            told.append(f"rule {settings['rule']}")
        source = settings.get("direction_source") or settings.get("direction_rule")
        if source is not None:
            told.append(f"direction {source}")
        name = f"Edit {number}" if count > 1 else "The edit"
        lines.append(f"- {name}: {', '.join(told)}; SHA-256 `{edit.content_sha256}`")
    return "\n".join(lines)


def _numbers(facts: CardFacts) -> str:
    lines = ["## Base and edited on the same held-out prompts", ""]
    if not facts.results:
        return "\n".join([*lines, NOT_MEASURED])
    table = [run_table(one) for one in facts.results]
    heads = ("measured", *table[0].heads[1:])
    lines += [_line(heads), "|---" * len(heads) + "|"]
    lines += [_line(map(_cell, cells)) for one in table for cells in one.lines(CARD)]
    judges = ", ".join(sorted({_cell(one.judge.name) for one in facts.results}))
    note = f"Intervals are 95 %, over prompts. Judge: {judges}. "
    if len(facts.results) > 1:
        note += "Each edit was measured against the model with the edits before it. "
    return "\n".join([*lines, "", note + "A judge can be wrong, so read some samples yourself."])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _use(facts: CardFacts) -> str:
    if facts.form == "merged":
        return (
            "## Use and undo\n\nLoad it as any model of transformers. The directory contains the "
            "original rows: `surgery undo .` in a local copy restores the base model exactly."
        )
    rank = len({one.direction.tobytes() for edit in facts.edits for one in edit.updates})
    return (
        "## Use and undo\n\n```python\nfrom peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({facts.base_model!r})\n"
        'model = PeftModel.from_pretrained(base, "this repository")  # and .unload() to go back\n'
        "```\n\nWith vLLM: `vllm serve BASE --enable-lora --lora-modules edited=DIRECTORY` "
        f"(rank {rank}; `--max-lora-rank` 16, the default, is enough up to rank 16)."
    )


def _limits(facts: CardFacts) -> str:
    license = facts.license or "unknown; see the base model"
    return (
        "## Intended use and limits\n\nFor research on, and use of, a model with less (or, with "
        "a reversed edit, more) of the behavior above. A lower rate is not a guarantee: the "
        "behavior can still occur, other prompts may give other results, and the table lists all "
        "damage that was measured. Edits that weaken refusals are for measuring robustness, not "
        f"for deployment.\n\nLicense of the base model, which also applies here: {license}."
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    return "`" + " ".join(text.split()).replace("`", "'") + "`"
