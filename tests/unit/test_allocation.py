"""Memory that a forward pass frees is used by the next one."""

import platform
import subprocess
import sys

import pytest

from modelsurgery.cli.allocation import keep_freed_memory

ROUNDS = """
import resource, sys
import numpy as np
from modelsurgery.cli.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = None
for number in range(11):
    blocks = [np.ones(1 << 20) for _ in range(5)]  # 8 MB each
    del blocks
    if number == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_blocks_are_not_faulted_in_again() -> None:
    assert page_faults("kept") < page_faults("given back") / 5


def test_a_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
