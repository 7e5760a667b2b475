"""Repositories for the Hub: what the card says, and that nothing is sent or half-written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from test_edit import an_edit

from modelsurgery import load_edit, open_checkpoint, save_edit, undo, verify
from modelsurgery.errors import OutputExistsError, RecipeError, SurgeryError
from modelsurgery.export import push_repository, write_repository


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path) -> Path:
    """A run directory with an edit and its results."""
    directory = tmp_path / "run"
    directory.mkdir()
    save_edit(an_edit(tiny_llama, 0), directory / "edit.safetensors")
    rate = {"rate": 0.437, "low": 0.38, "high": 0.49, "prompts": 300}
    less = {"rate": 0.147, "low": 0.11, "high": 0.19, "prompts": 300}
    results: dict[str, Any] = {
        "behavior": {"name": "tox|icity", "base": rate, "edited": less,
                     "change": {"difference": -0.29, "low": -0.33, "high": -0.25,
                                "verdict": "less"}},
        "perplexity": {"base": 3.153, "edited": 3.237, "rise": 0.0268},
        "divergence": 0.0266,
        "facts": {"intervals": None},
        "judge": {"name": "lab"},
    }  # fmt: skip
    (directory / "results.json").write_text(json.dumps(results))
    recipe = {"model": "/secret/place/base", "behavior": "toxicity", "layer": None}
    (directory / "recipe.resolved.yaml").write_text(yaml.safe_dump(recipe))
    return directory / "edit.safetensors"


def test_a_card_tells_what_changed_what_it_cost_and_what_it_comes_from(
    tiny_llama: Path, run: Path, tmp_path: Path
) -> None:
    made = write_repository(open_checkpoint(tiny_llama), [run], tmp_path / "hub",
                            base_model="some/base", licence="apache-2.0")  # fmt: skip
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.base_model == "some/base"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "peft"
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    for told in ("43.7% (38 to 49)", "14.7% (11 to 19)", "-29.0 points", "+2.68%", "tox\\|icity",
                 load_edit(run).content_sha256, "behavior: toxicity"):  # fmt: skip
        assert told in card.content
    assert "/secret" not in card.content
    assert made.measured == 1
    copy = load_edit(tmp_path / "hub" / "edits" / "1.safetensors")
    assert copy.content_sha256 == load_edit(run).content_sha256


def test_merged_weights_are_verified_and_can_be_undone_with_the_card_in_place(
    tiny_llama: Path, run: Path, tmp_path: Path
) -> None:
    write_repository(open_checkpoint(tiny_llama), [run], tmp_path / "hub", form="merged")
    assert verify(tmp_path / "hub").wrong == ()
    weights = tmp_path / "hub" / "model.safetensors"
    assert weights.read_bytes() != (tiny_llama / "model.safetensors").read_bytes()
    undo(tmp_path / "hub")
    assert weights.read_bytes() == (tiny_llama / "model.safetensors").read_bytes()


def test_without_results_the_card_says_so_and_takes_the_licence_of_the_base(
    tiny_llama: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    (base / "README.md").write_text("---\nlicense: llama2\n---\n# Base\n")
    edit = tmp_path / "edit.safetensors"
    save_edit(an_edit(base, 0), edit)
    write_repository(open_checkpoint(base), [edit], tmp_path / "hub")
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "llama2"
    assert "Nothing was measured" in card.content


def test_what_goes_wrong_leaves_nothing_half_written(
    tiny_llama: Path, run: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    (run.parent / "results.json").write_text("{")
    with pytest.raises(RecipeError, match="not valid JSON"):
        write_repository(checkpoint, [run], tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "mine").touch()
    with pytest.raises(OutputExistsError):
        write_repository(checkpoint, [run], tmp_path / "hub")


def test_a_push_without_a_network_says_so_and_keeps_the_repository(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# card")
    with pytest.raises(SurgeryError, match="did not take owner/name"):
        push_repository(tmp_path, "owner/name")
    with pytest.raises(RecipeError, match="expected owner/name"):
        push_repository(tmp_path, "not a name!")
    assert (tmp_path / "README.md").exists()
