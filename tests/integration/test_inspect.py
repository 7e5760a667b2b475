"""`surgery inspect` with a model and beside other edits, as it is typed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Made, Outcome, Refused, Surgery, write_labeled
from modelsurgery import load_edit, load_probe, save_edit
from modelsurgery.data.demo.lexicon import markers
from tiny import write_tiny_model


def answer(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr == ""
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def other(surgery: Surgery, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second edit of the tiny model, of half as many rows and another direction."""
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    source = ("--probe", made.probe, "--direction-source", "W1-W0")
    arguments = (*source, "--rows", "0.1", "--strength", 1)
    outcome = surgery("edit", made.model, *arguments, "--out", path)
    assert outcome.code == 0, outcome.stderr
    return path


@pytest.fixture(scope="module")
def rude_edit(surgery: Surgery, demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edit of the demo model, away from rude talk."""
    from modelsurgery.data import demo

    directory = tmp_path_factory.mktemp("rude")
    texts, probe, edit = (
        directory / name for name in ("t.jsonl", "p.safetensors", "e.safetensors")
    )
    rows = demo.labeled_texts("toxicity", 200, 0)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    texts.write_text("\n".join(lines))
    for arguments in (
        ("probe", demo_path, "--texts", texts, "--fit", "mean-difference", "--out", probe),
        ("edit", demo_path, "--probe", probe, "--direction-source", "mean-difference",
         "--rows", "0.02", "--strength", "3", "--out", edit),
    ):  # fmt: skip
        outcome = surgery(*arguments)
        assert outcome.code == 0, outcome.stderr
    return edit


def test_an_edit_is_looked_into_with_its_model(surgery: Surgery, made: Made) -> None:
    plain = answer(surgery("inspect", made.edit, "--json"))
    found = answer(surgery("inspect", made.edit, "--model", made.model, "--json"))
    inside = found.pop("inside")
    assert found == plain
    edit = load_edit(made.edit)
    assert sum(one["chosen"] for one in inside["rows_by_layer"]) == edit.row_count
    assert len(inside["neurons"]) == min(12, edit.row_count)
    assert len(inside["tokens"]["direction"]["toward"]) == 10
    assert inside["activations"] is None
    assert "surgery run" in inside["missing"]["activations"]


def test_an_edit_is_explained_by_its_rule_without_a_model(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    texts = write_labeled(tmp_path / "texts.jsonl", 120)
    out = tmp_path / "e.safetensors"
    outcome = surgery("edit", made.model, "--texts", texts, "--out", out, "--rows", "0.2")
    assert outcome.code == 0, outcome.stderr
    told = answer(surgery("inspect", out, "--json"))["explanation"]
    edit = load_edit(out)
    assert sum(one["rows"] for one in told["by_layer"]) == edit.row_count
    assert sum(one["share"] for one in told["by_layer"]) == pytest.approx(1)
    gains = [one["gain"] for one in told["rows"]]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0
    assert edit.measured is not None
    assert told["measured"] == edit.measured.to_json()
    assert told["measured"]["gain"] > 0
    shown = surgery("inspect", out).stdout
    first = told["rows"][0]
    for words in (
        "predicted by the rule",
        f"predicted {told['predicted']['gain']:.2g}, measured {told['measured']['gain']:.2g}",
        "predicted gain by layer",
        "the rows with the largest predicted gain",
        f"{first['layer']}, {first['row']}",
    ):
        assert words in shown, words
    weaker = tmp_path / "weaker.safetensors"
    save_edit(edit.scaled(-0.5), weaker)
    shown = surgery("inspect", weaker).stdout
    assert f"predicted {told['predicted']['gain'] / 2:.2g}, not measured" in shown
    assert answer(surgery("inspect", made.edit, "--json"))["explanation"] is None


def test_tables_are_shown_in_a_terminal(surgery: Surgery, made: Made, other: Path) -> None:
    outcome = surgery("inspect", made.edit, "--model", made.model, "--with", other)
    assert (outcome.code, outcome.stderr) == (0, "")
    shown = "".join(outcome.stdout.split())  # long titles are broken anywhere
    for title in (
        "rows by layer",
        "cosines with the direction",
        "the direction in tokens",
        "the neurons that point most away from it",
        f"with {other}",
        "nearest of the other",
    ):
        assert "".join(title.split()) in shown, title
    assert "{" not in outcome.stdout


def test_offensive_tokens_are_masked_unless_asked_for(surgery: Surgery, rude_edit: Path) -> None:
    arguments = ("inspect", rude_edit, "--model", "demo")
    found = answer(surgery(*arguments, "--json"))["inside"]["tokens"]["direction"]["toward"]
    rude = [text for text, _, is_offensive in found if is_offensive]
    assert rude
    demo_words = markers("people", "rude").words
    assert demo_words.intersection(text.strip("·") for text in rude)
    masked, shown = (surgery(*arguments, *more) for more in ((), ("--show-offensive",)))
    for text in rude:
        kept = text[:2] + "•" * (len(text) - 2)
        assert text in shown.stdout
        assert text not in masked.stdout.split()
        assert kept in masked.stdout
        assert kept not in shown.stdout


def test_other_edits_are_compared_with_and_without_a_model(
    surgery: Surgery, made: Made, other: Path
) -> None:
    one, two = load_edit(made.edit), load_edit(other)
    rows = [
        {(update.address, int(row)) for update in edit.updates for row in update.rows}
        for edit in (one, two)
    ]
    with_model = ("--model", made.model)
    for more in ((), with_model):
        found = answer(surgery("inspect", made.edit, "--with", other, *more, "--json"))
        (compared,) = found["with"]
        assert compared["edit"] == str(other)
        assert compared["rows"] == [len(some) for some in rows]
        assert compared["shared_rows"] == len(rows[0] & rows[1])
        assert (compared["nearest"] is None) == (more == ())
    neurons = [(entry["layer"], entry["row"]) for entry in found["inside"]["neurons"]]
    assert [(entry["layer"], entry["row"]) for entry in compared["nearest"]] == neurons
    shown = surgery("inspect", made.edit, "--with", other)
    assert f"with {other}" in shown.stdout.replace("\n", "")


def test_an_edit_is_looked_into_on_held_out_texts(surgery: Surgery, rude_edit: Path) -> None:
    probe = rude_edit.parent / "p.safetensors"
    arguments = ("inspect", rude_edit, "--model", "demo", "--behavior", "toxicity")
    inside = answer(surgery(*arguments, "--probe", probe, "--json"))["inside"]
    assert inside["missing"] == {}
    kinds = ["texts that show the behavior", "their opposites", "neutral text",
             "questions of facts"]  # fmt: skip
    assert [one["texts"] for one in inside["activations"]] == kinds
    shows, opposites = inside["loss_rise"]
    assert [point["share"] for point in shows["points"]] == [0.25, 0.5, 1.0]
    assert shows["points"][-1]["measured"] > opposites["points"][-1]["measured"]
    losses = {one["texts"]: one["edited"] - one["base"] for one in inside["probe_loss"]}
    assert losses[kinds[0]] > abs(losses[kinds[1]])
    shown = surgery(*arguments).stdout
    assert "rise of the model's loss, nats per token: by its gradient, and measured" in shown
    assert "no probe was given" in shown


def test_probes_are_compared_with_each_other_and_with_texts(
    surgery: Surgery, made: Made, rude_edit: Path, tmp_path: Path
) -> None:
    probe, other = rude_edit.parent / "p.safetensors", tmp_path / "other.safetensors"
    texts = write_labeled(tmp_path / "texts.jsonl", 40)
    outcome = surgery("probe", "demo", "--texts", texts, "--layer", 2, "--out", other)
    assert outcome.code == 0, outcome.stderr
    found = answer(surgery("inspect", probe, "--with", other, "--json"))
    (compared,) = found["with"]
    assert compared["probe"] == str(other)
    one, two = (load_probe(path).direction("mean-difference") for path in (probe, other))
    cosine = one @ two / ((one @ one) * (two @ two)) ** 0.5
    assert compared["cosine"] == pytest.approx(float(cosine), rel=1e-4)
    with_texts = ("--model", "demo", "--behavior", "toxicity")
    found = answer(surgery("inspect", probe, "--with", other, *with_texts, "--json"))
    assert len(found["similarity"]) == 8
    assert {one["probe"] for one in found["similarity"]} == {str(probe), str(other)}
    mine = {one["texts"]: one["cosine"] for one in found["similarity"]
            if one["probe"] == str(probe)}  # fmt: skip
    assert mine["texts that show the behavior"] > mine["their opposites"]
    shown = surgery("inspect", probe, "--with", other, *with_texts).stdout
    assert "cosines with other probes" in shown
    assert "cosines of probes with mean hidden states" in shown


def test_a_probes_directions_are_read(surgery: Surgery, made: Made) -> None:
    found = answer(surgery("inspect", made.probe, "--model", made.model, "--json"))
    assert found["kind"] == "probe"
    inside, probe = found["inside"], load_probe(made.probe)
    assert set(inside["directions"]) == {"W1", "W1-W0", "mean-difference"}
    first, second = probe.direction("W1"), probe.direction("W1-W0")
    cosine = first @ second / ((first @ first) * (second @ second)) ** 0.5
    assert inside["cosines"]["W1 and W1-W0"] == pytest.approx(float(cosine), rel=1e-4)
    assert "layer 3 of 3" in inside["layer_note"]
    shown = surgery("inspect", made.probe, "--model", made.model)
    assert "directions in tokens" in shown.stdout


def test_without_a_model_no_torch_is_imported(made: Made, other: Path) -> None:
    script = (
        "import sys, modelsurgery.cli\n"
        f"sys.argv = ['surgery', 'inspect', {str(made.edit)!r}, '--with', {str(other)!r}]\n"
        "modelsurgery.cli.main()\n"
        "assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_is_refused_in_one_line(
    refused: Refused, made: Made, other: Path, tmp_path: Path
) -> None:
    stranger = write_tiny_model(tmp_path / "stranger", seed=1)
    wide = write_tiny_model(tmp_path / "wide", hidden_size=48, num_attention_heads=6)
    refused("inspect", made.edit, "--model", stranger, code=4, says="are not those that this edit")
    refused("inspect", made.edit, "--model", wide, code=4, says="the edit is for")
    refused("inspect", made.probe, "--model", wide, code=2, says="the probe was made for")
    refused("inspect", made.probe, "--with", other, code=2, says="not a readable probe")
    refused("inspect", made.edited, "--with", other, code=2, says="--with compares those")
    refused("inspect", made.edit, "--behavior", "toxicity", code=2, says="need --model")
    refused("inspect", made.edit, "--probe", made.probe, code=2, says="needs --behavior or --texts")
    refused("inspect", made.edited, "--model", made.model, code=2, says="--model needs one of them")
    refused("inspect", made.edit, "--with", made.probe, code=2, says="not a readable edit")
    refused("inspect", made.edit, "--model", tmp_path / "no", code=2, says="no model directory")
    empty = tmp_path / "empty.safetensors"
    save_edit(load_edit(made.edit).scaled(0.0), empty)
    refused("inspect", empty, "--model", made.model, code=4, says="the edit changes no row")
