"""Sampling that does not depend on the batch, and stopping at a text."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, StoppingCriteria

from modelsurgery.files.progress import Advance

STOP_TAIL_TOKENS = 8
SCORES_AT_A_TIME = 1 << 22  # 32 MB in f64, and a few tensors of this size at once


class UniformSampling(LogitsProcessor):
    """Leaves of each row's next tokens the one that a uniform number chooses (inverse CDF).

    The number depends on seed, prompt and step alone: not on what else is in the batch, and not
    on the model. So base and edited model share their random numbers, and the difference between
    them varies less than with independent ones; torch's own random state is left alone.
    """

    def __init__(self, rows: Sequence[tuple[str, int]], temperature: float, steps: int) -> None:
        """Draw numbers for so many steps at most, of each row's prompt and seed."""
        self._numbers = torch.from_numpy(
            np.stack([uniform_numbers(prompt, seed, steps) for prompt, seed in rows])
        )
        self._temperature = temperature
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [n, v] with everything but the chosen token at -inf."""
        numbers = self._numbers[:, self._step].to(scores.device)
        self._step += 1
        only = torch.full_like(scores, -torch.inf)
        rows = max(1, SCORES_AT_A_TIME // scores.shape[-1])
        for here in (slice(start, start + rows) for start in range(0, len(scores), rows)):
            only[here].scatter_(-1, self._chosen(scores[here], numbers[here]), 0.0)
        return only

    def _chosen(self, scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The token [n, 1] of each row of scores [n, v] that its number chooses."""
        cumulative = (scores.double() / self._temperature).softmax(-1).cumsum(-1)
        # Times the last sum, which rounding leaves a hair beside one.
        found = torch.searchsorted(
            cumulative, (numbers * cumulative[:, -1]).unsqueeze(-1), right=True
        )
        return found.clamp(max=scores.shape[-1] - 1)


def uniform_numbers(prompt: str, seed: int, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers [steps] f64 in [0, 1) for a prompt and a seed."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode(errors="surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16])).random(steps)


class FirstToken(LogitsProcessor):
    """Takes the time when the logits of the first new token are there: the end of the prefill."""

    def __init__(self) -> None:
        """Start the watch."""
        self.started = time.perf_counter()
        self.seconds: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The same scores."""
        if self.seconds is None:
            if scores.is_cuda:
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.started
        return scores


class StopText(StoppingCriteria):
    """Ends a row when a text stands in its last tokens."""

    def __init__(self, tokenizer: Any, stop: str, prompt_tokens: int, rows: int) -> None:
        """Look for `stop` behind the first `prompt_tokens` tokens of each row."""
        self._tokenizer, self._stop, self._start = tokenizer, stop, prompt_tokens
        self.lengths: list[int | None] = [None] * rows  # new tokens when the text was seen

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows are done [n] bool."""
        length = input_ids.shape[1]
        tails = input_ids[:, max(self._start, length - STOP_TAIL_TOKENS) :].tolist()
        for row, tail in enumerate(tails):
            if self.lengths[row] is None and self._stop in self._tokenizer.decode(tail):
                self.lengths[row] = length - self._start
        done = [one is not None for one in self.lengths]
        return torch.tensor(done, device=input_ids.device)


class TokenCount(StoppingCriteria):
    """Stops nothing: tells of new tokens at each step, since a batch may take minutes."""

    def __init__(
        self, rows: int, ends: Sequence[int], stop: StopText | None, advance: Advance
    ) -> None:
        """Count until a row has one of `ends`, or `stop`, which looks first, has ended it."""
        self._ends = torch.tensor(ends, dtype=torch.long)
        self._stop, self._advance = stop, advance
        self._ended = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """No row is done [n] bool."""
        self._ended |= torch.isin(input_ids[:, -1].cpu(), self._ends)
        self._advance(0, tokens=int((~self._ended).sum()))
        if self._stop is not None:
            self._ended |= torch.tensor([one is not None for one in self._stop.lengths])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
