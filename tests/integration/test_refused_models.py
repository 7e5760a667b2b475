"""Models that transformers would load as something else are refused by name, and nothing is run."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import transformers

import modelsurgery
from command_line import Made, Refused, Surgery, without_progress
from modelsurgery import load_model, open_checkpoint
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.model.loading import load_sequence_classifier
from tiny import tiny_config, tiny_tokenizer

ADAPTER = "adapter_config.json"
MERGE = "merge the adapter into the weights first, or remove it"


def with_adapter(model: Path, directory: Path) -> Path:
    """A copy of a model with a LoRA adapter beside its weights, as PEFT saves one there."""
    shutil.copytree(model, directory)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(loaded, config).save_pretrained(directory)
    assert (directory / ADAPTER).is_file()
    return directory


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft 0.21 asks for it
def test_an_adapter_beside_the_weights_is_refused_by_every_verb(
    surgery: Surgery, refused: Refused, made: Made, tmp_path: Path
) -> None:
    model, out = with_adapter(made.model, tmp_path / "model"), ("--out", tmp_path / "out")
    texts = ("--texts", made.texts)
    for arguments in (
        ("run", "--model", model, *texts, *out),
        ("probe", model, *texts, *out),
        ("edit", model, "--probe", made.probe, "--alpha", 1, *out),
        ("plan", model, made.edit),
        ("apply", model, made.edit, *out),
        ("apply", model, made.edit, "--in-place"),
        ("export", model, made.edit, "--to", "hub", "--form", "merged", *out),
        ("chat", model, "--edit", made.edit),
        ("diff", made.model, model),
    ):
        line = refused(*arguments, code=2, says=f"{model}: {ADAPTER} is next to the weights")
        assert MERGE in line
    (model / ADAPTER).unlink()
    assert surgery("apply", model, made.edit, *out).code == 0


def test_an_adapter_added_to_an_edited_model_does_not_keep_it_from_being_undone(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    edited = Path(shutil.copytree(made.edited, tmp_path / "edited"))
    (edited / ADAPTER).write_text("{}")
    assert surgery("undo", edited).code == 0
    weights = (edited / "model.safetensors").read_bytes()
    assert weights == (made.model / "model.safetensors").read_bytes()


def test_an_adapter_without_a_model_is_called_one(tmp_path: Path) -> None:
    (tmp_path / ADAPTER).write_text("{}")
    with pytest.raises(UnsupportedModelError, match="contains an adapter"):
        open_checkpoint(tmp_path)


def with_custom_tokenizer(model: Path, directory: Path) -> Path:
    """A copy of a model whose tokenizer is a class beside it; running that leaves a mark."""
    shutil.copytree(model, directory)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "tokenizer_class": "MyTokenizer",
        "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]},
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    mark = directory / "it ran"
    (directory / "mine.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from transformers import PreTrainedTokenizer\n"
        "class MyTokenizer(PreTrainedTokenizer): pass\n"
    )
    return directory


def test_a_tokenizer_with_code_of_its_own_is_refused_and_no_prompt_answers_for_it(
    made: Made, tmp_path: Path
) -> None:
    model = with_custom_tokenizer(made.model, tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-m", "modelsurgery", "chat", model, "--edit", made.edit],
        input="y\na cat\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not (model / "it ran").exists()
    line = without_progress(done.stderr)
    assert (done.returncode, done.stdout, line.count("\n")) == (2, "", 1), done
    assert line.startswith(f"surgery: {model}: needs custom code, which is never run")
    with pytest.raises(UnsupportedModelError, match="needs custom code"):
        load_model(model)


def test_a_classifier_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    config = tiny_config("llama", num_labels=2, pad_token_id=0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(plain)
    tiny_tokenizer().save_pretrained(plain)
    load_sequence_classifier(str(plain))
    judge = with_custom_tokenizer(plain, tmp_path / "judge")
    with pytest.raises(UnsupportedModelError, match="needs custom code"):
        load_sequence_classifier(str(judge))
    assert not (judge / "it ran").exists()


def test_every_from_pretrained_refuses_code_of_strangers() -> None:
    """The only thing that keeps transformers from asking is this argument, at each call."""
    for path in Path(modelsurgery.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "from_pretrained":
                given = {one.arg: one.value for one in node.keywords}
                answer = given.get("trust_remote_code")
                assert isinstance(answer, ast.Constant), f"{path.name}, line {node.lineno}"
                assert answer.value is False, f"{path.name}, line {node.lineno}"
