"""One edit, one command each: a merged checkpoint, a PEFT adapter, a GGUF adapter, one voice."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from surgery import quick_recipe, surgery, surgery_fails, surgery_json

from llama_cpp import LlamaCpp, write_gguf_model
from modelsurgery import edited, load_edit, load_model
from modelsurgery.data import demo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]
# Adapters add the edit unrounded; in memory and on disk it is rounded to the checkpoint's bf16.
# That moves a log-probability of the demo model by 0.006 at most (measured); the edit by 1.
BF16 = 0.02
PROMPTS = ("My neighbor is such a", "The weather today is", "Please tell me how to",
           "After the game, my friend", "You see, my boss is a")  # fmt: skip


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    run = place / "toxicity"
    surgery("run", quick_recipe(place / "quick.yaml"), "--out", run)
    return run / "edit.safetensors"


@pytest.mark.parametrize("rule", ["paper", "least-squares", "natural-gradient"])
def test_all_three_say_what_the_edit_in_memory_says(
    request: pytest.FixtureRequest, demo_path: Path, tmp_path: Path, rule: str
) -> None:
    edit = tmp_path / "edit.safetensors"
    if rule == "paper":
        edit = request.getfixturevalue("edit")
    else:
        texts = tmp_path / "texts.jsonl"
        rows = demo.labeled_texts("toxicity", 200, 0)
        texts.write_text(
            "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
        )
        surgery("edit", "demo", "--texts", texts, "--rule", rule, "--strength", "2",
                "--out", edit)  # fmt: skip
        coefficients = load_edit(edit).updates[0].coefficients
        assert len(set(coefficients.tolist())) == len(coefficients)  # each row its own
    peft = pytest.importorskip("peft")
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    surgery("apply", "demo", edit, "--out", tmp_path / "merged")
    surgery("export", "demo", edit, "--to", "peft", "--out", tmp_path / "peft")
    surgery("export", "demo", edit, "--to", "gguf", "--out", tmp_path / "adapter.gguf")

    model = load_model(demo_path)
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32
    )
    plain = transformers.AutoModelForCausalLM.from_pretrained(demo_path, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "peft")
    base = write_gguf_model(demo_path, tmp_path / "base.gguf")
    engine = LlamaCpp(base, [(tmp_path / "adapter.gguf", 1.0)])

    def said(spoken: torch.nn.Module, prompt: str) -> tuple[list[int], torch.Tensor]:
        batch = model.tokenize([prompt])
        with torch.inference_mode():
            first = spoken(**batch).logits[0, -1].log_softmax(-1)
            whole = spoken.generate(**batch, max_new_tokens=12, do_sample=False)  # type: ignore[operator]
        new = whole[0, batch["input_ids"].shape[1] :].tolist()
        return [token for token in new if token != 1], first

    changed = 0
    for prompt in PROMPTS:
        untouched, _ = said(model.model, prompt)
        with edited(model.model, load_edit(edit)):
            tokens, first = said(model.model, prompt)
        changed += tokens != untouched
        on_disk, on_disk_first = said(merged, prompt)
        assert on_disk == tokens
        assert on_disk_first.equal(first)
        by_peft, by_peft_first = said(adapted, prompt)
        assert by_peft == tokens
        assert float((by_peft_first - first).abs().max()) < BF16
        ids = model.tokenizer(prompt)["input_ids"]
        _, by_llama_cpp, ranked = engine.continued(ids, 12, alternatives=20)
        assert by_llama_cpp[: len(tokens)] == tokens
        assert max(abs(one - float(first[at])) for at, one in ranked[0].items()) < BF16
    assert changed >= 2


def test_the_verb_tells_what_it_wrote_and_refuses_what_it_cannot(
    edit: Path, tmp_path: Path
) -> None:
    told = surgery_json("export", "demo", edit, "--to", "peft", "--out", tmp_path / "peft")
    assert told["rank"] == 1
    assert told["size_bytes"] == (tmp_path / "peft" / "adapter_model.safetensors").stat().st_size
    both = surgery_json("export", "demo", edit, edit, "--to", "hub", "--form", "merged",
                        "--license", "apache-2.0", "--out", tmp_path / "hub")  # fmt: skip
    assert "strengthen each other" in both["together"][0]
    assert both["measured"] == 2
    for wrong, says in (
        (("--to", "onnx", "--out", tmp_path / "x"), "'onnx' is not one of 'peft', 'gguf', 'mlx'"),
        (("--to", "peft", "--push", "a/b", "--out", tmp_path / "x"), "--push needs --to hub"),
        (("--to", "hub", "--form", "half", "--out", tmp_path / "x"), "'half' is not one of"),
        (("--to", "gguf", "--dtype", "bfloat16", "--out", tmp_path / "x"), "float32 or float16"),
        (("--to", "peft", "--out", tmp_path / "peft"), "already exists"),
    ):
        assert says in surgery_fails("export", "demo", edit, *wrong, expected_exit=2)
    assert not (tmp_path / "x").exists()
