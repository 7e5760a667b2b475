"""`surgery` as a user meets it: a process with its own descriptors and an exit code.

Importing torch and transformers takes seconds, so one process imports them once and forks for every
command: each starts from the same fresh state, and no log handler or warning escapes unseen.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tiny import tiny_sentences

SERVER = """
import gc, json, os, sys, traceback
import modelsurgery.cli

os.environ.update(modelsurgery.cli.ENVIRONMENT)
import modelsurgery.pipeline.running, modelsurgery.report.tuning
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, TokenizersBackend

gc.freeze()  # a collection would touch, and so copy, every page of the parent
for line in sys.stdin:
    arguments, outputs, workplace = json.loads(line)
    child = os.fork()
    if child == 0:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(os.path.join(outputs, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
        os.chdir(workplace)
        sys.argv = ["surgery", *arguments]
        code = 0
        try:
            modelsurgery.cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)  # torch takes a second to leave in good order
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Made:
    """A tiny model with what was made from it; read only."""

    model: Path
    texts: Path
    probe: Path
    edit: Path
    edited: Path


class Surgery(Protocol):
    """Runs `surgery` with arguments, in a directory."""

    def __call__(self, *arguments: object, workplace: Path | None = None) -> Outcome: ...


class Refused(Protocol):
    """Runs a command that must fail well and gives its line."""

    def __call__(self, *arguments: object, code: int, says: str) -> str: ...


def without_progress(stderr: str) -> str:
    """Standard error without lines like `[0:05] generate 3 of 8; 0.6 GB` of a slow machine."""
    return re.sub(r"^\[[\d:]+\] .*\n", "", stderr, flags=re.MULTILINE)


@contextmanager
def commands(outputs: Path) -> Iterator[Surgery]:
    """Serve commands for as long as the block lasts."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # One thread: tiny models are slower with two, and a fork leaves a pool of threads behind.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, replies = server.stdin, server.stdout

    def command(*arguments: object, workplace: Path | None = None) -> Outcome:
        request = [[str(one) for one in arguments], str(outputs), str(workplace or outputs)]
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        code = int(replies.readline())
        out, err = ((outputs / name).read_text() for name in ("stdout", "stderr"))
        return Outcome(code, out, without_progress(err))

    with server:
        yield command
        requests.close()


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every path below a directory, hidden ones too, with the bytes of files."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def write_labeled(path: Path, count: int = 60) -> Path:
    """Labeled sentences of the tiny vocabulary, which end in what the label says."""
    endings = ("kind good", "rude bad")
    rows = [
        {"text": f"{text} {endings[number % 2]}", "label": number % 2}
        for number, text in enumerate(tiny_sentences(count))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
