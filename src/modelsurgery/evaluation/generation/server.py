"""Generation by a server that people run already: vLLM, SGLang or llama.cpp's server.

Base and edited model are asked for in the same batches, by the names of adapters. Before anything
is measured, the server must be seen to answer otherwise with the adapter than without it: one that
serves the base in silence would give a perfect "no change". Each continuation is kept when it is
there, so the same command goes on where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import httpx2 as httpx

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.decoding import Continuation, Decoding, Rounds, Speed
from modelsurgery.evaluation.generation.adapter_effect import check_effect
from modelsurgery.evaluation.generation.adapters import SharedDirectory, adapters_of
from modelsurgery.evaluation.generation.completions import LLAMA_CPP, OPENAI
from modelsurgery.evaluation.generation.local import continuation_of, end_tokens
from modelsurgery.evaluation.generation.reading import Reading, is_chat, readings
from modelsurgery.evaluation.generation.serving import endpoint, find_served, headers, patience
from modelsurgery.evaluation.requests import ask_all
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

if TYPE_CHECKING:
    from modelsurgery.evaluation.store import Store

CONCURRENCY = 32  # requests at a time, where a server does not say how many it works on
TIMEOUT_SECONDS = 600.0  # for one continuation, waiting for its turn included
CHECKED = 16  # prompts that an adapter's effect is looked for on
ALTERNATIVES = 5  # first tokens whose probabilities are compared


@dataclass(frozen=True)
class _Job:
    """One continuation that is asked for: its key, and all that makes the request."""

    key: str
    read: Reading
    decoding: Decoding
    fields: Mapping[str, Any]


class ServerGenerator:
    """Continues prompts with a server. A context manager: leaving it unloads the adapters."""

    def __init__(
        self,
        model: LanguageModel,
        address: str,
        *,
        served: str | None = None,
        shared: SharedDirectory | None = None,
        concurrency: int | None = None,
        store: "Store | None" = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        first_wait_seconds: float = 1.0,
    ) -> None:
        """Ask the server what it serves.

        Args:
            model: the model that the server runs; its tokenizer and settings are used, not its
                weights.
            address: base of the server's interface, as `http://localhost:8000/v1`.
            served: the server's name of the model; None takes the first.
            shared: where adapters are written; None takes a temporary directory.
            concurrency: requests under way at once, at most; None takes what the server says.
            store: where continuations are looked up and kept.
            timeout_seconds: for one continuation.
            first_wait_seconds: before the first retry; later ones wait longer.

        Raises:
            EvaluationError: nothing answers there, or not as such a server does.
            RecipeError: it does not serve the model.
        """
        self.speed = Speed()
        self._model, self._store = model, store
        self._options: dict[str, Any] = {"headers": headers(), "timeout": patience(timeout_seconds)}
        self._client = httpx.Client(**self._options)
        try:
            self._served = find_served(address, served, self._client)
        except BaseException:
            self._client.close()
            raise
        self.name = self._served.name
        self._dialect = LLAMA_CPP if self._served.kind == "llama.cpp" else OPENAI
        self._concurrency = concurrency or self._served.slots or CONCURRENCY
        self._adapters = adapters_of(self._served, model, self._client, shared)
        self._checked: set[tuple[str, ...]] = set()
        self._endpoint = endpoint(
            self._served.address("/v1/completions"), first_wait_seconds=first_wait_seconds
        )

    def __enter__(self) -> Self:
        """The generator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unload the adapters."""
        self._adapters.close()
        self._client.close()

    def generate(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        edits: Sequence[Edit] = (),
        *,
        progress: Progress = silent,
    ) -> tuple[Continuation, ...]:
        """One continuation a prompt, in the order of the prompts; equal prompts, equal ones."""
        ((made,),) = self.generate_sides(prompts, [decoding], [edits], progress=progress)
        return made

    def generate_sides(
        self,
        prompts: Sequence[str],
        decodings: Sequence[Decoding],
        sides: Sequence[Sequence[Edit]],
        *,
        progress: Progress = silent,
    ) -> tuple[Rounds, ...]:
        """Continuations by several models of the same prompts, asked for together.

        Returns:
            Of each side, for each decoding, one continuation a prompt.

        Raises:
            EvaluationError: the server refuses, does not answer, or serves the base as an edit.
        """
        unique = list(dict.fromkeys(prompts))
        reads = [readings(self._model, unique, decoding) for decoding in decodings]
        self._check_context([one for row in reads for one in row])
        keys = [
            [[self._key(read, decoding, edits) for read in row]
             for row, decoding in zip(reads, decodings, strict=True)]
            for edits in sides
        ]  # fmt: skip
        found = self._stored([key for side in keys for row in side for key in row])
        jobs: list[list[_Job]] = []
        for edits, side in zip(sides, keys, strict=True):
            if any(key not in found for row in side for key in row):
                self._prepare(edits, reads[0])
                jobs.append(list(self._jobs(edits, reads, decodings, side)))
        missing = [one for one in self._ordered(jobs) if one.key not in found]
        total = sum(len(row) for side in keys for row in side)
        with progress("generate", total) as advance:
            advance(total - len(missing))
            found |= self._made(missing, lambda one: advance(1, tokens=one.tokens))
        return tuple(
            tuple(self._in_order(prompts, unique, row, found) for row in side) for side in keys
        )

    def _key(self, read: Reading, decoding: Decoding, edits: Sequence[Edit]) -> str:
        """Hash of all that a continuation depends on."""
        return sha256_json(
            [
                self._model.fingerprint(),
                sorted(edit.content_sha256 for edit in edits),
                asdict(decoding),
                self.name,
                self._served.model,
                end_tokens(self._model, is_chat(self._model, decoding)),
                read.prompt,
                read.ids,
            ]
        )

    def _stored(self, keys: Sequence[str]) -> dict[str, Continuation]:
        return {} if self._store is None else self._store.continuations(keys)

    def _jobs(
        self,
        edits: Sequence[Edit],
        reads: Sequence[Sequence[Reading]],
        decodings: Sequence[Decoding],
        keys: Sequence[Sequence[str]],
    ) -> Iterator[_Job]:
        fields = self._adapters.fields(edits)
        for row, decoding, some in zip(reads, decodings, keys, strict=True):
            for read, key in zip(row, some, strict=True):
                yield _Job(key, read, decoding, fields)

    def _ordered(self, sides: Sequence[Sequence[_Job]]) -> Iterator[_Job]:
        """Requests in the order of sending: sides in turns, where a batch can hold both."""
        if self._dialect.mixes:
            return chain.from_iterable(zip(*sides, strict=True))
        return chain.from_iterable(sides)

    @staticmethod
    def _in_order(
        prompts: Sequence[str],
        unique: Sequence[str],
        keys: Sequence[str],
        found: Mapping[str, Continuation],
    ) -> tuple[Continuation, ...]:
        by_prompt = dict(zip(unique, keys, strict=True))
        return tuple(found[by_prompt[prompt]] for prompt in prompts)

    def _check_context(self, reads: Sequence[Reading]) -> None:
        """Refuse prompts that the server would cut or reject."""
        longest = max((len(one.ids) + one.max_new_tokens for one in reads), default=0)
        context = self._served.context
        if context is not None and longest > context:
            raise EvaluationError(
                f"the server at {self._served.root} has a context of {context} tokens, and prompts "
                f"and continuations have up to {longest}; start it with a larger one (vLLM: "
                f"--max-model-len {longest}, llama.cpp: -c {longest} times its slots)"
            )

    def _prepare(self, edits: Sequence[Edit], reads: Sequence[Reading]) -> None:
        """Have the adapter of edits loaded, and see that it changes something."""
        wanted = tuple(sorted(edit.content_sha256 for edit in edits))
        if not edits or wanted in self._checked:
            return
        self._adapters.load(edits)
        some = reads[:CHECKED]
        base, changed = self._adapters.fields(()), self._adapters.fields(edits)
        # In turns, so that what the server does besides weighs on both alike.
        asked = [self._first_tokens(some, one) for one in (base, changed, base, changed)]
        check_effect(self._served.root, asked[::2], asked[1::2])
        self._checked.add(wanted)

    def _first_tokens(
        self, reads: Sequence[Reading], fields: Mapping[str, Any]
    ) -> list[dict[str, float]]:
        """Log-probabilities of the most likely first tokens, of each prompt."""
        asked = {**fields, self._dialect.alternatives: ALTERNATIVES, "max_tokens": 1}
        bodies = [{**self._request(one, Decoding(1)), **asked} for one in reads]
        answers: dict[int, httpx.Response] = {}
        self._asked(bodies, answers.__setitem__)
        return [
            self._understood(answers[number], len(one.ids), self._dialect.first)
            for number, one in enumerate(reads)
        ]

    def _made(
        self, jobs: Sequence[_Job], tell: Callable[[Continuation], None]
    ) -> dict[str, Continuation]:
        """Ask for continuations and keep each when it is there."""
        started = time.perf_counter()
        made: dict[str, Continuation] = {}

        def keep(number: int, answer: httpx.Response) -> None:
            job = jobs[number]
            one = self._continuation(answer, job)
            if self._store is not None:
                self._store.keep_continuations({job.key: one})
            made[job.key] = one
            tell(one)

        bodies = [{**self._request(one.read, one.decoding), **one.fields} for one in jobs]
        try:
            self._asked(bodies, keep)
        finally:
            self.speed.decode_seconds += time.perf_counter() - started
            self.speed.decode_tokens += sum(one.tokens for one in made.values())
        # Read back: of two processes that made one, both shall tell of the first.
        return made | self._stored(list(made))

    def _request(self, read: Reading, decoding: Decoding) -> dict[str, Any]:
        return self._dialect.request(read, decoding, self._ends(decoding))

    def _ends(self, decoding: Decoding) -> list[int]:
        return end_tokens(self._model, is_chat(self._model, decoding))

    def _asked(
        self, bodies: Sequence[dict[str, Any]], keep: Callable[[int, httpx.Response], None]
    ) -> None:
        ask_all(self._endpoint, bodies, keep, concurrency=self._concurrency, **self._options)

    def _continuation(self, response: httpx.Response, job: _Job) -> Continuation:
        read, ends = job.read, self._ends(job.decoding)
        choice = self._understood(response, len(read.ids), dict)
        ids = self._understood(response, len(read.ids), self._dialect.ids)
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise EvaluationError(
                f"the server at {self._served.root} broke off a continuation ({reason}); run the "
                "same command again"
            )
        has_stopped = reason == "stop" and not set(ids) & set(ends)
        stopped_after = len(ids) if has_stopped else None
        return continuation_of(
            self._model.tokenizer, ids, ends, job.decoding, read.text, stopped_after
        )

    def _understood(
        self, response: httpx.Response, tokens: int, read: Callable[[dict[str, Any]], Any]
    ) -> Any:
        """What is wanted of an answer to a prompt of so many tokens.

        Raises:
            EvaluationError: it lacks that, or is the answer to another prompt.
        """
        try:
            content = response.json()
            (choice,) = content["choices"]
            wanted, count = read(choice), content["usage"]["prompt_tokens"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"the server at {self._served.root} does not answer with token ids and their "
                "log-probabilities; expected vLLM 0.10.2 or later, SGLang or llama.cpp"
            ) from error
        if count != tokens:
            raise EvaluationError(
                f"the server at {self._served.root} read {count} tokens of a prompt of {tokens}; "
                "it must not add tokens to prompts, or cut them"
            )
        return wanted
