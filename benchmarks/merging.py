"""The same rewrite with mergekit, the usual tool for making a checkpoint out of checkpoints.

mergekit cannot add to rows. What comes nearest is `task_arithmetic`, base + 1.0 x (edited - base),
which needs the edited copy to be there and rounds the difference to bf16 before adding it: a
quarter of the edited values of the tiny shape come out one rounding off. `passthrough` of the base
is the least that it can do, a rewrite that changes nothing.

`--out-shard-size` is in bytes, whatever its help says, and decides how much is held in memory: a
shard is written when it is full; with `--async-write` the work goes on meanwhile. `--lazy-unpickle`
is for pickles and `--low-cpu-memory` for accelerators: neither changes anything here. Its peak
memory includes mapped files; the table shows it without them too.

It gets a virtual environment of its own (`--install-mergekit`), which is:

    python -m venv VENV
    VENV/bin/pip install torch==VERSION              # the version that modelsurgery runs with
    VENV/bin/pip install mergekit==0.1.5 torch==VERSION

Where pip finds no CPU build of torch, the first line fetches gigabytes of CUDA libraries; then set
PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

MERGEKIT = "mergekit==0.1.5"
SMALL_SHARDS = ("--out-shard-size", "500M")
ASYNC = ("--async-write", "--write-threads", "2")
ALWAYS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
SETTINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("passthrough", ()),
    ("passthrough", SMALL_SHARDS),
    ("passthrough", (*SMALL_SHARDS, *ASYNC)),
    ("task_arithmetic", (*SMALL_SHARDS, *ASYNC)),
)


def install_mergekit(directory: Path) -> Path:
    """Make the virtual environment unless it is there; gives the executable."""
    executable = directory / "bin" / "mergekit-yaml"
    if not executable.is_file():
        torch = f"torch=={version('torch').partition('+')[0]}"
        pip = (directory / "bin" / "python", "-m", "pip", "install", "--quiet")
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([*pip, torch], check=True)
        subprocess.run([*pip, MERGEKIT, torch], check=True)
    return executable


def mergekit_version(executable: Path) -> str:
    """The version that an executable belongs to, asked of the Python beside it."""
    question = "from importlib.metadata import version; print(version('mergekit'))"
    answer = subprocess.run(
        [executable.with_name("python"), "-c", question],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "of unknown version"


def merge_label(method: str, options: tuple[str, ...]) -> str:
    """How a setting is called in tables."""
    return " ".join(("mergekit", method, *options))


def merge_command(
    executable: Path,
    method: str,
    options: tuple[str, ...],
    base: Path,
    edited: Path,
    out: Path,
) -> list[object]:
    """Write the configuration beside `out` and give the command line."""
    weight = {"parameters": {"weight": 1.0}}
    content: dict[str, object] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "passthrough":
        content["models"] = [{"model": str(base)}]
    else:
        content |= {"base_model": str(base), "models": [{"model": str(edited), **weight}]}
    config = out.with_name(f"{out.name}.yaml")
    config.write_text(json.dumps(content, indent=2) + "\n")  # JSON is YAML
    return [executable, config, out, *ALWAYS, *options]
