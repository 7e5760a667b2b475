"""`surgery edit` from labeled texts: the model reads them, and an edit is written."""

import json
from pathlib import Path

import pytest

from command_line import Made, Refused, Surgery, write_labeled
from modelsurgery import load_edit


@pytest.mark.parametrize("rule", ["natural-gradient", "least-squares"])
def test_an_edit_of_texts_goes_on_a_copy_and_off_again(
    surgery: Surgery, made: Made, tmp_path: Path, rule: str
) -> None:
    texts = write_labeled(tmp_path / "texts.jsonl", 120)
    out = tmp_path / "e.safetensors"
    outcome = surgery("edit", made.model, "--texts", texts, "--rule", rule, "--out", out,
                      "--rows", "0.2", "--strength", 0.5, "--json")  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    assert (told["rule"], told["rows"], told["strength"]) == (rule, 29, pytest.approx(0.5))
    edit = load_edit(out)
    assert edit.provenance.settings["rule"] == rule
    assert all(update.base_rows_sha256 for update in edit.updates)
    assert surgery("apply", made.model, out, "--out", tmp_path / "copy").code == 0
    weights = "model.safetensors"
    before = (made.model / weights).read_bytes()
    assert (tmp_path / "copy" / weights).read_bytes() != before
    assert surgery("undo", tmp_path / "copy").code == 0
    assert (tmp_path / "copy" / weights).read_bytes() == before


def test_toward_is_the_other_way_and_the_budget_gives_a_strength(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    texts = write_labeled(tmp_path / "texts.jsonl", 120)
    out = tmp_path / "e.safetensors"
    outcome = surgery("edit", made.model, "--texts", texts, "--toward", "--out", out,
                      "--rows", "0.2", "--max-divergence", 0.005, "--json")  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["strength"] < 0


def test_one_edit_of_several_files_with_weights_and_directions(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    first = write_labeled(tmp_path / "rude.jsonl", 120)
    (tmp_path / "other").mkdir()
    lines = first.read_text().splitlines()[:80]
    second = tmp_path / "other" / "rude.jsonl"  # of the same name
    second.write_text("\n".join(lines))
    out = tmp_path / "e.safetensors"
    both = ("--texts", first, "--texts", second)
    weighed = ("--weight", 1, "--weight", 0.5)
    outcome = surgery("edit", made.model, *both, *weighed, "--out", out, "--rows", "0.2", "--json")
    assert outcome.code == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    edit = load_edit(out)
    assert edit.provenance.settings["behaviors"] == {
        "rude": {"direction": "away", "weight": 1.0},
        "rude-2": {"direction": "away", "weight": 0.5},
    }
    assert set(told["measured"]["by_behavior"]) == {"rude", "rude-2"}
    assert told["predicted"]["gain"] > 0
    shown = surgery("inspect", out).stdout
    assert "rude-2: gain" in shown
    ways = ("--direction", "away", "--direction", "toward", "--strength", 0.5)
    out = tmp_path / "mixed.safetensors"
    outcome = surgery("edit", made.model, *both, *ways, "--out", out, "--rows", "0.2")
    assert outcome.code == 0, outcome.stderr
    behaviors = load_edit(out).provenance.settings["behaviors"]
    assert [one["direction"] for one in behaviors.values()] == ["away", "toward"]


def test_several_files_and_what_does_not_go_with_them(
    refused: Refused, made: Made, tmp_path: Path
) -> None:
    start = ("edit", made.model, "--texts", made.texts, "--texts", made.texts,
             "--out", tmp_path / "e.safetensors")  # fmt: skip
    refused(*start, "--weight", 1, code=2, says="2 --texts and 1 --weight; give one for each")
    refused(*start, "--direction", "away", code=2, says="2 --texts and 1 --direction")
    ways = ("--direction", "away", "--direction", "toward")
    refused(*start, *ways, "--toward", code=2, says="give either --toward, for all --texts, or")
    refused(*start, "--direction", "away", "--direction", "up", code=2,
            says="direction 'up'; expected away or toward")  # fmt: skip
    refused(*start, "--weight", 1, "--weight", 0, code=2, says="expected a positive number")
    refused(*start, "--rule", "paper", code=2,
            says="rule 'paper' supports one behavior only; use natural-gradient")  # fmt: skip
    probed = ("edit", made.model, "--probe", made.probe, "--out", tmp_path / "e.safetensors")
    refused(*probed, "--strength", 1, "--weight", 1, code=2, says="--weight needs --texts")


def test_texts_or_a_probe_and_what_belongs_to_which(
    refused: Refused, made: Made, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "e.safetensors")
    either = "give either --texts FILE or --probe FILE"
    refused("edit", made.model, *out, code=2, says=either)
    both = ("--texts", made.texts, "--probe", made.probe)
    refused("edit", made.model, *both, *out, code=2, says=either)
    refused("edit", made.model, "--texts", made.texts, "--alpha", 1, *out, code=2,
            says="--alpha needs --probe")  # fmt: skip
    refused("edit", made.model, "--probe", made.probe, "--rule", "paper", "--strength", 1, *out,
            code=2, says="--rule needs --texts")  # fmt: skip
    refused("edit", made.model, "--texts", made.texts, "--rule", "best", *out, code=2,
            says="'best' is not one of 'natural-gradient', 'least-squares', 'paper'")  # fmt: skip
