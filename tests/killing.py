"""A surgery that dies, or pauses, just before any call that changes the disk.

One process imports the library once and forks for every surgery, which takes milliseconds. In the
child the calls of the operating system that change the disk are counted, and at one of them the
child sends itself a signal: the library knows nothing of it. A write counts twice: before it
begins, and with half of its bytes on the disk.
"""

import builtins
import fcntl
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CALLS = (
    "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "link", "chmod", "utime", "ftruncate",
)  # fmt: skip
NEVER = 0


@dataclass(frozen=True)
class Ended:
    """How a surgery ended.

    Attributes:
        code: 0 done, 1 refused, minus the number of the signal that killed or stopped it.
        error: the error that it was refused with.
        steps: names of the calls that change the disk, in order; empty unless it is done.
        process: its number.
    """

    code: int
    error: str
    steps: list[str]
    process: int


class Killer:
    """Runs surgeries in processes of their own that die at a given step."""

    def __init__(self, requests: IO[str], replies: IO[str]) -> None:
        self._requests, self._replies = requests, replies

    def run(self, verb: str, *arguments: object, at: int = NEVER, stop: bool = False) -> Ended:
        """Run `copy SOURCE EDIT OUT`, `in_place MODEL EDIT`, `undo MODEL` or `undo_all MODEL`.

        Args:
            verb: what to run.
            arguments: its paths.
            at: the step, from 1, before which the process gets a signal.
            stop: the signal is SIGSTOP and not SIGKILL.
        """
        sent = signal.SIGSTOP if stop else signal.SIGKILL
        return self._ask([verb, [str(one) for one in arguments], at, sent])

    def resume(self, stopped: Ended) -> Ended:
        """Let a stopped surgery go on to its end."""
        return self._ask(["resume", [], stopped.process, signal.SIGCONT])

    def _ask(self, request: list[Any]) -> Ended:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return Ended(**json.loads(self._replies.readline()))


@contextmanager
def killing() -> Iterator[Killer]:
    """Serve surgeries for as long as the block lasts."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        yield Killer(server.stdin, server.stdout)
        server.stdin.close()


def copy_tree(source: Path, destination: Path) -> Path:
    """Copy a directory; files that are one file under several names still are."""
    names: dict[int, Path] = {}
    destination.mkdir()
    for path in sorted(source.rglob("*")):
        target = destination / path.relative_to(source)
        if path.is_dir():
            target.mkdir()
        elif path.stat().st_ino in names:
            target.hardlink_to(names[path.stat().st_ino])
        else:
            shutil.copy2(path, target)
            names[path.stat().st_ino] = target
    return destination


class Steps:
    """Counts the calls that change the disk, and sends a signal at one of them."""

    def __init__(self, at: int, sent: int) -> None:
        self.names: list[str] = []
        self._at, self._signal = at, sent

    def step(self, name: str, tear: Callable[[], object] = lambda: None) -> None:
        self.names.append(name)
        if len(self.names) == self._at:
            tear()
            os.kill(os.getpid(), self._signal)

    def write(self, name: str, size: int, put: Callable[[int], int]) -> int:
        """Two steps before `put(size)` writes that many bytes: nothing of them, half of them."""
        self.step(name)
        self.step(f"half a {name}", lambda: put(size // 2))
        return put(size)

    def count_calls(self) -> None:
        """Replace the calls in this process."""
        os.fsync = lambda _: None  # a process that is killed leaves what it wrote all the same
        for name in CALLS:
            self._wrap(os, name)
        self._wrap(fcntl, "ioctl")
        pwrite, sendfile, low_level_open = os.pwrite, os.sendfile, os.open
        copy_file_range = os.copy_file_range
        steps = self

        def pwrite_in_steps(file: int, content: Any, offset: int) -> int:
            return steps.write(
                "pwrite", len(content), lambda size: pwrite(file, content[:size], offset)
            )

        def sendfile_in_steps(out: int, source: int, offset: int, count: int) -> int:
            size = min(count, os.fstat(source).st_size - offset)
            if not size:
                return 0
            return steps.write("sendfile", size, lambda n: sendfile(out, source, offset, n))

        def copy_file_range_in_steps(
            source: int, out: int, count: int, offset_src: int, offset_dst: int | None = None
        ) -> int:
            size = min(count, os.fstat(source).st_size - offset_src)
            return steps.write(
                "copy_file_range",
                size,
                lambda n: copy_file_range(source, out, n, offset_src, offset_dst),
            )

        def open_in_steps(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & os.O_CREAT:
                steps.step("create")
            return low_level_open(path, flags, *rest, **named)

        os.pwrite, os.sendfile, os.open = pwrite_in_steps, sendfile_in_steps, open_in_steps
        os.copy_file_range = copy_file_range_in_steps
        builtins.open = io.open = self._opener()

    def _wrap(self, module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.step(name)
            return original(*arguments, **named)

        setattr(module, name, call)

    def _opener(self) -> Any:
        original, steps = io.open, self

        class Written(io.FileIO):
            def write(self, content: Any) -> int:
                view = memoryview(content).cast("B")
                put = super().write
                return steps.write("write", len(view), lambda size: put(view[:size]))

        def opened(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any
        ) -> Any:
            if not set(mode) & set("wxa+"):
                return original(file, mode, buffering, *rest, **named)
            assert "b" in mode
            if not isinstance(file, int):
                steps.step("create")
            raw = Written(file, mode.replace("b", ""))
            return raw if buffering == 0 else io.BufferedWriter(raw)

        return opened


def _surgery(verb: str, arguments: list[str]) -> None:
    from modelsurgery.apply.copying import apply_to_copy
    from modelsurgery.apply.in_place import apply_in_place
    from modelsurgery.apply.undoing import undo
    from modelsurgery.edit.edit_file import load_edit

    if verb == "copy":
        source, edit, out = arguments
        apply_to_copy(source, [load_edit(edit)], out)
    elif verb == "in_place":
        model, edit = arguments
        apply_in_place(model, [load_edit(edit)])
    else:
        undo(arguments[0], everything=verb == "undo_all")


def _child(verb: str, arguments: list[str], steps: Steps, out: int) -> None:
    from modelsurgery.errors import SurgeryError

    steps.count_calls()
    error = ""
    try:
        _surgery(verb, arguments)
    except SurgeryError as refusal:
        error = f"{type(refusal).__name__}: {refusal}"
    os.write(out, json.dumps([error, steps.names]).encode())
    os._exit(1 if error else 0)


def _serve() -> None:
    import numpy as np

    import modelsurgery.apply.copying
    import modelsurgery.apply.in_place  # noqa: F401 - imported once, before the forks
    from modelsurgery.checkpoint.layouts import built_in_layouts
    from modelsurgery.checkpoint.layouts.format import gguf_layouts
    from modelsurgery.checkpoint.quantized import QUANTIZED_DTYPES, dequantized
    from modelsurgery.errors import SurgeryError
    from modelsurgery.files.provenance import installed_versions

    # Cached or imported from here on.
    built_in_layouts()
    gguf_layouts()
    with suppress(SurgeryError):  # without the gguf package
        dequantized(np.zeros((1, 1), dtype=QUANTIZED_DTYPES["Q4_0"]))
    installed_versions()
    np.unique([0])
    gc.freeze()  # a collection would touch, and so copy, every page of the parent
    os.cpu_count = lambda: 1  # one thread, so that steps come in the same order every time
    pipes: dict[int, int] = {}
    for line in sys.stdin:
        verb, arguments, number, sent = json.loads(line)
        if verb == "resume":
            process = number
            os.kill(process, sent)
        else:
            reading, writing = os.pipe()
            process = os.fork()
            if process == 0:
                _child(verb, arguments, Steps(number, sent), writing)
            os.close(writing)
            pipes[process] = reading
        _, status = os.waitpid(process, os.WUNTRACED)
        error, steps = "", []
        if os.WIFSTOPPED(status):
            code = -os.WSTOPSIG(status)
        else:
            code = os.waitstatus_to_exitcode(status)
            with os.fdopen(pipes.pop(process), "rb") as pipe:
                if content := pipe.read():
                    error, steps = json.loads(content)
        print(json.dumps({"code": code, "error": error, "steps": steps, "process": process}))
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
