"""Generation with llama.cpp (extra `llama-cpp`): the GGUF file itself continues the prompts.

What is measured is what people run: the quantized weights, with llama.cpp's own kernels. Prompts
are given as token ids, so chat template and opening are those of every other backend. An edit comes
either in an edited file, or as an adapter beside the base file. Base and edited model get the same
seed for the same prompt, but llama.cpp draws the numbers.
"""

import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError, RecipeError
from modelsurgery.evaluation.decoding import Continuation, Decoding, Speed, content_of
from modelsurgery.evaluation.generation.completions import (
    answer_to,
    llama_cpp_ids,
    llama_cpp_request,
)
from modelsurgery.evaluation.generation.reading import Reading, readings
from modelsurgery.export.gguf import write_gguf_adapter
from modelsurgery.files.atomic import sha256_file, sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import MOST_HASHED_BYTES, LanguageModel

if TYPE_CHECKING:
    from modelsurgery.evaluation.store import Store

PACKAGE = "xllamacpp"
SLOTS = 8  # prompts at a time; twice as fast as one after the other on one core, 16 gain little
CONTEXT_STEP = 256  # tokens; contexts are multiples, so that few engines are made


def check_llama_cpp() -> None:
    """Refuse early what could not generate.

    Raises:
        EvaluationError: the package is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise EvaluationError(
            f"--backend llama.cpp needs {PACKAGE}; pip install 'modelsurgery[llama-cpp]'"
        )


class LlamaCppGenerator:
    """Continues prompts with llama.cpp. A context manager: leaving it frees the model."""

    def __init__(
        self, model: LanguageModel, *, edited: Path | None = None, store: "Store | None" = None
    ) -> None:
        """Describe the model; nothing is loaded yet.

        The model's tokenizer and settings are used, not its weights. `edited` is a GGUF file that
        has the edits; without it they run as an adapter of the base file.

        Raises:
            EvaluationError: the package is not installed.
            RecipeError: the model is not a GGUF file.
        """
        check_llama_cpp()
        if model.gguf is None:
            raise RecipeError(
                f"--backend llama.cpp and the model {model.checkpoint.directory}; expected a GGUF "
                "file as the model"
            )
        self._engines: Any = importlib.import_module(PACKAGE)
        self.name = f"llama.cpp ({PACKAGE} {self._engines.__version__})"
        self.speed = Speed()
        self._model, self._base, self._edited, self._store = model, model.gguf, edited, store
        self._loaded: tuple[tuple[str, ...], int] | None = None
        self._engine: Any = None
        self._adapter = ExitStack()
        self._hash = cache(_file_hash)

    def __enter__(self) -> Self:
        """The generator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the model and remove the adapter."""
        self._unload()

    def generate(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        edits: Sequence[Edit] = (),
        *,
        progress: Progress = silent,
    ) -> tuple[Continuation, ...]:
        """One continuation a prompt, in the order of the prompts; equal prompts, equal ones."""
        unique = readings(self._model, list(dict.fromkeys(prompts)), decoding)
        order = sorted(unique, key=lambda one: (-len(one.ids), one.prompt))
        batches = [order[start : start + SLOTS] for start in range(0, len(order), SLOTS)]
        found: dict[str, Continuation] = {}
        with progress("generate", len(unique)) as advance:
            for batch in batches:
                made = self._stored_or_made(batch, decoding, edits)
                found |= made
                advance(len(batch), tokens=sum(one.tokens for one in made.values()))
        return tuple(found[prompt] for prompt in prompts)

    def _stored_or_made(
        self, batch: Sequence[Reading], decoding: Decoding, edits: Sequence[Edit]
    ) -> dict[str, Continuation]:
        """A batch is made whole or not at all, so that its composition does not depend on luck."""
        make = partial(self._continued, batch, decoding, edits)
        if self._store is None:
            found = make()
        else:
            common = self._settings(decoding, edits, batch[0].ends)
            keys = [sha256_json([common, one.prompt, one.ids]) for one in batch]
            found = self._store.continuations_or(keys, make)
        return {one.prompt: told for one, told in zip(batch, found, strict=True)}

    def _settings(self, decoding: Decoding, edits: Sequence[Edit], ends: Sequence[int]) -> str:
        """Hash of all that the continuations of a round depend on, besides their prompts."""
        content = [self._hash(self._file(edits)), content_of(edits), asdict(decoding)]
        return sha256_json([*content, self.name, ends])

    def _file(self, edits: Sequence[Edit]) -> Path:
        return self._edited if edits and self._edited is not None else self._base

    def _continued(
        self, batch: Sequence[Reading], decoding: Decoding, edits: Sequence[Edit]
    ) -> list[Continuation]:
        self._load(edits, max(len(one.ids) + one.max_new_tokens for one in batch))
        started = time.perf_counter()
        requests = [llama_cpp_request(one, decoding) for one in batch]
        with ThreadPoolExecutor(SLOTS) as pool:  # the engine puts what is asked at a time together
            answers = list(pool.map(self._engine.handle_completions, requests))
        made = [
            self._continuation(answer, one, decoding)
            for answer, one in zip(answers, batch, strict=True)
        ]
        self.speed.decode_seconds += time.perf_counter() - started
        self.speed.decode_tokens += sum(one.tokens for one in made)
        return made

    def _continuation(self, answer: Any, read: Reading, decoding: Decoding) -> Continuation:
        if "choices" not in answer:
            raise EvaluationError(f"{self._base}: llama.cpp gave no answer ({answer})")
        (choice,) = answer["choices"]
        ids, reason = llama_cpp_ids(choice), choice["finish_reason"]
        return answer_to(self._model.tokenizer, read, decoding, ids, reason)

    def _load(self, edits: Sequence[Edit], tokens: int) -> None:
        wanted, path, adapter = content_of(edits), self._file(edits), None
        context = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
        if self._loaded is not None and self._loaded[0] == wanted and self._loaded[1] >= context:
            return
        self._unload()
        if edits and self._edited is None:
            place = Path(self._adapter.enter_context(tempfile.TemporaryDirectory()))
            adapter = place / "adapter.gguf"
            write_gguf_adapter(self._model.checkpoint, edits, adapter)
        self._engine = _engine(self._engines, path, adapter, context)
        self._loaded = wanted, context

    def _unload(self) -> None:
        self._engine, self._loaded = None, None
        self._adapter.close()


def _file_hash(path: Path) -> str:
    """Hash of a file; of place, size and time where it is large."""
    stat = path.stat()
    if stat.st_size <= MOST_HASHED_BYTES:
        return sha256_file(path)
    return sha256_json([str(path.resolve()), stat.st_size, stat.st_mtime_ns])


def _engine(package: Any, path: Path, adapter: Path | None, context: int) -> Any:
    params = package.CommonParams()
    params.model.path = str(path)
    if adapter is not None:
        info = package.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.warmup, params.verbosity = False, 0
    try:
        return package.Server(params)
    except (RuntimeError, ValueError) as error:
        raise EvaluationError(
            f"{path}: llama.cpp cannot load it ({str(error).splitlines()[0]}); check that the file "
            "is whole"
        ) from error
