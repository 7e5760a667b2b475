"""Generation by a server that people run already: vLLM, SGLang or llama.cpp's server.

Base and edited model are asked for in the same batches, by the names of adapters. Before anything
is measured, the server must be seen to answer otherwise with the adapter than without it: one that
serves the base in silence would give a perfect "no change". Each continuation is kept when it is
there, so the same command goes on where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx2 as httpx

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.decoding import Continuation, Decoding, Rounds, Speed, content_of
from modelsurgery.evaluation.generation.adapter_effect import check_effect
from modelsurgery.evaluation.generation.adapters import SharedDirectory, adapters_of
from modelsurgery.evaluation.generation.completions import LLAMA_CPP, OPENAI, answer_to
from modelsurgery.evaluation.generation.reading import Reading, readings
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
Found = TypeVar("Found")
ALTERNATIVES = 5  # first tokens whose probabilities are compared


@dataclass(frozen=True)
class _Job:
    """One continuation of a side (by its number) that may be asked for, and its key."""

    key: str
    side: int
    read: Reading
    decoding: Decoding


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

        Of the model, which the server runs, tokenizer and settings are used, not its weights. The
        address is that of the server's interface, as `http://localhost:8000/v1`, and `served` its
        name of the model; None takes the first. Adapters are written to `shared`, or to a temporary
        directory. No more requests are under way than `concurrency`; None takes what the server
        says. The timeout is for one continuation; later retries wait longer than the first.

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
        jobs = [list(self._jobs(side, edits, reads, decodings)) for side, edits in enumerate(sides)]
        found = self._stored([job.key for some in jobs for job in some])
        # In the order of sending: sides in turns, where a batch can hold both.
        ordered = zip(*jobs, strict=True) if self._dialect.mixes else jobs
        missing = [job for some in ordered for job in some if job.key not in found]
        for side in sorted({job.side for job in missing}):
            self._prepare(sides[side], reads[0])
        total = sum(map(len, jobs))
        with progress("generate", total) as advance:
            advance(total - len(missing))
            found |= self._made(missing, sides, lambda one: advance(1, tokens=one.tokens))
        keys = {(job.side, job.decoding, job.read.prompt): job.key for some in jobs for job in some}
        return tuple(
            tuple(
                tuple(found[keys[side, decoding, prompt]] for prompt in prompts)
                for decoding in decodings
            )
            for side in range(len(sides))
        )

    def _jobs(
        self,
        side: int,
        edits: Sequence[Edit],
        reads: Sequence[Sequence[Reading]],
        decodings: Sequence[Decoding],
    ) -> Iterator[_Job]:
        """Each continuation under a hash of all that it depends on."""
        model, hashes = self._model.fingerprint(), content_of(edits)
        for row, decoding in zip(reads, decodings, strict=True):
            common = [model, hashes, asdict(decoding), self.name, self._served.model]
            for read in row:
                key = sha256_json([*common, read.ends, read.prompt, read.ids])
                yield _Job(key, side, read, decoding)

    def _stored(self, keys: Sequence[str]) -> dict[str, Continuation]:
        return {} if self._store is None else self._store.continuations(keys)

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
        wanted = content_of(edits)
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
        bodies = [{**self._dialect.request(one, Decoding(1)), **asked} for one in reads]
        return self._asked(
            bodies,
            lambda number, answer: self._understood(answer, reads[number], self._dialect.first),
        )

    def _made(
        self,
        jobs: Sequence[_Job],
        sides: Sequence[Sequence[Edit]],
        tell: Callable[[Continuation], None],
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

        fields = {side: self._adapters.fields(sides[side]) for side in {job.side for job in jobs}}
        bodies = [
            {**self._dialect.request(one.read, one.decoding), **fields[one.side]} for one in jobs
        ]
        try:
            self._asked(bodies, keep)
        finally:
            self.speed.decode_seconds += time.perf_counter() - started
            self.speed.decode_tokens += sum(one.tokens for one in made.values())
        # Read back: of two processes that made one, both shall tell of the first.
        return made | self._stored(list(made))

    def _asked(
        self, bodies: Sequence[dict[str, Any]], read: Callable[[int, httpx.Response], Found]
    ) -> list[Found]:
        return ask_all(self._endpoint, bodies, read, concurrency=self._concurrency, **self._options)

    def _continuation(self, response: httpx.Response, job: _Job) -> Continuation:
        reason, ids = self._understood(
            response,
            job.read,
            lambda choice: (choice.get("finish_reason"), self._dialect.ids(choice)),
        )
        if reason not in ("stop", "length"):
            raise EvaluationError(
                f"the server at {self._served.root} broke off a continuation ({reason}); run the "
                "same command again"
            )
        return answer_to(self._model.tokenizer, job.read, job.decoding, ids, reason)

    def _understood(
        self,
        response: httpx.Response,
        prompt: Reading,
        read: Callable[[dict[str, Any]], Found],
    ) -> Found:
        """What is wanted of the one choice of an answer to a prompt.

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
        tokens = len(prompt.ids)
        if count != tokens:
            raise EvaluationError(
                f"the server at {self._served.root} read {count} tokens of a prompt of {tokens}; "
                "it must not add tokens to prompts, or cut them"
            )
        return wanted
