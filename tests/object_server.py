"""A server that speaks S3 (moto's, in a process of its own) and a model that is worth cutting."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from modelsurgery import Edit, open_checkpoint
from modelsurgery.checkpoint.layouts import find_gate_matrices
from modelsurgery.edit.edit import RowUpdate
from modelsurgery.files.provenance import Provenance

BUCKET = "models"
WIDTH, INNER, VOCABULARY = 256, 8192, 14_000
SHARDS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
          "model-00003-of-00003.safetensors")  # fmt: skip


@dataclass(frozen=True)
class ObjectServer:
    """A server with an empty bucket.

    Attributes:
        client: boto3's, to look at what is there.
        environment: variables for boto3 in other processes.
    """

    client: Any
    environment: dict[str, str]

    def upload(self, directory: Path, name: str) -> str:
        """Upload a directory; its URL."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                key = f"{name}/{path.relative_to(directory).as_posix()}"
                self.client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{name}"

    def download(self, name: str, directory: Path) -> Path:
        """Download all objects of a folder."""
        for key in self.names(name):
            path = directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            answer = self.client.get_object(Bucket=BUCKET, Key=f"{name}/{key}")
            path.write_bytes(answer["Body"].read())
        return directory

    def names(self, name: str) -> list[str]:
        """Names of the objects of a folder."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{name}/"
        )
        found = (one for page in pages for one in page.get("Contents", []))
        return [one["Key"].removeprefix(f"{name}/") for one in found]

    def uploads(self) -> int:
        """Number of uploads that were begun and not completed."""
        return len(self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


@contextmanager
def object_server_used() -> Iterator[ObjectServer]:
    """Serve, and have this process and those that it starts use the server."""
    with object_server() as served, pytest.MonkeyPatch.context() as patch:
        for name, value in served.environment.items():
            patch.setenv(name, value)
        yield served


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """Serve for as long as the block lasts."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        yield ObjectServer(client, environment)
        client.close()
    finally:
        server.terminate()
        server.wait()


@contextmanager
def breaking_off(port: int, after: int, times: int) -> Iterator[int]:
    """Stand before a server, and break off answers after that many bytes, the first ones so often.

    Gives the port to ask instead.
    """
    left = [times]
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(asking: socket.socket) -> None:
        with asking, socket.create_connection(("127.0.0.1", port)) as server:
            forth = threading.Thread(target=carry, args=(asking, server, None), daemon=True)
            forth.start()
            carry(server, asking, after)

    def carry(source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        try:
            while content := source.recv(1 << 16):
                passed += len(content)
                if most is not None and passed > most and left[0] > 0:
                    left[0] -= 1
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def listen() -> None:
        while True:
            try:
                asking, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(asking,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def write_large_model(directory: Path) -> Path:
    """Random weights of a Llama with 4 MB gate matrices, in three files, the last without any."""
    directory.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)

    files: list[dict[str, np.ndarray]] = []
    for block in range(2):
        prefix = f"model.layers.{block}"
        files.append(
            {
                f"{prefix}.input_layernorm.weight": random(WIDTH),
                f"{prefix}.post_attention_layernorm.weight": random(WIDTH),
                **{f"{prefix}.self_attn.{one}_proj.weight": random(WIDTH, WIDTH) for one in "qkvo"},
                f"{prefix}.mlp.gate_proj.weight": random(INNER, WIDTH),
                f"{prefix}.mlp.up_proj.weight": random(INNER, WIDTH),
                f"{prefix}.mlp.down_proj.weight": random(WIDTH, INNER),
            }
        )
    table = random(VOCABULARY, WIDTH)
    files.append(
        {"model.embed_tokens.weight": table, "model.norm.weight": random(WIDTH),
         "lm_head.weight": table}
    )  # fmt: skip
    for name, tensors in zip(SHARDS, files, strict=True):
        save_file(tensors, directory / name, {"format": "pt"})
    index = {name: file for file, one in zip(SHARDS, files, strict=True) for name in one}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "licenses").mkdir()
    (directory / "licenses" / "NOTICE").write_text("a notice")
    (directory / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    return directory


def edit_of(model: Path, rows: tuple[list[int], ...], *, strength: float = 0.5) -> Edit:
    """An edit of chosen rows, a list for each gate matrix, bound to the model."""
    checkpoint = open_checkpoint(model)
    gates = find_gate_matrices(checkpoint)
    generator = np.random.default_rng(1)
    updates = tuple(
        RowUpdate(
            tensor=gate.tensor,
            address=gate.address,
            shape=(gate.rows, gate.hidden_size),
            dtype=gate.dtype,
            rows=np.array(numbers, np.int32),
            coefficients=np.full(len(numbers), strength, np.float32),
            direction=generator.standard_normal(gate.hidden_size, np.float32),
        )
        for gate, numbers in zip(gates, rows, strict=True)
        if numbers
    )
    edit = Edit(
        updates=updates,
        alpha=strength,
        strength=strength,
        candidate_rows=sum(gate.rows for gate in gates),
        provenance=Provenance(),
    )
    return edit.bound_to(checkpoint, gates)


def edit_of_two_rows(model: Path) -> Edit:
    """An edit of rows 1 and 3 of each gate matrix."""
    return edit_of(model, ([1, 3],) * len(find_gate_matrices(open_checkpoint(model))))
