"""How prompts are continued, what comes of it, and who does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from modelsurgery.edit.edit import Edit
from modelsurgery.files.progress import Progress, silent


@dataclass(frozen=True)
class Decoding:
    """How to continue a prompt: all that a continuation depends on besides model and prompt."""

    max_new_tokens: int = 24  # at most so many tokens, fewer when the model ends
    seed: int | None = None  # seed of sampling from the whole distribution; None is greedy
    temperature: float = 1.0  # of sampling
    stop: str | None = None  # text at which a continuation ends, not part of it, as `"\n"`
    # Prompts are users' turns; the model's chat template is applied where it has one.
    chat: bool = False
    thinking: bool = False  # let models think that can; else their template is asked not to


@dataclass(frozen=True)
class Continuation:
    """What a model wrote."""

    # The answer, without its thinking block. Empty: the model failed.
    text: str
    tokens: int  # new tokens, thinking included, padding and end token not
    is_finished: bool  # it ended by itself (end token or stop text), not by the limit
    thinking: str | None = None  # the thinking block, where there is one


Rounds = tuple[tuple[Continuation, ...], ...]  # of each decoding, one a prompt


@dataclass
class Speed:
    """Where the time of generation went."""

    prefill_tokens: int = 0  # tokens of prompts, padding not counted
    prefill_seconds: float = 0.0  # until the first new token of each batch was chosen
    decode_tokens: int = 0  # new tokens, those after a continuation's end not counted
    decode_seconds: float = 0.0  # from the first new token of each batch to its last
    padded_tokens: int = 0  # tokens of prompts, padding counted

    def to_json(self) -> dict[str, Any]:
        """Rates in tokens a second, None where nothing was generated; share of padding."""
        return {
            "prefill_tokens": self.prefill_tokens,
            "prefill_tokens_per_second": _per(self.prefill_tokens, self.prefill_seconds),
            "decode_tokens": self.decode_tokens,
            "decode_tokens_per_second": _per(self.decode_tokens, self.decode_seconds),
            "padding_share": (
                1 - self.prefill_tokens / self.padded_tokens if self.padded_tokens else None
            ),
            "seconds": self.prefill_seconds + self.decode_seconds,
        }


def content_of(edits: Sequence[Edit]) -> tuple[str, ...]:
    """What edits are known by that are applied together: their hashes, in no order of theirs."""
    return tuple(sorted(edit.content_sha256 for edit in edits))


class Generator(Protocol):
    """Continues prompts with a model, edited or not."""

    name: str  # library and version
    speed: Speed  # where the time went

    def generate(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        edits: Sequence[Edit] = (),
        *,
        progress: Progress = silent,
    ) -> tuple[Continuation, ...]:
        """One continuation a prompt, in the order of the prompts."""
        ...


@runtime_checkable
class SidesGenerator(Protocol):
    """A generator that is faster when it continues prompts with several models at once."""

    def generate_sides(
        self,
        prompts: Sequence[str],
        decodings: Sequence[Decoding],
        sides: Sequence[Sequence[Edit]],
        *,
        progress: Progress = silent,
    ) -> tuple[Rounds, ...]:
        """Of each model, for each decoding, one continuation a prompt."""
        ...


def continued(
    generator: Generator,
    prompts: Sequence[str],
    decodings: Sequence[Decoding],
    sides: Sequence[Sequence[Edit]],
    *,
    progress: Progress = silent,
) -> tuple[Rounds, ...]:
    """Continuations by several models of the same prompts: of each, for each decoding."""
    if isinstance(generator, SidesGenerator):
        return generator.generate_sides(prompts, decodings, sides, progress=progress)
    return tuple(
        tuple(generator.generate(prompts, one, edits, progress=progress) for one in decodings)
        for edits in sides
    )


def _per(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds else None
