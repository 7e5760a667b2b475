"""Facts: whether greedy answers are right, word by word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.generation import Decoding, Generator
from modelsurgery.evaluation.statistics import rate_of
from modelsurgery.files.progress import Progress, silent
from modelsurgery.results import Rate

FACT_TOKENS = 8


@dataclass(frozen=True)
class FactsMeasurement:
    """Which facts base and edited model answer right."""

    base: tuple[bool, ...]  # of the base model, fact by fact
    # Of the edited model, in the same order; None without an edit.
    edited: tuple[bool, ...] | None = None

    @property
    def rates(self) -> tuple[Rate, Rate | None]:
        """Exact match of both."""
        return rate_of(self.base), None if self.edited is None else rate_of(self.edited)

    def to_json(self) -> list[dict[str, Any] | None]:
        """Both rates as plain values."""
        return [None if rate is None else rate.model_dump() for rate in self.rates]

    @property
    def lost(self) -> torch.Tensor | None:
        """Of each fact 1 where it is not right any more, -1 where it has become right, [n]."""
        if self.edited is None:
            return None
        lost = [before - after for before, after in zip(self.base, self.edited, strict=True)]
        return torch.tensor(lost, dtype=torch.float64)


def measure_facts(
    generator: Generator,
    edits: Sequence[Edit],
    facts: Sequence[tuple[str, str]],
    *,
    progress: Progress = silent,
) -> FactsMeasurement:
    """Whether greedy continuations of prompts are their answers, whatever their case.

    An answer goes up to the first full stop or line break. Without edits, which are applied
    together, the base model alone is measured. There is at least one fact.
    """
    sides: list[Sequence[Edit]] = [(), edits] if edits else [()]
    prompts = [prompt for prompt, _ in facts]
    found = []
    with progress("facts", len(sides)) as advance:
        for some in sides:
            made = generator.generate(prompts, Decoding(FACT_TOKENS), some, progress=progress)
            right = (
                _answer(one.text) == answer.lower()
                for one, (_, answer) in zip(made, facts, strict=True)
            )
            found.append(tuple(right))
            advance(1)
    return FactsMeasurement(*found)


def _answer(continuation: str) -> str:
    """The continuation up to the first full stop or line break, in lower case."""
    return re.split(r"[.\n]", continuation.strip(), maxsplit=1)[0].strip().lower()
