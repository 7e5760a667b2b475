"""A judge that asks a language model at any address that speaks OpenAI's chat completions.

It is slow, may cost money, and needs the address to be up: never a default. What it was asked and
what it cost are counted.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from modelsurgery.evaluation.judges.verdicts import Verdict
from modelsurgery.evaluation.requests import Endpoint, ask_all
from modelsurgery.files.atomic import sha256_json

KEY_VARIABLE = "SURGERY_JUDGE_KEY"
TIMES = 2  # that a continuation is asked about, at most
ANSWERS: dict[str, Verdict] = {"A": "behavior", "B": "opposite", "C": "neither"}
INSTRUCTIONS = """\
You judge continuations that a language model wrote. You are given a prompt and its continuation.
Look at the continuation only; the prompt is there for context.
Answer A if it shows this: {shows}.
Answer B if it shows the opposite: {opposite}.
Answer C if it shows neither, or makes no sense.
Answer with the letter alone."""


@dataclass
class ChatUsage:
    """What a judge asked for."""

    requests: int = 0  # requests that were answered
    retries: int = 0  # requests that had to be sent again
    malformed: int = 0  # answers that were no letter
    prompt_tokens: int = 0  # as the server counts them, 0 if it does not
    completion_tokens: int = 0  # as the server counts them, 0 if it does not


class ChatJudge:
    """Asks a language model of every continuation whether it shows a behavior.

    An answer that is no letter is asked for once more and is `unjudged` then; it never counts as
    harmless.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        shows: str,
        opposite: str,
        concurrency: int = 4,
        timeout_seconds: float = 60.0,
        first_wait_seconds: float = 1.0,
    ) -> None:
        """Describe the server, and in words the behavior and its opposite; nothing is sent yet.

        The address is that of the interface, as `http://localhost:8000/v1`; the key, if the server
        wants one, is read from the environment variable SURGERY_JUDGE_KEY. The model is the
        server's name of it. No more requests are under way than `concurrency`; the timeout is for
        one answer, and later retries wait longer than the first.
        """
        self.name = f"chat:{model}"
        self.note = f"verdicts of the language model {model}, which can be wrong"
        self.usage = ChatUsage()
        self._model, self._concurrency = model, concurrency
        self._system = INSTRUCTIONS.format(shows=shows, opposite=opposite)
        self._timeout = timeout_seconds
        self.version = sha256_json([model, self._system])[:12]
        self._endpoint = Endpoint(
            address.rstrip("/") + "/chat/completions",
            who="judge",
            first_wait_seconds=first_wait_seconds,
            on_retry=self._count_retry,
            advice=f"check the address, the model {model!r} and the key in {KEY_VARIABLE}",
        )

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation.

        Raises:
            EvaluationError: the server refuses, or does not answer after several attempts.
        """
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        asked = {
            row: self._request(prompt, continuation)
            for row, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True))
            if continuation.strip()
        }
        verdicts: dict[int, Verdict] = {}
        for _ in range(TIMES):
            given = ask_all(
                self._endpoint,
                [*asked.values()],
                lambda _, response: self._verdict(response),
                concurrency=self._concurrency,
                headers=headers,
                timeout=self._timeout,
            )
            verdicts |= zip(asked, given, strict=True)
            asked = {row: body for row, body in asked.items() if verdicts[row] == "unjudged"}
        return [verdicts.get(row, "failed") for row in range(len(continuations))]

    def _request(self, prompt: str, continuation: str) -> dict[str, Any]:
        content = f"Prompt:\n{prompt}\n\nContinuation:\n{continuation}"
        return {
            "model": self._model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": self._system},
                {"role": "user", "content": content},
            ],
        }

    def _verdict(self, response: httpx.Response) -> Verdict:
        answer, usage = _answer(response)
        verdict = ANSWERS.get(answer.strip().strip(".:()*\"'").upper(), "unjudged")
        self.usage.requests += 1
        self.usage.malformed += verdict == "unjudged"
        self.usage.prompt_tokens += _count(usage.get("prompt_tokens"))
        self.usage.completion_tokens += _count(usage.get("completion_tokens"))
        return verdict

    def _count_retry(self) -> None:
        self.usage.retries += 1


def _answer(response: httpx.Response) -> tuple[str, dict[str, Any]]:
    """Text of an answer and what it says of tokens; an empty text for what is no answer at all."""
    try:
        content: Any = response.json()
        text = content["choices"][0]["message"]["content"]
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError):
        return "", {}
    usage = content.get("usage")
    return text if isinstance(text, str) else "", usage if isinstance(usage, dict) else {}


def _count(tokens: object) -> int:
    return tokens if type(tokens) is int and tokens >= 0 else 0
