"""Several behaviors in a row, from the command line: the paper's characteristics addition."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from surgery import SHOWN_OR_NOT, surgery, surgery_fails, surgery_json

from modelsurgery import load_edit

pytestmark = pytest.mark.slow
RECIPE = """\
rows: 0.02
direction_rule: mean-difference  # an earlier name
strength: 3
samples: 1
prompt_count: 60
train_texts: 150
neutral_texts: 60
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe without behaviors; a run of it takes seconds."""
    path = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    path.write_text(RECIPE)
    return path


def test_toxicity_then_negativity_are_measured_together_after_each_step(
    tmp_path: Path, quick: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("run", quick, "--behavior", "toxicity", "--behavior", "negativity", "--out", out)
    told = surgery_json(*arguments)
    assert [one["name"] for one in told["behaviors"]] == ["toxicity", "negativity"]
    assert [stage["edits"] for stage in told["stages"]] == [1, 2]
    for stage in told["stages"]:
        assert [one["name"] for one in stage["behaviors"]] == ["toxicity", "negativity"]
        assert all(sum(one["verdicts"]["edited"].values()) == 60 for one in stage["behaviors"])
    first, both = told["stages"]
    bases = [[one["base"] for one in stage["behaviors"]] for stage in (first, both)]
    assert bases[0] == bases[1]  # always against the untouched model
    assert first["behaviors"][0]["change"]["difference"] < -0.1
    assert both["behaviors"][1]["change"]["difference"] < -0.1
    single = json.loads((out / "1-toxicity" / "results.json").read_text())
    assert first["behaviors"][0]["edited"] == single["behavior"]["edited"]

    # The second edit was made on the model with the first, and belongs to the same checkpoint.
    one, two = (load_edit(path) for path in told["edits"])
    assert two.provenance.settings["on_top_of"] == [one.content_sha256]
    lengths = [np.linalg.norm(edit.updates[0].direction) for edit in (one, two)]
    cosine = one.updates[0].direction @ two.updates[0].direction / np.prod(lengths)
    assert told["conflicts"][0]["cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert abs(cosine) > 0.01
    copied = surgery_json("apply", "demo", *told["edits"], "--out", tmp_path / "both")
    assert copied["rows_edited"] == (one + two).row_count
    assert len(copied["together"]) == 1
    alone = surgery_json("plan", "demo", told["edits"][1])
    assert "on top of an edit that is not given" in alone["together"][0]

    # What is done is not done again, what is missing is made again, with the same results.
    before = (out / "results.json").read_bytes()
    edit = out / "2-negativity" / "edit.safetensors"
    made = edit.read_bytes()
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "2-negativity")
    surgery(*arguments)
    assert (out / "results.json").read_bytes() == before
    assert edit.read_bytes() == made


def test_a_recipe_lists_behaviors_with_a_direction_each(tmp_path: Path) -> None:
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        RECIPE
        + "behaviors:\n  - toxicity\n  - {behavior: negativity, direction: toward, strength: 2}\n"
    )
    # At these strengths negativity falls with toxicity: the opposite of what was asked, and told.
    told = surgery_json("run", recipe, "--out", tmp_path / "run", expected_exit=5)
    assert told["behaviors"] == [
        {"name": "toxicity", "direction": "away"},
        {"name": "negativity", "direction": "toward"},
    ]
    strengths = [load_edit(path).strength for path in told["edits"]]
    assert strengths == pytest.approx([3, -2])
    # Again, for people; what is done is not done again.
    (tmp_path / "run" / "manifest.json").unlink()
    printed = surgery("run", recipe, "--out", tmp_path / "run", expected_exit=5)
    assert "has the opposite effect: negativity" in printed
    assert "after toxicity and negativity" in printed
    assert "cosine of directions" in printed


def test_an_edit_can_stand_on_another(tmp_path: Path, quick: Path) -> None:
    surgery("run", quick, "--out", tmp_path / "first")
    edit = tmp_path / "first" / "edit.safetensors"
    second = surgery_json("run", quick, "--behavior", "negativity", "--edit", edit,
                          "--out", tmp_path / "second", expected_exit=SHOWN_OR_NOT)  # fmt: skip
    plain = surgery_json("run", quick, "--behavior", "negativity", "--out", tmp_path / "plain")
    made = [load_edit(tmp_path / name / "edit.safetensors") for name in ("second", "plain")]
    assert made[0].content_sha256 != made[1].content_sha256
    assert second["behavior"]["base"] != plain["behavior"]["base"]
    assert second["perplexity"]["base"] > plain["perplexity"]["base"]


def test_wrong_sequences_are_refused(tmp_path: Path, quick: Path) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("behaviors:\n  - {behavior: toxicity, model: other}\n  - negativity\n")
    said = surgery_fails("run", recipe, "--out", tmp_path / "run", expected_exit=2)
    assert "'model' applies to all behaviors" in said
    recipe.write_text("behaviors:\n  - {behavior: toxicity, strenght: 2}\n  - negativity\n")
    said = surgery_fails("run", recipe, "--out", tmp_path / "run", expected_exit=2)
    assert "did you mean 'strength'?" in said
    said = surgery_fails("run", quick, "--behavior", "toxicity", "--behavior", "nosuch",
                         "--out", tmp_path / "run", expected_exit=2)  # fmt: skip
    assert "nosuch" in said
    assert not (tmp_path / "run").exists()
