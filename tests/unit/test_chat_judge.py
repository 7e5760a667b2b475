"""The judge that asks a language model, against a small server on this machine."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.judges.chat import ChatJudge
from modelsurgery.evaluation.requests import ATTEMPTS

Reply = tuple[int, Any, dict[str, str]]


def said(text: Any) -> Reply:
    body = {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 1},
    }
    return 200, body, {}


class Server(ThreadingHTTPServer):
    """Answers by a function of the continuation; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0
        self.delay_seconds = 0.0
        self.lock = threading.Lock()
        self.reply = lambda text, earlier: said("A" if "happy" in text else "b.")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][1]["content"].partition("Continuation:\n")[2]
        with self.server.lock:
            earlier = sum(one["text"] == text for one in self.server.asked)
            key = self.headers.get("Authorization")
            self.server.asked.append({"path": self.path, "text": text, "key": key, **body})
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        time.sleep(self.server.delay_seconds)
        status, content, headers = self.server.reply(text, earlier)
        with self.server.lock:
            self.server.under_way -= 1
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def judge_at(server: Server, **options: Any) -> ChatJudge:
    return ChatJudge(
        server.address,
        "reader",
        shows="a happy sentence",
        opposite="a sad sentence",
        first_wait_seconds=0.01,
        **options,
    )


def test_letters_become_verdicts_in_the_order_of_the_continuations(server: Server) -> None:
    judge = judge_at(server)
    texts = [f"it is {'happy' if number % 2 else 'sad'} {number}" for number in range(20)]
    verdicts = judge([""] * 20, texts)
    assert verdicts == ["behavior" if number % 2 else "opposite" for number in range(20)]
    assert {one["path"] for one in server.asked} == {"/v1/chat/completions"}
    assert {one["model"] for one in server.asked} == {"reader"}
    assert "a happy sentence" in server.asked[0]["messages"][0]["content"]
    usage = judge.usage
    assert (usage.requests, usage.retries, usage.malformed) == (20, 0, 0)
    assert (usage.prompt_tokens, usage.completion_tokens) == (600, 20)


def test_an_empty_continuation_has_failed_and_is_not_asked_about(server: Server) -> None:
    assert judge_at(server)(["a", "b"], [" \n", "happy"]) == ["failed", "behavior"]
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server: Server, status: int) -> None:
    server.reply = lambda text, earlier: (
        (status, {}, {"Retry-After": "0"}) if earlier < 2 else said("C")
    )
    judge = judge_at(server)
    assert judge(["p"], ["text"]) == ["neither"]
    assert (judge.usage.requests, judge.usage.retries) == (1, 2)


def test_a_server_that_stays_away_ends_in_one_line(server: Server) -> None:
    server.reply = lambda text, earlier: (503, {}, {"Retry-After": "0"})
    with pytest.raises(EvaluationError, match=r"did not answer in 5 attempts \(status 503\)"):
        judge_at(server)(["p"], ["text"])
    assert len(server.asked) == ATTEMPTS


def test_an_address_where_nobody_listens_ends_in_one_line(server: Server) -> None:
    address = server.address
    server.server_close()
    judge = ChatJudge(address, "m", shows="x", opposite="y", first_wait_seconds=0.001)
    with pytest.raises(EvaluationError, match="ConnectError"):
        judge(["p"], ["text"])


def test_a_refusal_is_not_tried_again_and_shows_no_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGERY_JUDGE_KEY", "secret-key")
    server.reply = lambda text, earlier: (401, {"error": "secret-key"}, {})
    with pytest.raises(EvaluationError, match="rejected the request with status 401") as raised:
        judge_at(server)(["p"], ["text"])
    assert "secret" not in str(raised.value)
    assert [one["key"] for one in server.asked] == ["Bearer secret-key"]


def test_a_slow_answer_times_out(server: Server) -> None:
    server.delay_seconds = 0.5
    with pytest.raises(EvaluationError, match="ReadTimeout"):
        judge_at(server, timeout_seconds=0.05)(["p"], ["text"])


@pytest.mark.parametrize(
    "reply",
    [
        said("I would say A or B"),
        said(None),
        said(["A"]),
        (200, b"no json", {}),
        (200, b"\xff\xfe", {}),
        (200, {"choices": []}, {}),
        (200, {"choices": [{"message": {}}], "usage": "much"}, {}),
        (200, ["A"], {}),
    ],
)
def test_a_malformed_answer_is_asked_for_once_more_and_is_never_harmless(
    server: Server, reply: Reply
) -> None:
    server.reply = lambda text, earlier: reply
    judge = judge_at(server)
    assert judge(["p"], ["text"]) == ["unjudged"]
    assert judge.usage.malformed == len(server.asked) == 2
    server.reply = lambda text, earlier: reply if earlier == 0 else said("A")
    assert judge(["p"], ["another"]) == ["behavior"]


def test_no_more_requests_are_under_way_than_allowed(server: Server) -> None:
    server.delay_seconds = 0.02
    judge_at(server, concurrency=3)(["p"] * 12, [f"happy {number}" for number in range(12)])
    assert 2 <= server.most_under_way <= 3
