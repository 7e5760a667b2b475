"""A small server of a real model with vLLM's protocol, or SGLang's: completions and adapters.

Paths, fields, statuses and messages are those of vLLM (entrypoints/openai, entrypoints/serve/lora)
and of SGLang (entrypoints/http_server) in November 2026; transformers and PEFT do the work.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import transformers

Answer = tuple[int, Any]


def refusal(status: int, message: str, kind: str) -> Answer:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


NO_ROUTE: Answer = (404, {"detail": "Not Found"})


class OpenAiServer(ThreadingHTTPServer):
    """Serves one model; its faults are switched on by attributes.

    Attributes:
        asked: path and body of each request.
        adapters: names of those that are loaded, and where they were loaded from.
        updates: adapters can be loaded (VLLM_ALLOW_RUNTIME_LORA_UPDATING).
        has_lora: it was started with --enable-lora.
        max_rank: of an adapter.
        key: that it wants.
        ignores_adapters: it answers with the base whatever is asked for.
        remembers: it answers by name of the model and prompt, as a cache of prefixes would.
        failures: statuses of the next answers to completions; 0 answers.
        delay_seconds: of each completion, before it waits for the model.
        together: names of models that were asked for at the same time.
    """

    daemon_threads = True

    def __init__(self, directory: Path, kind: str = "vllm") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kind, self.name = kind, "served/model"
        self.root = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.adapters: dict[str, str] = {}
        self.updates = self.has_lora = True
        self.max_rank, self.context = 16, 256
        self.key: str | None = None
        self.ignores_adapters = self.remembers = False
        self.failures: list[int] = []
        self.delay_seconds = 0.0
        self.together: list[frozenset[str]] = []
        self._under_way: list[str] = []
        self._cache: dict[str, Any] = {}
        self._lock, self._model_lock = threading.Lock(), threading.Lock()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32
        ).eval()

    @contextmanager
    def running(self) -> Iterator["OpenAiServer"]:
        with self:
            threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
            yield self
            self.shutdown()

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/completions":
            return self._completion(body)
        prefix = "/v1" if self.kind == "vllm" else ""
        if path == f"{prefix}/load_lora_adapter" and self.updates:
            return self._load(body["lora_name"], body["lora_path"])
        if path == f"{prefix}/unload_lora_adapter" and self.updates:
            return self._unload(body["lora_name"])
        return NO_ROUTE

    def models(self) -> list[dict[str, Any]]:
        base = {"id": self.name, "object": "model", "owned_by": self.kind, "parent": None,
                "max_model_len": self.context}  # fmt: skip
        return [base, *({"id": name, "object": "model", "owned_by": self.kind, "parent": self.name}
                        for name in self.adapters)]  # fmt: skip

    def _load(self, name: str, path: str) -> Answer:
        import peft

        if name in self.adapters:
            return self._refused(400, f"The lora adapter '{name}' has already been loaded.")
        if not self.has_lora:
            return self._refused(500, "LoRA is not enabled. Use --enable-lora to enable LoRA.")
        config = Path(path) / "adapter_config.json"
        if not config.is_file():
            message = f"Loading lora {name} failed: No adapter found for {path}"
            return self._refused(404, message)
        rank = json.loads(config.read_text())["r"]
        if rank > self.max_rank:
            message = f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
            return self._refused(500, message)
        with self._model_lock:
            if isinstance(self._model, peft.PeftModel):
                self._model.load_adapter(path, adapter_name=name)
            else:
                self._model = peft.PeftModel.from_pretrained(self._model, path, adapter_name=name)
        self.adapters[name] = path
        if self.kind == "vllm":
            return 200, f"Success: LoRA adapter '{name}' added successfully."
        return 200, {"success": True, "loaded_adapters": self.adapters}

    def _unload(self, name: str) -> Answer:
        if self.adapters.pop(name, None) is None:
            return self._refused(404, f"The lora adapter '{name}' cannot be found.")
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def _refused(self, status: int, message: str) -> Answer:
        if self.kind == "vllm":
            return refusal(status, message, "NotFoundError" if status == 404 else "BadRequestError")
        return 400, {"success": False, "error_message": message}

    def _completion(self, body: dict[str, Any]) -> Answer:
        name = body["model"]
        adapter = name if self.kind == "vllm" else name.partition(":")[2] or self.name
        if name != self.name and adapter not in self.adapters:
            return refusal(404, f"The model `{name}` does not exist.", "NotFoundError")
        if len(body["prompt"]) + body["max_tokens"] > self.context:
            return refusal(400, "This model's maximum context length is exceeded", "BadRequest")
        if self.failures and (status := self.failures.pop(0)):
            return refusal(status, "busy", "InternalServerError")
        with self._lock:
            self._under_way.append(name)
            self.together.append(frozenset(self._under_way))
        try:
            time.sleep(self.delay_seconds)
            return 200, self._made(adapter, body)
        finally:
            with self._lock:
                self._under_way.remove(name)

    def _made(self, adapter: str, body: dict[str, Any]) -> dict[str, Any]:
        key = json.dumps([adapter, body["prompt"], body["max_tokens"], body["seed"]])
        if not self.remembers or key not in self._cache:
            with self._model_lock, torch.inference_mode(), self._with(adapter):
                self._cache[key] = self._continued(body)
        choice = self._cache[key]
        usage = {
            "prompt_tokens": len(body["prompt"]),
            "completion_tokens": len(choice["token_ids"]),
        }
        return {"object": "text_completion", "model": body["model"], "choices": [choice],
                "usage": usage}  # fmt: skip

    def _with(self, adapter: str) -> Any:
        """The model with an adapter for as long as a block lasts."""
        if adapter not in self.adapters or self.ignores_adapters:
            return self._model.disable_adapter() if self.adapters else nullcontext()
        self._model.set_adapter(adapter)
        return nullcontext()

    def _continued(self, body: dict[str, Any]) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(body["seed"] or 0)
        made: list[int] = []
        ranked: list[dict[str, float]] = []
        reason = "length"
        while len(made) < body["max_tokens"] and reason == "length":
            logits = self._model(input_ids=torch.tensor([body["prompt"] + made])).logits[0, -1]
            if body["temperature"] == 0:
                made.append(int(logits.argmax()))
            else:
                odds = (logits / body["temperature"]).softmax(-1)
                made.append(int(torch.multinomial(odds, 1, generator=draw)))
            values, ids = logits.log_softmax(-1).topk(body.get("logprobs") or 1)
            ranked.append({self._tokenizer.decode([one]): float(value)
                           for one, value in zip(ids.tolist(), values, strict=True)})  # fmt: skip
            text = self._tokenizer.decode(made, skip_special_tokens=True)
            if made[-1] in body["stop_token_ids"] or any(one in text for one in body["stop"]):
                reason = "stop"
        return {"index": 0, "text": text, "token_ids": made, "finish_reason": reason,
                "logprobs": {"top_logprobs": ranked} if "logprobs" in body else None}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    server: OpenAiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.server.key and self._key() != f"Bearer {self.server.key}":
            self._send((401, {"error": f"Unauthorized: {self._key()}"}))
        elif self.path == "/v1/models":
            self._send((200, {"object": "list", "data": self.server.models()}))
        elif self.path == "/version":
            self._send((200, {"version": "0.14.0"}))
        else:
            self._send(NO_ROUTE)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        if self.server.key and self._key() != f"Bearer {self.server.key}":
            self._send((401, {"error": f"Unauthorized: {self._key()}"}))
        else:
            self._send(self.server.answer(self.path, body))

    def _key(self) -> str:
        return str(self.headers.get("Authorization"))

    def _send(self, answer: Answer) -> None:
        status, content = answer
        payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass
