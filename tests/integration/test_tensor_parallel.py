"""Models that transformers splits over processes: what hooks see there, and a clear refusal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tensor_parallel
from tiny import write_tiny_model

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch with gloo",
)


def test_gates_read_whole_states_and_give_some_rows_and_the_model_is_refused(
    tmp_path: Path,
) -> None:
    directory = write_tiny_model(tmp_path / "m", "llama")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    script = Path(tensor_parallel.__file__)
    done = subprocess.run(
        [*launch, script, directory], capture_output=True, text=True, check=True, timeout=300
    )
    processes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(processes) == 2
    for one in processes:
        assert len(one["apart"]) == 3
        assert max(one["apart"]) < 1e-5  # sums of two processes are rounded otherwise
        assert one["shape"] == [1, 8, 24]  # of 48 rows
        assert "is split over processes" in one["said"]
        assert "device_map" in one["said"]
