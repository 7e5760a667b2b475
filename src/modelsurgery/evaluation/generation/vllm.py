"""Generation with vLLM (extra `vllm`), for models and prompts that take transformers too long.

Written against the documented interface of vLLM 0.10 and later (`LLM.generate`, `SamplingParams`,
`RequestOutput`); it needs a GPU, and we had none to run it on. vLLM loads a model from a directory,
so the edited model is written beside it, for as long as it is needed; files in which nothing
changes are linked. Base and edited model do not share their random numbers as they do in memory:
sampled differences vary more.
"""

import contextlib
import importlib
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from modelsurgery.apply.copying import apply_to_copy
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.decoding import Continuation, Decoding, Speed
from modelsurgery.evaluation.generation.local import continuation_of, end_tokens
from modelsurgery.evaluation.generation.reading import Reading, is_chat, readings
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel


class VllmGenerator:
    """Continues prompts with vLLM. A context manager: leaving it frees the GPU and the copy."""

    def __init__(self, model: LanguageModel) -> None:
        """Describe the model; nothing is loaded yet.

        Args:
            model: the base model; its tokenizer and directory are used.

        Raises:
            EvaluationError: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise EvaluationError("--backend vllm needs vLLM; pip install 'modelsurgery[vllm]'")
        self._vllm: Any = importlib.import_module("vllm")
        self.name = f"vllm {self._vllm.__version__}"
        self.speed = Speed()
        self._model = model
        self._engine: Any = None
        self._loaded: tuple[str, ...] | None = None
        self._copy = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """The generator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the engine and remove the edited copy."""
        self._unload()

    def generate(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        edits: Sequence[Edit] = (),
        *,
        progress: Progress = silent,
    ) -> tuple[Continuation, ...]:
        """One continuation a prompt, in the order of the prompts."""
        self._load(edits)
        read = readings(self._model, prompts, decoding)
        ends = end_tokens(self._model, is_chat(self._model, decoding))
        settings = [
            self._vllm.SamplingParams(
                max_tokens=one.max_new_tokens,
                temperature=0.0 if decoding.seed is None else decoding.temperature,
                seed=decoding.seed,
                stop=None if decoding.stop is None else [decoding.stop],
                stop_token_ids=ends,
            )
            for one in read
        ]
        # Ids and not texts: vLLM would put the tokenizer's special tokens before a chat template's.
        inputs = [{"prompt_token_ids": list(one.ids)} for one in read]
        started = time.perf_counter()
        with progress("generate", len(prompts)) as advance:
            answers = self._engine.generate(inputs, settings, use_tqdm=False)
            made = tuple(
                self._continuation(answer.outputs[0], one, ends, decoding)
                for answer, one in zip(answers, read, strict=True)
            )
            tokens = sum(one.tokens for one in made)
            advance(len(prompts), tokens=tokens)
        self.speed.decode_seconds += time.perf_counter() - started
        self.speed.decode_tokens += tokens
        return made

    def _load(self, edits: Sequence[Edit]) -> None:
        wanted = tuple(sorted(edit.content_sha256 for edit in edits))
        if wanted == self._loaded:
            return
        self._unload()
        directory = self._model.checkpoint.directory
        if edits:
            beside = tempfile.TemporaryDirectory(
                prefix=".surgery-vllm-", dir=directory.resolve().parent
            )
            directory = Path(self._copy.enter_context(beside)) / "edited"
            apply_to_copy(self._model.checkpoint.directory, edits, directory)
        self._engine = self._vllm.LLM(model=str(directory), tokenizer=str(directory))
        self._loaded = wanted

    def _unload(self) -> None:
        self._engine, self._loaded = None, None
        self._copy.close()

    def _continuation(
        self, output: Any, read: Reading, ends: Sequence[int], decoding: Decoding
    ) -> Continuation:
        """From the tokens and not from vLLM's text, which lacks marks that are special tokens."""
        ids = list(output.token_ids)
        has_stopped = output.finish_reason == "stop" and not set(ids) & set(ends)
        return continuation_of(
            self._model.tokenizer, ids, ends, decoding, read.text, len(ids) if has_stopped else None
        )
