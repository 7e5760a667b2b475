"""Requests for continuations, and their answers, as servers of language models spell them.

Prompts are token ids, so chat template and opening are those of every other backend, and so are
the answers: texts of servers lack marks that are special tokens.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelsurgery.evaluation.decoding import Continuation, Decoding
from modelsurgery.evaluation.generation.local import continuation_of
from modelsurgery.evaluation.generation.reading import Reading


def _request(read: Reading, decoding: Decoding) -> dict[str, Any]:
    """What every server is asked; a seed only where something is drawn."""
    is_greedy = decoding.seed is None
    return {
        "prompt": list(read.ids),
        "max_tokens": read.max_new_tokens,
        "temperature": 0.0 if is_greedy else decoding.temperature,
        "seed": None if is_greedy else prompt_seed(read.prompt, decoding),
        "stop": [] if decoding.stop is None else [decoding.stop],
    }


def llama_cpp_request(read: Reading, decoding: Decoding) -> dict[str, Any]:
    """A request to llama.cpp, in process or over HTTP; it knows the ends of texts itself."""
    asked = _request(read, decoding)
    return {
        **asked,
        "seed": asked["seed"] or 0,
        # Nothing but the temperature, so that base and edited model are seen as they are.
        "samplers": ["temperature"],
        "n_probs": 1,  # token ids come with their probabilities only
        "cache_prompt": False,  # what a slot did before shall not matter
    }


def openai_request(read: Reading, decoding: Decoding) -> dict[str, Any]:
    """A request to vLLM or SGLang, without the name of the model."""
    return {
        **_request(read, decoding),
        "stop_token_ids": list(read.ends),
        "return_token_ids": True,
        # A server takes these from the model's generation settings unless they are said.
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def prompt_seed(prompt: str, decoding: Decoding) -> int:
    """A seed of 31 bits for a prompt: prompts that share one would share their random numbers."""
    digest = hashlib.sha256(f"{decoding.seed}\0{prompt}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4]) & 0x7FFFFFFF  # all ones would ask llama.cpp for a random seed


def answer_to(
    tokenizer: Any, read: Reading, decoding: Decoding, ids: list[int], reason: str
) -> Continuation:
    """What token ids say, made from them and not from a server's text, which lacks special marks.

    The reason why it ended is `stop` for an end of texts, which is among the ids or left out, and
    for the stop text.
    """
    has_stopped = reason == "stop" and not set(ids) & set(read.ends)
    stopped_after = len(ids) if has_stopped else None
    return continuation_of(tokenizer, ids, read.ends, decoding, read.text, stopped_after)


def llama_cpp_ids(choice: Mapping[str, Any]) -> list[int]:
    """Token ids of an answer of llama.cpp."""
    return [one["id"] for one in _llama_cpp_tokens(choice)]


def _llama_cpp_first(choice: Mapping[str, Any]) -> dict[str, float]:
    found = [one for row in _llama_cpp_tokens(choice) for one in row["top_logprobs"]]
    return {str(one["id"]): float(one["logprob"]) for one in found}


def _llama_cpp_tokens(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens of an answer; none where a text ends at once."""
    return choice["logprobs"]["content"] if choice["logprobs"] else []


def _openai_ids(choice: Mapping[str, Any]) -> list[int]:
    return [int(one) for one in choice["token_ids"]]


def _openai_first(choice: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in choice["logprobs"]["top_logprobs"][0].items()}


@dataclass(frozen=True)
class Dialect:
    """How a server spells requests and answers."""

    request: Callable[[Reading, Decoding], dict[str, Any]]  # makes a request of prompt and decoding
    alternatives: str  # field that asks for the log-probabilities of so many tokens
    ids: Callable[[Mapping[str, Any]], list[int]]  # token ids of a choice
    # Log-probabilities of a choice's most likely first tokens.
    first: Callable[[Mapping[str, Any]], dict[str, float]]
    mixes: bool  # it puts requests for several adapters into one batch


LLAMA_CPP = Dialect(llama_cpp_request, "n_probs", llama_cpp_ids, _llama_cpp_first, mixes=False)
OPENAI = Dialect(openai_request, "logprobs", _openai_ids, _openai_first, mixes=True)
