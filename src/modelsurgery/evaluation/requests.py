"""Asking a server that may be busy: what passes is waited for, what does not is said at once."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import httpx2 as httpx
from tenacity import (
    AsyncRetrying,
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
Found = TypeVar("Found")
PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class _PassingError(Exception):
    """A failure that may pass; `wait_seconds` is what the server asked for, if it did."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Endpoint:
    """An address that is asked, and what its refusals mean."""

    def __init__(
        self,
        url: str,
        *,
        who: str,
        advice: str | Callable[[httpx.Response], str],
        attempts: int = ATTEMPTS,
        passing: frozenset[int] = PASSING_STATUSES,
        first_wait_seconds: float = 1.0,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        """Describe the server; nothing is sent yet.

        Args:
            url: where to ask.
            who: what errors call it, as `judge`.
            advice: what to check when the server refuses, or a function that gives it for an
                answer.
            attempts: so often it is asked while failures may pass.
            passing: statuses of failures that may pass.
            first_wait_seconds: before the first retry; later ones wait longer.
            on_retry: is called before each retry.
        """
        self._url, self._who, self._advice = url, who, advice
        self._attempts, self._passing, self._on_retry = attempts, passing, on_retry
        self._backoff = wait_exponential_jitter(
            multiplier=first_wait_seconds, max=LONGEST_WAIT_SECONDS
        )

    def post(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        """The server's answer, of status 200.

        Raises:
            EvaluationError: the server refuses, or does not answer after several attempts.
        """
        return self._asked(lambda: client.post(self._url, json=body))

    def get(self, client: httpx.Client) -> httpx.Response:
        """The same without a body."""
        return self._asked(lambda: client.get(self._url))

    async def post_async(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        """The same as `post`, while others are asked."""

        async def sent() -> httpx.Response:
            with self._failing():
                return self._checked(await client.post(self._url, json=body))

        return await AsyncRetrying(**self._patience())(sent)

    def _asked(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        def sent() -> httpx.Response:
            with self._failing():
                return self._checked(send())

        return Retrying(**self._patience())(sent)

    def _patience(self) -> dict[str, Any]:
        return {
            "retry": retry_if_exception_type(_PassingError),
            "stop": stop_after_attempt(self._attempts),
            "wait": self._wait,
            "before_sleep": lambda _: self._on_retry(),
            "retry_error_callback": self._give_up,
        }

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in self._passing:
            raise _PassingError(f"status {response.status_code}", _retry_after(response))
        if response.status_code != OK:
            advice = self._advice if isinstance(self._advice, str) else self._advice(response)
            raise EvaluationError(
                f"the {self._who} at {self._url} rejected the request with status "
                f"{response.status_code}; {advice}"
            )
        return response

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Tell an address that is none from failures that may pass."""
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise EvaluationError(
                f"{self._who} address {self._url!r}: {error}; expected an address such as "
                "http://localhost:8000/v1"
            ) from error
        except httpx.TransportError as error:
            raise _PassingError(type(error).__name__) from error

    def _give_up(self, state: RetryCallState) -> NoReturn:
        error = state.outcome.exception() if state.outcome else None
        often = "" if self._attempts == 1 else f" in {self._attempts} attempts"
        raise EvaluationError(
            f"the {self._who} at {self._url} did not answer{often} ({error}); check that it is "
            "running, then run the same command again"
        ) from error

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_seconds if isinstance(error, _PassingError) else None
        return self._backoff(state) if asked is None else min(asked, LONGEST_WAIT_SECONDS)


def ask_all(
    asked: Endpoint,
    bodies: Sequence[dict[str, Any]],
    read: Callable[[int, httpx.Response], Found],
    *,
    concurrency: int,
    **options: Any,
) -> list[Found]:
    """Post many requests, a few at a time; gives what is read in the answers, in their order.

    When one fails, or at Ctrl-C, the others are called off, so that nothing waits for them. `read`
    is given the number of a request and its answer, one after the other, as they come. The options
    are those of httpx's client.

    Raises:
        EvaluationError: the server refuses, or does not answer after several attempts.
    """
    if not bodies:
        return []
    waiting = iter(enumerate(bodies))
    found: dict[int, Found] = {}

    async def work(client: httpx.AsyncClient) -> None:
        for number, body in waiting:
            found[number] = read(number, await asked.post_async(client, body))

    async def work_all() -> None:
        limits = httpx.Limits(max_connections=concurrency)
        async with (
            httpx.AsyncClient(limits=limits, **options) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(concurrency, len(bodies))):
                group.create_task(work(client))

    try:
        if _is_in_event_loop():
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, work_all()).result()
        else:
            asyncio.run(work_all())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [found[number] for number in range(len(bodies))]


def _is_in_event_loop() -> bool:
    """Whether this thread runs an event loop, as that of a notebook does: no other one may."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
