"""The process that runs `surgery` for tests: it imports its libraries once, and forks for commands.

Importing torch and transformers takes seconds of work. Each command starts from the same fresh
state, in a session of its own, with the descriptors of who asked: files, pipes or a terminal.
"""

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import termios
import traceback
from contextlib import nullcontext
from itertools import product
from typing import Any

from less_data import less_data

LARGEST_REQUEST_BYTES = 1 << 17


def serve(listening: socket.socket) -> None:
    """Serve until standard input ends, which is when who started this process does."""
    import modelsurgery.cli

    os.environ.update(modelsurgery.cli.ENVIRONMENT)
    for module in ("modelsurgery.pipeline.running", "modelsurgery.report.tuning"):
        importlib.import_module(module)
    from transformers import (  # noqa: F401 - as heavy, and imported on first use
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaForCausalLM,
        TokenizersBackend,
    )

    from modelsurgery.data.behaviors import describe_behavior, load_behavior

    # Texts of two behaviors and the demo's neutral ones are kept, of both sizes.
    for name, size in product(("toxicity", "negativity"), (nullcontext, less_data)):
        with size():
            load_behavior(describe_behavior(name), is_demo=True)
    gc.freeze()  # a collection would touch, and so copy, every page of the parent
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _serve_one(connection)
        connection.close()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def _serve_one(connection: socket.socket) -> None:
    """Run one command; tells the number of its process, and its exit code when it has ended."""
    content, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST_BYTES, 3)
    process = os.fork()
    if process == 0:
        connection.close()
        _command(json.loads(content), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    try:
        connection.send(str(process).encode())
        _, status = os.waitpid(process, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    except BrokenPipeError:
        os.waitpid(process, 0)
    os._exit(0)


def _command(request: dict[str, Any], descriptors: list[int]) -> None:
    """Become the command."""
    import modelsurgery.cli

    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.setsid()
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["workplace"])
    os.environ.update(request["environment"])
    sys.argv = ["surgery", *request["arguments"]]
    code: Any = 0
    try:
        exec(request["before"], {})  # noqa: S102 - of a test
        modelsurgery.cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - printed, as Python itself does at the end
        code = 1
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)  # torch takes a second to leave in good order


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
