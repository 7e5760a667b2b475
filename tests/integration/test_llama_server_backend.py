"""The server backend against llama.cpp's real server, with adapters and with edited files."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from safetensors.torch import load_file, save_file

import llama_server
from command_line import surgery_commands
from families import strong_edit
from llama_cpp import write_gguf_model
from llama_server import LlamaServer
from modelsurgery import Edit, LanguageModel, apply_to_copy
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.generation import Decoding
from modelsurgery.evaluation.generation.llama_cpp import LlamaCppGenerator
from modelsurgery.evaluation.generation.server import ServerGenerator
from modelsurgery.export.gguf import write_gguf_adapter
from modelsurgery.model.loading import load_without_weights

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")

PROMPTS = tuple(f"{name} {rest}" for name in ("Oliver", "Grace", "Lucy")
                for rest in ("says that", "is such a"))  # fmt: skip
GREEDY = Decoding(max_new_tokens=16)
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "servers.md"
PROGRAM = Path(llama_server.__file__)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In process, too: llama.cpp's threads spin while they wait for each other."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.fixture(scope="module")
def base(demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf_model(demo_path, tmp_path_factory.mktemp("gguf") / "base.gguf")


@pytest.fixture(scope="module")
def model(demo_path: Path, base: Path) -> LanguageModel:
    """As `load_model` makes it of the file, but for its directory, which is the demo model's."""
    return replace(load_without_weights(demo_path), gguf=base)


@pytest.fixture(scope="module")
def edits(model: LanguageModel) -> tuple[Edit, Edit]:
    return strong_edit(model, 0), strong_edit(model, 1)


@pytest.fixture(scope="module")
def adapters(
    model: LanguageModel, edits: tuple[Edit, Edit], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("adapters")
    for number, one in enumerate(edits):
        write_gguf_adapter(model.checkpoint, [one], place / f"{number}.gguf")
    return place / "0.gguf", place / "1.gguf"


@pytest.fixture(scope="module")
def server(base: Path, adapters: tuple[Path, Path]) -> LlamaServer:
    """Both adapters are on for whoever does not say otherwise: the base is asked for, too."""
    return LlamaServer(base, adapters, applied=True)


def asking(model: LanguageModel, server: LlamaServer, **options: Any) -> ServerGenerator:
    return ServerGenerator(model, server.root, first_wait_seconds=0.01, **options)


def edited_file(model: LanguageModel, edits: list[Edit], demo_path: Path, place: Path) -> Path:
    apply_to_copy(model.checkpoint.directory, edits, place / "copy")
    tensors = load_file(place / "copy" / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):  # spelled as the writer of GGUF files wants it
        (place / "copy" / name).write_bytes((demo_path / name).read_bytes())
    save_file({name: one.float() for name, one in tensors.items()},
              place / "copy" / "model.safetensors")  # fmt: skip
    return write_gguf_model(place / "copy", place / "edited.gguf")


def test_texts_are_those_of_the_backend_in_process_with_the_edit_in_the_file(
    model: LanguageModel, edits: tuple[Edit, Edit], server: LlamaServer, demo_path: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The demo model is stored in bf16, so the file rounds what the adapter adds unrounded."""
    first, second = edits
    file = edited_file(model, [first], demo_path, tmp_path)
    with LlamaCppGenerator(model) as known:
        base = known.generate(PROMPTS, GREEDY)
    with LlamaCppGenerator(model, edited=file) as known:
        edited = known.generate(PROMPTS, GREEDY, [first])
    with asking(model, server) as generator:
        assert generator.generate_sides(PROMPTS, [GREEDY], [(), [first]]) == ((base,), (edited,))
        other = generator.generate(PROMPTS, GREEDY, [second])
        both = generator.generate(PROMPTS, GREEDY, [first, second])
        assert generator.generate(PROMPTS, GREEDY) == base  # no slot remembers an adapter
    assert len({base, edited, other, both}) == 4


def test_adapters_are_those_of_the_backend_in_process(
    model: LanguageModel, edits: tuple[Edit, Edit], server: LlamaServer
) -> None:
    sampled = Decoding(max_new_tokens=10, seed=3)
    with LlamaCppGenerator(model) as known, asking(model, server) as generator:
        for decoding in (sampled, Decoding(20, stop=" and")):
            made = generator.generate(PROMPTS, decoding, edits)
            assert made == known.generate(PROMPTS, decoding, edits)


def test_a_server_without_the_adapter_of_the_edit_is_refused(
    model: LanguageModel, server: LlamaServer, base: Path
) -> None:
    other = strong_edit(model, 2)
    for one in (server, LlamaServer(base)):
        with (
            asking(model, one) as generator,
            pytest.raises(EvaluationError, match=r"not started with the adapter.*--to gguf"),
        ):
            generator.generate(PROMPTS, GREEDY, [other])


def test_an_adapter_that_the_server_ignores_is_found_out(
    model: LanguageModel, edits: tuple[Edit, Edit], server: LlamaServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """llama.cpp takes numbers of adapters that it does not have, and answers with the base."""
    with asking(model, server) as generator:
        fields = generator._adapters.fields

        def unknown(some: Any) -> dict[str, Any]:
            return {**fields(()), "lora": [*fields(())["lora"], {"id": 7, "scale": 1.0}]}

        generator._adapters.load(edits[:1])
        monkeypatch.setattr(generator._adapters, "fields", unknown)
        with pytest.raises(EvaluationError, match="with the adapter of the edit as without it"):
            generator.generate(PROMPTS, GREEDY, edits[:1])


def test_context_and_key_are_the_servers(
    model: LanguageModel, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = LlamaServer(base, context=512, slots=2, key="right")
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(EvaluationError, match="environment variable OPENAI_API_KEY"):
        asking(model, small)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    with asking(model, small) as generator:
        assert generator.generate(PROMPTS[:1], Decoding(4))[0].tokens == 4
        monkeypatch.setattr(generator, "_served", replace(generator._served, context=16))
        with pytest.raises(EvaluationError, match=r"a context of 16 tokens.*-c 2\d times"):
            generator.generate(PROMPTS, GREEDY)
    assert httpx.get(f"{small.root}/health").status_code == 200


def test_the_guide_can_be_followed(edits: tuple[Edit, Edit], base: Path, tmp_path: Path) -> None:
    """Its commands as they are, but for places, a port that is free, and fewer prompts."""
    section = GUIDE.read_text(encoding="utf-8").split("\n## llama.cpp\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for old, new in (("MODEL.gguf", str(base)), ("MODEL", "demo"), (" --data DIR", " --limit 6"),
                     ("8080", port)):  # fmt: skip
        assert old in block
        block = block.replace(old, new)
    edits[0].save(tmp_path / "edit.safetensors")
    (tmp_path / "programs").mkdir()
    programs = surgery_commands().write_stand_in(tmp_path / "programs")
    (programs / "llama-server").write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    (programs / "llama-server").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with ExitStack() as stack:
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] == "surgery":
                subprocess.run(words, cwd=tmp_path, env=environment, check=True)
                continue
            served = subprocess.Popen(words, cwd=tmp_path, env=environment)
            stack.callback(served.wait)
            stack.callback(served.terminate)
            wait_for(f"http://localhost:{port}/health", served)
    measured = json.loads((tmp_path / "measured" / "results.json").read_text())
    assert measured["sets"][0]["base"] is not None
    assert measured["sets"][0]["edited"] is not None
    assert measured["damage"]["neutral_text"] is None


def wait_for(address: str, served: subprocess.Popen[bytes]) -> None:
    while served.poll() is None:
        try:
            if httpx.get(address).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server ended")
