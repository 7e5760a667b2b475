"""llama.cpp's own server, in process or as a program that takes llama-server's options.

python tests/llama_server.py -m MODEL.gguf --lora ADAPTER.gguf --lora-init-without-apply --port N
"""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class LlamaServer:
    """Serves a model over HTTP for as long as the object lives."""

    def __init__(
        self,
        model: Path,
        adapters: Sequence[Path] = (),
        *,
        applied: bool = False,
        port: int = 0,
        context: int = 1024,
        slots: int = 4,
        key: str | None = None,
    ) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.lora_adapters = [_adapter(xllamacpp, one, float(applied)) for one in adapters]
        params.port, params.api_keys = port, [] if key is None else [key]
        params.n_parallel, params.n_ctx = slots, context
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup, params.verbosity = False, 0
        self._server: Any = xllamacpp.Server(params)
        self.root: str = self._server.listening_address


def _adapter(xllamacpp: Any, path: Path, scale: float) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), scale
    return adapter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model", type=Path, required=True)
    parser.add_argument("-c", dest="context", type=int, default=1024)
    parser.add_argument("-np", dest="slots", type=int, default=4)
    parser.add_argument("--lora", type=Path, action="append", default=[])
    parser.add_argument("--lora-init-without-apply", action="store_true")
    parser.add_argument("--port", type=int, default=8080)
    told = parser.parse_args()
    server = LlamaServer(
        told.model,
        told.lora,
        applied=not told.lora_init_without_apply,
        port=told.port,
        context=told.context,
        slots=told.slots,
    )
    print(f"listening at {server.root}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
