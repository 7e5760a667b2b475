"""The llama.cpp backend beside transformers: the same tokens from the same values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import Surgery
from llama_cpp import write_gguf_model
from modelsurgery import Edit, LanguageModel, apply_to_copy, load_model, make_edit, score_rows
from modelsurgery.data import demo
from modelsurgery.edit.region import select_region
from modelsurgery.errors import EvaluationError, RecipeError
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.generation.llama_cpp import LlamaCppGenerator
from modelsurgery.evaluation.store import Store

pytest.importorskip("gguf")
pytest.importorskip("accelerate")
pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")

PROMPTS = tuple(f"{name} {rest}" for name in ("Oliver", "Grace", "Lucy", "Ben", "My neighbor")
                for rest in ("says that", "is such a"))  # fmt: skip


@pytest.fixture(scope="module")
def model(demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    directory = tmp_path_factory.mktemp("gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        return load_model(write_gguf_model(demo_path, directory / "base.gguf"))


@pytest.fixture(scope="module")
def edit(model: LanguageModel) -> Edit:
    direction = np.random.default_rng(0).normal(size=(1, 160)).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction)
    edit = make_edit(select_region(scores, 0.1), direction[0], strength=3.0)
    return edit.bound_to(model.checkpoint)


GREEDY = Decoding(max_new_tokens=16)


def test_greedy_continuations_are_those_of_transformers(model: LanguageModel, edit: Edit) -> None:
    known = TransformersGenerator(model)
    with LlamaCppGenerator(model) as generator:
        base = generator.generate(PROMPTS, GREEDY)
        edited = generator.generate(PROMPTS, GREEDY, [edit])  # as an adapter
    assert base == known.generate(PROMPTS, GREEDY)
    assert edited == known.generate(PROMPTS, GREEDY, [edit])
    assert base != edited
    assert generator.speed.decode_tokens == sum(one.tokens for one in (*base, *edited))


def test_an_edited_file_is_what_generates(
    model: LanguageModel, edit: Edit, demo_path: Path, tmp_path: Path
) -> None:
    apply_to_copy(model.checkpoint.directory, [edit], tmp_path / "copy")
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):  # spelled as the writer of GGUF files wants it
        (tmp_path / "copy" / name).write_bytes((demo_path / name).read_bytes())
    save_file(dict(tensors), tmp_path / "copy" / "model.safetensors")
    file = write_gguf_model(tmp_path / "copy", tmp_path / "edited.gguf")
    with LlamaCppGenerator(model, edited=file) as generator:
        edited = generator.generate(PROMPTS, GREEDY, [edit])
        base = generator.generate(PROMPTS, GREEDY)
    assert edited == TransformersGenerator(model).generate(PROMPTS, GREEDY, [edit])
    assert base != edited


def test_samples_depend_on_seed_and_prompt_alone(model: LanguageModel) -> None:
    sampled = Decoding(max_new_tokens=12, seed=3)
    with LlamaCppGenerator(model) as generator:
        first = generator.generate(PROMPTS, sampled)
        assert generator.generate(PROMPTS[::-1], sampled)[::-1] == first
        assert generator.generate(PROMPTS[:1], sampled)[0] == first[0]
        assert generator.generate(PROMPTS, Decoding(max_new_tokens=12, seed=4)) != first
        cold = generator.generate(PROMPTS, Decoding(max_new_tokens=12, seed=3, temperature=1e-3))
        assert cold == generator.generate(PROMPTS, Decoding(max_new_tokens=12))


def test_first_tokens_are_drawn_as_often_as_they_are_likely(model: LanguageModel) -> None:
    """No cut of llama.cpp's own (top-k, min-p, …) is on."""
    prompt, count = PROMPTS[0], 400
    with torch.inference_mode():
        logits = model.model(**model.tokenize([prompt])).logits[0, -1]
    likely = logits.softmax(-1).numpy()
    with LlamaCppGenerator(model) as generator:
        drawn = [
            generator.generate([prompt], Decoding(max_new_tokens=1, seed=seed))[0].text
            for seed in range(count)
        ]
    texts = [model.tokenizer.decode([one], skip_special_tokens=True) for one in range(len(likely))]
    top = int(likely.argmax())
    expected = float(likely[[one == texts[top] for one in texts]].sum())
    error = np.sqrt(expected * (1 - expected) / count)
    assert abs(sum(one == texts[top] for one in drawn) / count - expected) < 4 * error
    rare = {text for text, share in zip(texts, likely, strict=True) if share < 0.02}
    share = float(likely[[text in rare for text in texts]].sum())
    error = np.sqrt(share * (1 - share) / count)
    assert abs(sum(one in rare for one in drawn) / count - share) < 4 * error


def test_stop_text_and_end_are_those_of_transformers(model: LanguageModel) -> None:
    known = TransformersGenerator(model)
    with LlamaCppGenerator(model) as generator:
        for stop in (".", " and"):
            decoding = Decoding(max_new_tokens=40, stop=stop)
            found = generator.generate(PROMPTS, decoding)
            assert [(one.text, one.is_finished) for one in found] == [
                (one.text, one.is_finished) for one in known.generate(PROMPTS, decoding)
            ]
        long = Decoding(max_new_tokens=100)
        assert generator.generate(PROMPTS, long) == known.generate(PROMPTS, long)
        assert any(one.is_finished for one in generator.generate(PROMPTS, long))


def test_what_is_stored_is_not_made_again(
    model: LanguageModel, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        with LlamaCppGenerator(model, store=store) as generator:
            made = [generator.generate(PROMPTS, GREEDY, some) for some in ((), (edit,))]
        with LlamaCppGenerator(model, store=store) as generator:
            monkeypatch.setattr(generator, "_load", None)
            assert [generator.generate(PROMPTS, GREEDY, one) for one in ((), (edit,))] == made
        other = tmp_path / "edited.gguf"  # another file with the same edit is another model
        assert model.gguf is not None
        other.write_bytes(model.gguf.read_bytes() + bytes(1))
        with LlamaCppGenerator(model, edited=other, store=store) as generator:
            assert generator.generate(PROMPTS, GREEDY, [edit]) == made[0]


def test_what_cannot_run_is_refused(
    model: LanguageModel, edit: Edit, demo_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="expected a GGUF file"):
        LlamaCppGenerator(load_model(demo_path))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with (
        LlamaCppGenerator(model, edited=tmp_path / "bad.gguf") as generator,
        pytest.raises(EvaluationError, match="cannot load it"),
    ):
        generator.generate(PROMPTS, GREEDY, [edit])


def test_evaluate_runs_the_file(
    model: LanguageModel, edit: Edit, tmp_path: Path, surgery: Surgery
) -> None:
    edit.save(tmp_path / "edit.safetensors")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    words = ("evaluate", model.gguf, "--backend", "llama.cpp",
             "--prompts", prompts, "--limit", "8", "--max-new-tokens", "8")  # fmt: skip
    done = surgery(*words, "--edit", tmp_path / "edit.safetensors", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert (tmp_path / "run" / "results.json").is_file()
    for more, says in (
        (("--edited", model.gguf), "--edited needs --edit"),
        (("--edit", tmp_path / "edit.safetensors", "--edited", prompts), "expected a GGUF file"),
    ):
        done = surgery(*words, *more, "--out", tmp_path / "other")
        assert (done.code, says in done.stderr) == (2, True), done.stderr
    done = surgery("evaluate", demo.DEMO, "--backend", "llama.cpp")
    assert (done.code, "expected a GGUF file" in done.stderr) == (2, True), done.stderr
