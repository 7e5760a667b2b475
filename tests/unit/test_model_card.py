"""Repositories for the Hub: what the card says, and that nothing is sent or half-written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from test_edit import an_edit

from modelsurgery import load_edit, load_model, open_checkpoint, save_edit, undo, verify
from modelsurgery.checkpoint.layouts.format import GateLayout
from modelsurgery.errors import OutputExistsError, RecipeError, SurgeryError
from modelsurgery.export.hub import push_repository, write_repository
from modelsurgery.export.public import public_judge, public_name
from modelsurgery.files.provenance import Provenance
from modelsurgery.pipeline.recipe import Recipe
from surgery_results import write_run


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path) -> Path:
    """A run directory with an edit and its results."""
    directory = tmp_path / "run"
    directory.mkdir()
    save_edit(an_edit(tiny_llama, 0), directory / "edit.safetensors")
    results = json.loads((write_run(tmp_path / "written") / "results.json").read_text())
    rate = {"rate": 0.437, "low": 0.38, "high": 0.49, "prompts": 300}
    less = {"rate": 0.147, "low": 0.11, "high": 0.19, "prompts": 300}
    change = {"difference": -0.29, "low": -0.33, "high": -0.25}
    results["behavior"] |= {"name": "tox|icity", "base": rate, "edited": less,
                            "change": results["behavior"]["change"] | change}  # fmt: skip
    results["perplexity"] |= {"base": 3.153, "edited": 3.237, "rise": 0.0268}
    results["facts"] = {"base": None, "edited": None, "intervals": None}
    (directory / "results.json").write_text(json.dumps(results))
    recipe = {"model": "/secret/place/base", "behavior": "toxicity", "layer": None}
    (directory / "recipe.resolved.yaml").write_text(yaml.safe_dump(recipe))
    return directory / "edit.safetensors"


def test_a_card_tells_what_changed_what_it_cost_and_what_it_comes_from(
    tiny_llama: Path, run: Path, tmp_path: Path
) -> None:
    made = write_repository(open_checkpoint(tiny_llama), [run], tmp_path / "hub",
                            base_model="some/base", license="apache-2.0")  # fmt: skip
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.base_model == "some/base"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "peft"
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [
        ("perplexity", 3.237), ("behavior_rate", 0.147)
    ]  # fmt: skip
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


def test_without_results_the_card_says_so_and_takes_the_license_of_the_base(
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
    assert "These edits were not measured" in card.content


@pytest.mark.parametrize(
    "card",
    [
        "---\ntags: [a]\n---\nlicense: mit\n",
        "---\nlicense: {\n---\n",
        "# Base\n",
        "---\n- a\n---\n",
    ],
)
def test_only_the_front_matter_of_the_base_tells_its_license(
    tiny_llama: Path, tmp_path: Path, card: str
) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    (base / "README.md").write_text(card)
    save_edit(an_edit(base, 0), tmp_path / "edit.safetensors")
    write_repository(open_checkpoint(base), [tmp_path / "edit.safetensors"], tmp_path / "hub")
    made = ModelCard.load(tmp_path / "hub" / "README.md")
    assert made.data.license is None
    assert made.data.eval_results is None
    assert "unknown; see the base model" in made.content


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
    with pytest.raises(SurgeryError, match="cannot upload owner/name"):
        push_repository(tmp_path, "owner/name")
    with pytest.raises(RecipeError, match="expected owner/name"):
        push_repository(tmp_path, "not a name!")
    assert (tmp_path / "README.md").exists()


PLACES = ["/home/nobody/burrow", "~/burrow", "../burrow", "C:\\burrow", "burrow/inner/deep"]


def local_recipe(place: str) -> dict[str, Any]:
    """A recipe with a path in every key that may hold text."""
    said: dict[str, Any] = {key: f"{place}/{key}" for key in Recipe.model_fields}
    said |= {"rows": 0.02, "layers": [1, 2], "layer": 2, "seed": 3, "alpha": None, "samples": 3}
    said |= {"behavior": f"{place}/mine.yaml", "texts": f"{place}/texts.jsonl"}
    said |= {"judge": f"hf:{place}/judge#1", "edits": [f"{place}/first.safetensors"]}
    return said | {"key_of_a_later_version": f"{place}/later"}


@pytest.mark.parametrize("form", ["adapter", "merged"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "judge", ["hf:{}/judge", "chat:{}/judge@http://burrow:8000/v1", "{}/judge"]
)
def test_nothing_local_leaves_in_a_repository(
    tiny_llama: Path, run: Path, tmp_path: Path, form: Any, place: str, judge: str
) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "burrow" / "base"))
    for name, keys in {
        "config.json": ("_name_or_path", "cache_dir"),
        "tokenizer_config.json": ("name_or_path", "tokenizer_file", "special_tokens_map_file"),
        "generation_config.json": ("_name_or_path",),
    }.items():
        content = json.loads((base / name).read_text())
        nested = {key: f"{place}/{key}" for key in keys}
        (base / name).write_text(json.dumps(content | nested | {"inner": [nested]}))
    (base / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": place}))
    (base / "notes.txt").write_text(place)
    (base / "README.md").write_text(f"---\nlicense: mit\n---\nmade in {place}\n")
    (base / "runs").mkdir()
    (base / "runs" / "config.json").write_text(json.dumps({"data": place}))
    edit = load_edit(run)
    settings = {"texts": f"{place}/texts", "more": {f"{place}/key": [f"{place}/value"]}}
    inputs = {f"{place}/probe.safetensors": "0" * 64}
    layout = GateLayout.model_validate(
        {"title": f"{place}/layout", "prefixes": ["model.layers.{block}."],
         "blocks": {"dense": [{"branch": "mlp",
                               "spellings": [{"name": "mlp.gate_proj.weight"}]}]}}
    )  # fmt: skip
    told = replace(edit, provenance=Provenance({}, 0, inputs, settings), layout=layout)
    save_edit(told, run)
    assert b"burrow" in run.read_bytes()
    results = json.loads((run.parent / "results.json").read_text())
    results["judge"] |= {"name": judge.format(place), "note": place}
    results["behavior"] |= {"name": f"{place}/mine", "title": place}
    results |= {"run_directory": place, "recipe": local_recipe(place), "model": place}
    (run.parent / "results.json").write_text(json.dumps(results))
    (run.parent / "recipe.resolved.yaml").write_text(yaml.safe_dump(local_recipe(place)))

    write_repository(open_checkpoint(base), [run], tmp_path / "hub", form=form)
    written = {path: path.read_bytes() for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert len(written) >= 4
    for path, content in written.items():
        for local in (b"burrow", b"nobody", b"http://", str(tmp_path).encode()):
            assert local not in content, path
    card = (tmp_path / "hub" / "README.md").read_text()
    for kept in ("behavior: mine.yaml", "texts: texts.jsonl", "rows: 0.02", "model: base"):
        assert kept in card
    assert "license: mit" in card
    copy = load_edit(tmp_path / "hub" / "edits" / "1.safetensors")
    assert copy.content_sha256 == edit.content_sha256
    if form == "merged":
        assert verify(tmp_path / "hub").wrong == ()
        assert load_model(tmp_path / "hub").layer_count == load_model(base).layer_count
        kept_config = json.loads((tmp_path / "hub" / "config.json").read_text())
        before = json.loads((tiny_llama / "config.json").read_text())
        assert kept_config == before | {"inner": [{}]}


def test_a_base_model_that_is_a_path_is_refused(
    tiny_llama: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for base in ("/models/mine", "models/mine", "./mine", "~/mine"):
        with pytest.raises(RecipeError, match="expected a Hub ID such as owner/name"):
            write_repository(open_checkpoint(tiny_llama), [run], tmp_path / "hub", base_model=base)
    assert not (tmp_path / "hub").exists()


def test_names_that_are_no_paths_stay_as_they_are() -> None:
    for name in ("toxicity", "owner/name", "W1-W0", "a name with spaces", "50/50"):
        assert public_name(name) == name
    for judge in ("ngrams:toxicity", "hf:owner/name", "chat:owner/name", "demo", "hf:owner/name#1"):
        assert public_judge(judge) == judge
