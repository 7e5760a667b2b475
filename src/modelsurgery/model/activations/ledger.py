"""Sums of a pass over texts, kept as they come: a pass that was killed goes on where it was.

A file holds the sums after a number of batches. It is written again after each batch, or less
often where writing would take more than a few per cent of the time.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from modelsurgery.files.atomic import write_bytes

BATCHES = "batches"  # tensor with the number of batches that are in the sums
MOST_WRITING = 0.05  # of the time of a pass

Sums = dict[str, torch.Tensor]


@dataclass
class Ledger:
    """Keeps the sums of passes in a directory; None keeps nothing."""

    directory: Path | None = None
    _kept_at: float = 0.0
    _writing: float = 0.0

    def begin(self, key: str, sums: Sums) -> int:
        """Load what is there into sums of the same shapes, in place; how many batches that is."""
        self._kept_at, self._writing = time.monotonic(), 0.0
        path = self._path(key)
        if path is None or not path.is_file():
            return 0
        try:
            stored = load(path.read_bytes())
        except SafetensorError:
            path.unlink()  # damaged by something else: made again
            return 0
        if {name: one.shape for name, one in stored.items() if name != BATCHES} != {
            name: one.shape for name, one in sums.items()
        }:
            return 0
        for name, one in sums.items():
            one.copy_(stored[name])
        return int(stored[BATCHES])

    def keep(self, key: str, sums: Sums, batches: int, *, is_last: bool) -> None:
        """Write sums, unless that was done a moment ago."""
        path = self._path(key)
        now = time.monotonic()
        if path is None or (not is_last and now - self._kept_at < self._writing / MOST_WRITING):
            return
        stored = {name: one.cpu().contiguous() for name, one in sums.items()}
        write_bytes(path, save({**stored, BATCHES: torch.tensor(batches)}))
        self._kept_at = time.monotonic()
        self._writing = self._kept_at - now

    def _path(self, key: str) -> Path | None:
        return None if self.directory is None else self.directory / f"{key[:32]}.safetensors"
