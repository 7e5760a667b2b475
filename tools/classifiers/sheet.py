"""The calibration sheet of the classifiers, docs/judges.md, from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelsurgery.evaluation.classifiers import Classifier
from modelsurgery.files.atomic import write_text

HEAD = """\
# Accuracy of the packaged judges

`ngrams` is the default judge of `toxicity` and `attitude`: for each, a linear model over hashed
n-grams (one and two words, two to five characters). It needs no network, no model hub and no GPU.
This page is written by `python -m tools.classifiers.train --data DIR`
from local copies of public data sets; the texts themselves are not in the repository.

**Limits.** They know words, not meaning: they miss irony, quotation, denial ("nobody should say …")
and polite cruelty. They know English only. Words for groups of people make a text look more toxic
to them than it is: see the groups of ToxiGen below, whose neutral sentences they should not call
toxic. They read only the continuation, not the prompt. Their rates are estimates. The *difference*
between base and edited model, with the same judge, is more reliable. For claims that others rely
on, add a second judge (`--judge hf:…` or `--judge chat:…`) or review samples yourself
(`--export-for-review 100`), and check how far they agree.
"""
AIMS = """\
The baseline, TF-IDF of words and characters with logistic regression and no limit on size, had an
AUROC of 0.956 on the second half of Jigsaw and 0.883 on the continuations
of RealToxicityPrompts.
"""


def write_sheet(
    path: Path, measured: Mapping[str, tuple[Classifier, Sequence[dict[str, Any]]]]
) -> None:
    """Write the sheet."""
    parts = [HEAD]
    for name in sorted(measured, reverse=True):
        parts.append(_section(name, *measured[name]))
    write_text(path, "\n".join(parts))


def figures_table(figures: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of figures on texts not trained on."""
    lines = [
        "| not trained on | texts | with the behavior | AUROC (95 %) | accuracy at 0.5 | "
        "calibration error |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['source']} | {one['texts']:,} | {one['behavior_share']:.0%} | {one['auroc']:.3f} "
        f"({one['auroc_low']:.3f}-{one['auroc_high']:.3f}) | {one['accuracy']:.1%} | "
        f"{one['calibration_error']:.3f} |"
        for one in figures
    ]
    return "\n".join(lines) + "\n"


def _section(name: str, classifier: Classifier, figures: Sequence[dict[str, Any]]) -> str:
    told = classifier.figures
    training = "\n".join(
        f"| {one['source']} | {one['texts']:,} | {one['license']} |" for one in told["training"]
    )
    setting = ", ".join(
        f"{key.replace('_', ' ')} {value:g}" for key, value in told["setting"].items()
    )
    versions = ", ".join(f"{key} {value}" for key, value in told["versions"].items())
    low, high = classifier.band
    verdicts = (
        "Toxic from a probability of 0.5."
        if low == high
        else f"Negative above {high:.2f}, positive below {low:.2f}, neither between: a band that "
        "holds half of the neutral comments of GoEmotions' validation part."
    )
    parts = [
        f"## {name}, version {classifier.version}\n",
        verdicts + "\n",
        figures_table(figures),
        AIMS if name == "toxicity" else "",
        *(_groups(one) for one in figures if "groups" in one),
        f"| trained on | texts | license |\n|---|---|---|\n{training}\n",
        f"Chosen on a tenth of these, by a hash of the text: {setting}. The calibration (Platt, "
        f"both labels weighted alike) comes from the same tenth. {versions}. The calibration "
        "error is the expected one over 15 equal bins; it is large where the share of the "
        "behavior is far from one half.\n",
    ]
    return "\n".join(part for part in parts if part)


def _groups(figures: dict[str, Any]) -> str:
    rows = [
        f"| {group} | {one['texts']} | {_shown(one['auroc'], '.2f')} | "
        f"{_shown(one['hate_called_behavior'], '.0%')} | "
        f"{_shown(one['neutral_called_behavior'], '.0%')} |"
        for group, one in figures["groups"].items()
    ]
    head = (
        "ToxiGen by group. Its prompts were collected as hateful or as neutral, each a list of "
        "sentences; much of the hate is implied and holds no rude word, which a model of words "
        "cannot see. The last column should be near zero.\n\n"
        "| group | prompts | AUROC | hateful called toxic | neutral called toxic |\n"
        "|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
