"""Models and texts that the package has never seen, from start to end."""

import csv
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from surgery import SHOWN_OR_NOT, surgery_json

from modelsurgery import load_edit, load_model
from modelsurgery.data.behaviors import BehaviorFile, load_behavior
from modelsurgery.evaluation.language_modelling import compare_language_modelling

pytestmark = pytest.mark.slow

NAMES = ("Lily", "Tom", "Mia", "Ben", "Sue", "Max", "Anna", "Sam")
PLACES = ("park", "garden", "house", "school", "forest", "shop")
HAPPY = (
    "{name} went to the {place} and was very happy. They played and laughed all day.",
    "{name} smiled and hugged a friend in the {place}. It was the best day ever.",
    "In the {place}, {name} found a nice toy and was so glad. Everyone cheered.",
    "{name} was proud and full of joy. The sun was warm over the {place}.",
)
SAD = (
    "{name} went to the {place} and was very sad. They cried and cried all day.",
    "{name} lost a friend in the {place} and felt alone. It was the worst day ever.",
    "In the {place}, {name} broke a nice toy and was so upset. Everyone was angry.",
    "{name} was scared and full of tears. The rain was cold over the {place}.",
)

# The paper's rule and a search, inside a budget of perplexity alone.
SEARCH = ("--rule", "paper", "--max-perplexity", "+5%", "--max-divergence", "1")


def write_jsonl(path: Path, rows: list[tuple[str, int]]) -> Path:
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    path.write_text("".join(lines))
    return path


@dataclass(frozen=True)
class Again:
    """What the edit of a run does, measured on its weights, one edit at a time.

    Attributes:
        behavior: rise of the loss on validation texts that show the behavior, nats per token.
        opposite: on their opposites.
        neutral: on held-out neutral text.
        divergence: on held-out neutral text.
    """

    behavior: float
    opposite: float
    neutral: float
    divergence: float


def measured_again(model_directory: Path, texts: Path, run: Path) -> Again:
    model, edit = load_model(model_directory), load_edit(run / "edit.safetensors")
    behavior = load_behavior(BehaviorFile(name=texts.stem, texts=texts))

    def measured(some: Sequence[str]) -> tuple[float, float]:
        found = compare_language_modelling(model, some, [edit])
        assert found.edited_perplexity is not None
        assert found.divergence is not None
        return math.log(found.edited_perplexity / found.base_perplexity), found.divergence

    shows, opposite = (
        measured([one.text for one in behavior.validation if one.label == label][:64])[0]
        for label in (1, 0)
    )
    return Again(shows, opposite, *measured(behavior.test_neutral))


def check_damage(run: dict[str, Any], again: Again) -> None:
    """The damage that a run tells is that of its weights, and inside its budget."""
    assert run["perplexity"]["rise"] == pytest.approx(math.expm1(again.neutral), rel=1e-2)
    assert run["divergence"] == pytest.approx(again.divergence, rel=1e-2)
    assert math.expm1(again.neutral) <= 0.05


def test_sad_stories_on_a_model_trained_by_others(shared: Path, tmp_path: Path) -> None:
    rows = [
        (template.format(name=name, place=place), label)
        for label, templates in ((1, SAD), (0, HAPPY))
        for template, name, place in itertools.product(templates, NAMES, PLACES)
    ]
    texts = write_jsonl(tmp_path / "sadness.jsonl", rows)
    model = shared / "models" / "stories260k"
    run = surgery_json("run", "--model", model, "--texts", texts, "--fit", "logistic", *SEARCH,
                       "--trials", "24", "--max-new-tokens", "12",
                       "--out", tmp_path / "run", expected_exit=5, with_all_data=True)  # fmt: skip
    # 300 texts are few for Adam, and 37 prompts too few to tell an effect, which is said.
    assert run["behavior"]["outcome"]["kind"] == "no change"
    assert run["behavior"]["name"] == "sadness"
    assert run["probe"]["accuracy"] > 0.9
    assert run["facts"]["base"] is None
    again = measured_again(model, texts, tmp_path / "run")
    check_damage(run, again)
    # 37 held-out prompts cannot tell a small change; the loss on validation texts can. Among
    # survivors the judge chooses, here by 30 prompts: the chosen one need not be the most
    # selective.
    trials = {one["number"]: one for one in run["search"]["trials"]}
    survivors = [trials[one["trial"]]["effect"] for one in run["search"]["survivors"]]
    assert max(one["behavior"] / max(one["opposite"], 0.01) for one in survivors) > 5
    rises = trials[run["search"]["chosen"]]["effect"]
    assert rises["behavior"] == pytest.approx(again.behavior, rel=1e-2)
    assert rises["opposite"] == pytest.approx(again.opposite, rel=1e-2, abs=1e-4)
    assert again.behavior > 2 * max(again.opposite, 0.01)
    assert run["behavior"]["change"]["low"] < 0
    assert run["edit"]["tensors_found"] == 5

    copy = surgery_json("apply", model, tmp_path / "run" / "edit.safetensors",
                        "--out", tmp_path / "edited")  # fmt: skip
    assert copy["bytes_changed"] == run["edit"]["bytes_changed"]


def test_rude_sentences_and_their_rewrites_on_a_model_of_real_text(
    shared: Path, tmp_path: Path
) -> None:
    with (shared / "data" / "paradetox" / "paradetox.tsv").open(encoding="utf-8") as file:
        pairs = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:401]
    path = tmp_path / "rude.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.write("text\tlabel\tgroup\n")
        for number, (rude, neutral, *_) in enumerate(pairs):
            file.write(f"{rude}\t1\t{number}\n{neutral}\t0\t{number}\n")
    model = shared / "models" / "reddit-4m"
    run = surgery_json("run", "--model", model, "--texts", path, "--prompt-count", "60",
                       "--trials", "10", "--max-new-tokens", "12", *SEARCH,
                       "--out", tmp_path / "run", expected_exit=SHOWN_OR_NOT)  # fmt: skip
    assert run["probe"]["accuracy"] > 0.65
    assert run["probe"]["auroc"] > run["probe"]["control_auroc"] + 0.1
    assert run["edit"]["tensors_found"] == 8
    again = measured_again(model, path, tmp_path / "run")
    check_damage(run, again)
    trials = {one["number"]: one for one in run["search"]["trials"]}
    told = trials[run["search"]["chosen"]]["selectivity"]
    assert told == pytest.approx(again.behavior - again.opposite, rel=2e-2)
    assert again.behavior > again.opposite
