"""What a server of language models is, and what it serves: vLLM, SGLang or llama.cpp.

All three speak OpenAI's completions and list their models at `/v1/models`, where `owned_by` tells
them apart. The key, if a server wants one, is read from the environment and never shown.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Literal

import httpx2 as httpx

from modelsurgery.errors import EvaluationError, RecipeError
from modelsurgery.evaluation.requests import Endpoint

KEY_VARIABLE = "OPENAI_API_KEY"
VLLM_COMMAND = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16"
)
KINDS: dict[str, "Kind"] = {"llamacpp": "llama.cpp", "sglang": "sglang"}
CONNECT_SECONDS = 10.0
MOST_TOLD = 200  # characters of what a server says
NO_KEY = frozenset({401, 403})
NOT_FOUND = 404

Kind = Literal["vllm", "sglang", "llama.cpp"]


@dataclass(frozen=True)
class Served:
    """A model that a server serves."""

    root: str  # address of the server, without `/v1`
    kind: Kind  # whose protocol for adapters it speaks
    version: str  # of the server, empty if it does not say
    model: str  # the server's name of the model
    context: int | None  # tokens of prompt and continuation, at most; None if it does not say
    slots: int | None  # requests that it works on at once; None if it does not say

    @property
    def name(self) -> str:
        """What runs the model, and where."""
        return f"{' '.join(filter(None, (self.kind, self.version)))} at {self.root}"

    def address(self, path: str) -> str:
        """Where something is asked."""
        return f"{self.root}{path}"


def headers() -> dict[str, str]:
    """Headers of every request: the key, if there is one."""
    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def patience(seconds: float) -> httpx.Timeout:
    """How long an answer may take; a connection is there at once or never."""
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def endpoint(url: str, **options: Any) -> Endpoint:
    """An address of a server of language models."""
    return Endpoint(url, who="server", **{"advice": advice, **options})


def check_server(address: str, wanted: str | None) -> None:
    """Refuse early a server that is not there, or does not serve the model.

    Raises:
        EvaluationError: nothing answers there, or not as such a server does.
        RecipeError: it does not serve the model.
    """
    with httpx.Client(headers=headers(), timeout=CONNECT_SECONDS) as client:
        find_served(address, wanted, client)


def find_served(address: str, wanted: str | None, client: httpx.Client) -> Served:
    """Ask a server what it is and what it serves.

    The address is the base of its interface, as `http://localhost:8000/v1`; `/v1` may be left out.
    Without the server's name of the model, the first is taken that is no adapter.

    Raises:
        EvaluationError: nothing answers there, or not as such a server does.
        RecipeError: it does not serve the model.
    """
    root = address.rstrip("/").removesuffix("/v1").rstrip("/")
    models = _models(root, client)
    # An adapter is a model too; its parent is the one that it belongs to.
    bases = [one for one in models if not one.get("parent")]
    names = [str(one["id"]) for one in bases]
    if not bases or (wanted is not None and wanted not in names):
        raise RecipeError(
            f"the server at {root} does not serve {'a model' if wanted is None else repr(wanted)}; "
            f"it serves {', '.join(names) or 'nothing'}; choose with --server-model"
        )
    card = bases[0] if wanted is None else bases[names.index(wanted)]
    kind = KINDS.get(str(card.get("owned_by")), "vllm")
    about = _about(root, kind, client)
    details = card.get("meta") or {}
    return Served(
        root,
        kind,
        str(about.get("version") or about.get("build_info") or ""),
        str(card["id"]),
        card.get("max_model_len") or details.get("n_ctx"),
        about.get("total_slots"),
    )


def _models(root: str, client: httpx.Client) -> list[dict[str, Any]]:
    url = f"{root}/v1/models"
    answer = endpoint(url, attempts=1, advice=_models_advice).get(client)
    try:
        return [one for one in answer.json()["data"] if isinstance(one["id"], str)]
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise EvaluationError(
            f"{url}: not a list of models; {_EXPECTED}, as http://localhost:8000/v1"
        ) from error


_EXPECTED = "expected the address of vLLM, SGLang or llama.cpp's server"


def _models_advice(response: httpx.Response) -> str:
    return _EXPECTED if response.status_code == NOT_FOUND else advice(response)


def _about(root: str, kind: Kind, client: httpx.Client) -> dict[str, Any]:
    """What the server says of itself; it need not say anything."""
    path = {"vllm": "/version", "sglang": "/get_model_info", "llama.cpp": "/props"}[kind]
    try:
        about = client.get(f"{root}{path}").json()
    except (httpx.TransportError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return about if isinstance(about, dict) else {}


def advice(response: httpx.Response) -> str:
    """What to do about a refusal, with what the server says."""
    if response.status_code in NO_KEY:
        return f"put the server's key into the environment variable {KEY_VARIABLE}"
    return f"it says: {said(response)}"


def said(response: httpx.Response) -> str:
    """What a server says of a refusal, in one line, without the key."""
    try:
        content: Any = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = response.text
    for name in ("error", "message", "error_message", "detail"):
        if isinstance(content, dict) and name in content:
            content = content[name]
    line = " ".join(str(content).split())
    key = os.environ.get(KEY_VARIABLE)
    return (line.replace(key, "…") if key else line)[:MOST_TOLD] or "nothing"
