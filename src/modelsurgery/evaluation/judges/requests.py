"""Asking a server that may be busy: what passes is waited for, what does not is said at once."""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from modelsurgery.errors import EvaluationError

ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 60.0
OK = 200
PASSING_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504}


class _PassingError(Exception):
    """A failure that may pass; `wait_seconds` is what the server asked for, if it did."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Endpoint:
    """Where a judge's questions go."""

    def __init__(
        self,
        url: str,
        *,
        first_wait_seconds: float = 1.0,
        on_retry: Callable[[], None] = lambda: None,
        advice: str,
    ) -> None:
        """Describe the server; nothing is sent yet.

        Args:
            url: where to post.
            first_wait_seconds: before the first retry; later ones wait longer.
            on_retry: is called before each retry.
            advice: what to check when the server refuses.
        """
        self._url, self._advice = url, advice
        self._on_retry = on_retry
        self._backoff = wait_exponential_jitter(
            multiplier=first_wait_seconds, max=LONGEST_WAIT_SECONDS
        )

    def post(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        """The server's answer, of status 200.

        Raises:
            EvaluationError: the server refuses, or does not answer after several attempts.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._wait,
            before_sleep=lambda _: self._on_retry(),
            reraise=True,
        )
        try:
            return retrying(self._sent, client, body)
        except _PassingError as error:
            raise EvaluationError(
                f"the judge at {self._url} did not answer in {ATTEMPTS} attempts ({error}); check "
                "that it is running, then run the same command again"
            ) from error

    def _sent(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        try:
            response = client.post(self._url, json=body)
        except httpx.TransportError as error:
            raise _PassingError(type(error).__name__) from error
        except httpx.InvalidURL as error:
            raise EvaluationError(
                f"judge address {self._url!r}: {error}; expected an address such as "
                "http://localhost:8000/v1"
            ) from error
        if response.status_code in PASSING_STATUSES:
            raise _PassingError(f"status {response.status_code}", _retry_after(response))
        if response.status_code != OK:
            raise EvaluationError(
                f"the judge at {self._url} rejected the request with status "
                f"{response.status_code}; {self._advice}"
            )
        return response

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_seconds if isinstance(error, _PassingError) else None
        return self._backoff(state) if asked is None else min(asked, LONGEST_WAIT_SECONDS)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
