"""The server backend against vLLM's and SGLang's protocols, served by transformers and PEFT.

vLLM itself needs a GPU; these tests hold for its protocol, not for its kernels.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command_line import Refused, Surgery, surgery_commands
from families import strong_edit
from modelsurgery import Edit, LanguageModel, load_model
from modelsurgery.errors import EvaluationError, RecipeError
from modelsurgery.evaluation.generation import Continuation, Decoding, TransformersGenerator
from modelsurgery.evaluation.generation.adapters import SharedDirectory
from modelsurgery.evaluation.generation.reading import end_tokens
from modelsurgery.evaluation.generation.server import ServerGenerator
from modelsurgery.evaluation.store import Store
from modelsurgery.model.loading import load_without_weights
from openai_server import OpenAiServer

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

PROMPTS = tuple(f"{name} {rest}" for name in ("Oliver", "Grace")
                for rest in ("says that", "is such a"))  # fmt: skip
GREEDY = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module")
def local(demo_path: Path) -> LanguageModel:
    return load_model(demo_path, device="cpu")


@pytest.fixture(scope="module")
def model(demo_path: Path) -> LanguageModel:
    return load_without_weights(demo_path)


@pytest.fixture(scope="module")
def edit(model: LanguageModel) -> Edit:
    return strong_edit(model, 0)


@pytest.fixture
def server(demo_path: Path) -> Iterator[OpenAiServer]:
    with OpenAiServer(demo_path).running() as running:
        yield running


def asking(model: LanguageModel, server: OpenAiServer, **options: Any) -> ServerGenerator:
    return ServerGenerator(model, f"{server.root}/v1", first_wait_seconds=0.01, **options)


def completions(server: OpenAiServer) -> list[dict[str, Any]]:
    return [body for path, body in server.asked if path == "/v1/completions"]


def test_a_model_without_weights_reads_prompts_as_the_loaded_one(
    local: LanguageModel, model: LanguageModel
) -> None:
    assert all(one.is_meta for one in model.model.parameters())
    assert model.context_length == local.context_length
    assert model.fingerprint() == local.fingerprint()
    assert end_tokens(model, in_chat=False) == end_tokens(local, in_chat=False)
    assert model.token_ids(PROMPTS) == local.token_ids(PROMPTS)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_continuations_are_those_of_transformers_and_the_adapter_is_unloaded(
    kind: str, demo_path: Path, local: LanguageModel, model: LanguageModel, edit: Edit
) -> None:
    known = TransformersGenerator(local)
    with OpenAiServer(demo_path, kind).running() as server:
        with asking(model, server) as generator:
            base = generator.generate(PROMPTS, GREEDY)
            edited = generator.generate(PROMPTS, GREEDY, [edit])
            ((path,),) = [server.adapters.values()]
            assert (Path(path) / "adapter_config.json").stat().st_mode & 0o044 == 0o044
        assert server.adapters == {}
        assert not Path(path).parent.exists()
        assert generator.speed.decode_tokens == sum(one.tokens for one in (*base, *edited))
        prompts = {tuple(body["prompt"]) for body in completions(server)}
    assert base == known.generate(PROMPTS, GREEDY)
    assert edited == known.generate(PROMPTS, GREEDY, [edit])
    assert base != edited
    assert prompts == set(map(tuple, local.token_ids(PROMPTS)))


def test_stop_texts_and_ends_are_those_of_transformers(
    local: LanguageModel, model: LanguageModel, server: OpenAiServer
) -> None:
    known = TransformersGenerator(local)
    with asking(model, server) as generator:
        for decoding in (Decoding(20, stop=" and"), Decoding(60)):
            found = generator.generate(PROMPTS[:3], decoding)
            assert [(one.text, one.is_finished) for one in found] == [
                (one.text, one.is_finished) for one in known.generate(PROMPTS[:3], decoding)
            ]
            assert any(one.is_finished for one in found)


def test_samples_have_a_seed_each_and_no_cuts_of_the_server(
    model: LanguageModel, server: OpenAiServer
) -> None:
    sampled = Decoding(max_new_tokens=6, seed=3, temperature=0.8)
    with asking(model, server) as generator:
        first = generator.generate(PROMPTS, sampled)
        assert generator.generate(PROMPTS[::-1], sampled)[::-1] == first
        assert generator.generate(PROMPTS, replace(sampled, seed=4)) != first
    bodies = completions(server)[: len(PROMPTS)]
    assert len({body["seed"] for body in bodies}) == len(PROMPTS)
    for body in bodies:
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.8, 1.0, -1)
        assert (body["repetition_penalty"], body["presence_penalty"]) == (1.0, 0.0)


def test_models_are_asked_at_the_same_time_and_by_names_that_were_never_used(
    local: LanguageModel, model: LanguageModel, edit: Edit, server: OpenAiServer
) -> None:
    """A server that remembers by name and prompt must not answer with another edit."""
    other = strong_edit(model, 1)
    server.delay_seconds, server.remembers = 0.02, True
    known = TransformersGenerator(local)
    wanted: list[list[Edit]] = [[], [edit], [other], [edit, other]]
    with asking(model, server, concurrency=4) as generator:
        made = generator.generate_sides(PROMPTS, [GREEDY], wanted)
        names = set(server.adapters)
    assert made == tuple((known.generate(PROMPTS, GREEDY, some),) for some in wanted)
    assert len(set(made)) == 4
    assert len(names) == 3
    assert max(map(len, server.together)) == 4
    with asking(model, server) as generator:
        generator.generate(PROMPTS[:1], Decoding(1), [edit])
        assert not names & set(server.adapters)


def test_a_server_that_serves_the_base_in_silence_is_found_out(
    model: LanguageModel, edit: Edit, server: OpenAiServer
) -> None:
    server.ignores_adapters = True
    with (
        asking(model, server) as generator,
        pytest.raises(EvaluationError, match="with the adapter of the edit as without it: log-"),
    ):
        generator.generate(PROMPTS, GREEDY, [edit])
    assert {body["max_tokens"] for body in completions(server)} == {1}  # nothing was measured
    assert server.adapters == {}


def test_a_small_effect_is_an_effect(
    model: LanguageModel, edit: Edit, server: OpenAiServer
) -> None:
    with asking(model, server) as generator:
        generator.generate(PROMPTS, Decoding(2), [edit.scaled(0.01)])


def test_what_passes_is_waited_for(model: LanguageModel, server: OpenAiServer) -> None:
    server.failures = [503, 500, 429]
    with asking(model, server, concurrency=2) as generator:
        assert len(generator.generate(PROMPTS, GREEDY)) == len(PROMPTS)
    assert len(completions(server)) == len(PROMPTS) + 3
    assert max(map(len, server.together)) == 1  # one model


def test_it_works_where_an_event_loop_runs_as_in_a_notebook(
    model: LanguageModel, server: OpenAiServer, tmp_path: Path
) -> None:
    async def cell() -> tuple[Continuation, ...]:
        with (
            Store(tmp_path / "store.sqlite") as store,
            asking(model, server, store=store) as generator,
        ):
            return generator.generate(PROMPTS, GREEDY)

    with asking(model, server) as generator:
        with ThreadPoolExecutor(1) as notebook:  # this thread may have a loop already
            made = notebook.submit(asyncio.run, cell()).result()
        assert made == generator.generate(PROMPTS, GREEDY)


def test_a_slow_answer_times_out(model: LanguageModel, server: OpenAiServer) -> None:
    server.delay_seconds = 1.0
    with (
        asking(model, server, timeout_seconds=0.2) as generator,
        pytest.raises(EvaluationError, match=r"did not answer in 5 attempts \(ReadTimeout\)"),
    ):
        generator.generate(PROMPTS[:1], Decoding(1))


def test_each_continuation_is_kept_and_not_asked_for_again(
    model: LanguageModel, edit: Edit, server: OpenAiServer, tmp_path: Path
) -> None:
    decodings = [GREEDY, replace(GREEDY, seed=1)]
    with Store(tmp_path / "store.sqlite") as store:
        with asking(model, server, store=store) as generator:
            some = generator.generate(PROMPTS[:3], GREEDY)
        asked = len(completions(server))
        with asking(model, server, store=store) as generator:
            base, edited = generator.generate_sides(PROMPTS, decodings, [(), [edit]])
        assert base[0][:3] == some
        checks = 4 * len(PROMPTS)
        assert len(completions(server)) - asked == 2 * 2 * len(PROMPTS) - 3 + checks
        asked = len(server.asked)
        with asking(model, server, store=store) as generator:
            again = generator.generate_sides(PROMPTS, decodings, [(), [edit]])
        assert again == (base, edited)
        assert len(server.asked) == asked


def test_what_was_there_before_a_failure_is_kept(
    model: LanguageModel, server: OpenAiServer, tmp_path: Path
) -> None:
    with (
        Store(tmp_path / "store.sqlite") as store,
        asking(model, server, store=store, concurrency=1) as generator,
    ):
        server.failures = [0, 0, 400]
        with pytest.raises(EvaluationError, match="status 400; it says: busy"):
            generator.generate(PROMPTS, GREEDY)
        before = len(completions(server))
        generator.generate(PROMPTS, GREEDY)
    assert before == 3
    assert len(completions(server)) - before == len(PROMPTS) - 2


def test_adapters_go_where_the_server_reads_them(
    model: LanguageModel, edit: Edit, server: OpenAiServer, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").symlink_to(tmp_path / "here")
    shared = SharedDirectory.read(f"{tmp_path / 'here'}:{tmp_path / 'there'}")
    with asking(model, server, shared=shared) as generator:
        generator.generate(PROMPTS[:2], GREEDY, [edit])
        ((path,),) = [server.adapters.values()]
        assert path.startswith(f"{tmp_path / 'there'}/surgery-")
    assert list((tmp_path / "here").iterdir()) == []
    elsewhere = SharedDirectory(tmp_path / "here", "/nowhere")
    with (
        asking(model, server, shared=elsewhere) as generator,
        pytest.raises(EvaluationError, match=r"cannot read /nowhere/surgery-.* --adapter-dir"),
    ):
        generator.generate(PROMPTS[:2], GREEDY, [edit])
    with pytest.raises(RecipeError, match="expected a directory that exists"):
        SharedDirectory.read(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"updates": False}, r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve"),
        ({"has_lora": False}, r"LoRA is not enabled.*vllm serve MODEL --enable-lora"),
        ({"max_rank": 0}, r"LoRA rank 1 is greater than max_lora_rank 0"),
    ],
)
def test_adapters_that_cannot_be_loaded_are_told_of(
    faults: dict[str, Any], says: str, model: LanguageModel, edit: Edit, server: OpenAiServer
) -> None:
    for name, value in faults.items():
        setattr(server, name, value)
    with (
        asking(model, server) as generator,
        pytest.raises(EvaluationError, match=says) as raised,
    ):
        generator.generate(PROMPTS, GREEDY, [edit])
    assert "\n" not in str(raised.value)
    assert sum("load_lora" in path and "unload" not in path for path, _ in server.asked) == 1
    assert completions(server) == []


def test_what_is_wrong_with_a_server_is_one_line(
    model: LanguageModel, server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"does not serve 'other'; it serves served/model"):
        asking(model, server, served="other")
    server.context = 12
    with (
        asking(model, server) as generator,
        pytest.raises(EvaluationError, match=r"a context of 12 tokens.*--max-model-len"),
    ):
        generator.generate(PROMPTS, GREEDY)
    server.key = "right"
    for key in ("", "wrong-key"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(EvaluationError, match="environment variable OPENAI_API_KEY") as raised:
            asking(model, server)
        assert "wrong" not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    asking(model, server).__exit__()
    with pytest.raises(EvaluationError, match="expected the address of vLLM, SGLang or"):
        ServerGenerator(model, f"{server.root}/elsewhere")
    with pytest.raises(EvaluationError, match=r"did not answer \(ConnectError\)"):
        ServerGenerator(model, "http://127.0.0.1:9")
    with pytest.raises(EvaluationError, match="expected an address such as"):
        ServerGenerator(model, "localhost:8000")


def test_a_server_that_reads_other_prompts_or_gives_no_ids_is_refused(
    model: LanguageModel, server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = server._made

    def added(adapter: str, body: dict[str, Any]) -> dict[str, Any]:
        return made(adapter, {**body, "prompt": [1, *body["prompt"]]})

    monkeypatch.setattr(server, "_made", added)
    with asking(model, server) as generator:
        with pytest.raises(EvaluationError, match="read 5 tokens of a prompt of 4"):
            generator.generate(PROMPTS[:1], GREEDY)

        def without(adapter: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = made(adapter, body)
            del answer["choices"][0]["token_ids"]
            return answer

        monkeypatch.setattr(server, "_made", without)
        with pytest.raises(EvaluationError, match=r"expected vLLM 0\.10\.2 or later"):
            generator.generate(PROMPTS[:1], GREEDY)


def evaluation(
    edit: Path, server: OpenAiServer, prompts: Path, *more: object
) -> tuple[object, ...]:
    return ("evaluate", "demo", "--edit", edit, "--server", f"{server.root}/v1",
            "--prompts", prompts, "--max-new-tokens", "8", *more)  # fmt: skip


def test_evaluate_measures_with_a_server_and_ctrl_c_unloads(
    edit: Edit, server: OpenAiServer, surgery: Surgery, tmp_path: Path
) -> None:
    edit.save(tmp_path / "edit.safetensors")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    words = evaluation(tmp_path / "edit.safetensors", server, prompts, "--out", tmp_path / "run")
    server.delay_seconds = 0.5
    running = surgery_commands().start(*words, "--concurrency", "1")
    while not server.adapters and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert server.adapters == {}
    assert any(path == "/v1/unload_lora_adapter" for path, _ in server.asked)
    server.delay_seconds = 0.0
    done = surgery(*words)
    assert done.code == 0, done.stderr
    assert (tmp_path / "run" / "results.json").is_file()
    assert server.adapters == {}


def test_evaluate_refuses_what_does_not_go_together(refused: Refused, server: OpenAiServer) -> None:
    refused("evaluate", "demo", "--backend", "vllm", code=2, says="start vLLM as a server with")
    refused("evaluate", "demo", "--backend", "server", code=2, says="expected --server URL")
    refused("evaluate", "demo", "--backend", "transformers", "--server", server.root, code=2,
            says="no other --backend")  # fmt: skip
    refused("evaluate", "demo", "--concurrency", "2", code=2, says="need --server URL")
    refused("evaluate", "demo", "--server", server.root, "--server-model", "x", code=2,
            says="does not serve 'x'")  # fmt: skip
    refused("evaluate", "demo", "--server", "http://127.0.0.1:9", code=1, says="did not answer")
    refused("evaluate", "demo", "--server", server.root, "--adapter-dir", "missing", code=2,
            says="a directory that exists")  # fmt: skip
    assert os.environ.get("OPENAI_API_KEY") is None
