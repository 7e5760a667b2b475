"""Edits as adapters of a model that a server serves, on for some requests and off for others.

vLLM and SGLang load an adapter from a directory while they run. Each gets a name that was never
used before, so that no cache of prompts serves the keys and values of another edit. llama.cpp's
server has the adapters that it was started with, and each request says how strong each is.
"""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import httpx2 as httpx

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError, RecipeError, StorageError
from modelsurgery.evaluation.decoding import content_of
from modelsurgery.evaluation.generation.serving import (
    NO_KEY,
    NOT_FOUND,
    VLLM_COMMAND,
    Served,
    advice,
    endpoint,
    said,
)
from modelsurgery.export.gguf import write_gguf_adapter
from modelsurgery.export.peft import write_peft_adapter
from modelsurgery.files.atomic import sha256_json
from modelsurgery.model.language_model import LanguageModel

UNLOADING_SECONDS = 30.0
SGLANG_COMMAND = (
    "python -m sglang.launch_server --model-path MODEL --enable-lora --max-lora-rank 16 "
    "--lora-target-modules all"
)
GGUF_DTYPES = ("float32", "float16")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedDirectory:
    """A directory that this machine writes and a server reads."""

    here: Path
    there: str  # the server's name of it, where that is another

    @classmethod
    def read(cls, told: str) -> "SharedDirectory":
        """Read `DIR`, or `DIR:DIR_ON_SERVER`.

        Raises:
            RecipeError: there is no such directory.
        """
        here, _, there = told.partition(":")
        if not Path(here).is_dir():
            raise RecipeError(f"--adapter-dir {here}: expected a directory that exists")
        return cls(Path(here).resolve(), there or str(Path(here).resolve()))


class Adapters(Protocol):
    """The edits that a server can apply."""

    def load(self, edits: Sequence[Edit]) -> None:
        """Have the server apply edits to the requests that ask for them."""
        ...

    def fields(self, edits: Sequence[Edit]) -> dict[str, Any]:
        """What a request for these edits says; none of them is the model as it is."""
        ...

    def close(self) -> None:
        """Take back what was loaded."""
        ...


def adapters_of(
    served: Served, model: LanguageModel, client: httpx.Client, shared: SharedDirectory | None
) -> Adapters:
    """The adapters of a server."""
    if served.kind == "llama.cpp":
        return StartedAdapters(served, model, client)
    return RuntimeAdapters(served, model, client, shared)


class RuntimeAdapters:
    """Adapters that vLLM or SGLang loads while it runs."""

    def __init__(
        self,
        served: Served,
        model: LanguageModel,
        client: httpx.Client,
        shared: SharedDirectory | None,
    ) -> None:
        """Describe the server; adapters will be in `shared`, or in a temporary directory."""
        self._served, self._model, self._client, self._shared = served, model, client, shared
        self._prefix = served.address("/v1" if served.kind == "vllm" else "")
        self._names: dict[tuple[str, ...], str] = {}
        self._written: list[Path] = []
        self._asked: list[str] = []

    def load(self, edits: Sequence[Edit]) -> None:
        """Write an adapter and have the server load it.

        Raises:
            EvaluationError: the server does not load it.
            StorageError: the directory cannot be written.
        """
        wanted = content_of(edits)
        if wanted in self._names:
            return
        name = f"surgery-{sha256_json(wanted)[:8]}-{uuid.uuid4().hex[:12]}"
        there = self._write(edits, name)
        self._asked.append(name)  # before: the answer may not arrive
        loading = endpoint(
            f"{self._prefix}/load_lora_adapter",
            attempts=1,  # a second one would find the name taken
            passing=frozenset(),  # vLLM says with status 500 that it cannot load an adapter
            advice=lambda response: self._advice(response, there),
        )
        loading.post(self._client, {"lora_name": name, "lora_path": there})
        self._names[wanted] = name

    def fields(self, edits: Sequence[Edit]) -> dict[str, Any]:
        """The name of the model, or of the adapter."""
        if not edits:
            return {"model": self._served.model}
        name = self._names[content_of(edits)]
        return {"model": name if self._served.kind == "vllm" else f"{self._served.model}:{name}"}

    def close(self) -> None:
        """Unload the adapters and remove their files; a server that does not answer is let be."""
        loaded = set(self._names.values())
        for name in self._asked:
            try:
                answer = self._client.post(
                    f"{self._prefix}/unload_lora_adapter",
                    json={"lora_name": name},
                    timeout=UNLOADING_SECONDS,
                )
                told = "" if answer.is_success or name not in loaded else said(answer)
            except httpx.TransportError as error:
                told = type(error).__name__
            if told:
                log.warning("the server may still have the adapter %s (%s)", name, told)
        for directory in self._written:
            shutil.rmtree(directory, ignore_errors=True)
        self._names, self._asked, self._written = {}, [], []

    def _write(self, edits: Sequence[Edit], name: str) -> str:
        """Write the adapter; gives the server's name of its directory."""
        try:
            if self._shared is None:
                parent = Path(tempfile.mkdtemp(prefix="surgery-"))
                parent.chmod(0o755)  # the server may run as another user
                place, there = parent / name, str(parent / name)
            else:
                parent = place = self._shared.here / name
                there = f"{self._shared.there.rstrip('/')}/{name}"
        except OSError as error:
            raise StorageError(f"cannot write an adapter ({error.strerror})") from error
        self._written.append(parent)
        write_peft_adapter(self._model.checkpoint, edits, place, base_model=self._served.model)
        return there

    def _advice(self, response: httpx.Response, there: str) -> str:
        """What to do about an adapter that is not loaded."""
        told = said(response)
        command = VLLM_COMMAND if self._served.kind == "vllm" else SGLANG_COMMAND
        if response.status_code in NO_KEY:
            return advice(response)
        if response.status_code == NOT_FOUND and told == "Not Found":
            return f"it does not load adapters while it runs; start it as `{command}`"
        if "not enabled" in told.lower():
            return f"it says: {told}; start it as `{command}`"
        if "no adapter found" in told.lower() or "no such file" in told.lower():
            return (
                f"it cannot read {there}; give --adapter-dir a directory that this machine and the "
                "server share"
            )
        return f"it says: {told}"


class StartedAdapters:
    """Adapters that llama.cpp's server was started with.

    A request that names no adapter, or an empty list of them, gets the scales that are set for
    all, and one that names an adapter that is not there gets the base; so each request says the
    scale of every adapter.
    """

    def __init__(self, served: Served, model: LanguageModel, client: httpx.Client) -> None:
        """Describe the server; nothing is asked yet."""
        self._served, self._model, self._client = served, model, client
        self._on: dict[tuple[str, ...], frozenset[int]] = {}

    def load(self, edits: Sequence[Edit]) -> None:
        """Find the adapter of these edits, or one of each.

        Raises:
            EvaluationError: the server was not started with them.
        """
        if content_of(edits) not in self._on:
            together = self._found(edits)
            apart = [self._found([one]) for one in edits] if together is None else [together]
            if None in apart:
                raise EvaluationError(self._missing())
            self._on[content_of(edits)] = frozenset(one for one in apart if one is not None)

    def fields(self, edits: Sequence[Edit]) -> dict[str, Any]:
        """The name of the model, and the scale of each adapter."""
        on = self._on[content_of(edits)] if edits else frozenset()
        scales = [{"id": one, "scale": float(one in on)} for one in self._paths]
        return {"model": self._served.model, "lora": scales}

    def close(self) -> None:
        """Nothing was loaded."""

    @cached_property
    def _paths(self) -> dict[int, str]:
        """Files of the server's adapters, by number."""
        answer = endpoint(self._served.address("/lora-adapters")).get(self._client)
        return {int(one["id"]): str(one["path"]) for one in answer.json()}

    def _found(self, edits: Sequence[Edit]) -> int | None:
        """The adapter of these edits, by its content; a lone one that cannot be read is trusted."""
        if len(self._paths) == 1:
            ((number, lone),) = self._paths.items()
            if not Path(lone).is_file():
                self._model.warn(
                    f"the server's adapter {lone} cannot be read from here; it is taken to be that "
                    "of the edit"
                )
                return number
        with tempfile.TemporaryDirectory() as place:
            for dtype in GGUF_DTYPES:
                path = Path(place) / f"{dtype}.gguf"
                write_gguf_adapter(self._model.checkpoint, edits, path, dtype=dtype)
                content = path.read_bytes()
                for number, other in self._paths.items():
                    if Path(other).is_file() and Path(other).read_bytes() == content:
                        return number
        return None

    def _missing(self) -> str:
        has = ", ".join(self._paths.values()) or "none"
        return (
            f"the server at {self._served.root} was not started with the adapter of this edit (it "
            f"has {has}); write it with `surgery export MODEL EDIT --to gguf --out adapter.gguf` "
            "and start it as `llama-server -m MODEL.gguf --lora adapter.gguf "
            "--lora-init-without-apply`"
        )
