"""Surgery on a checkpoint in the shape of Llama-2-7B, against `cat`, `cp` and mergekit.

    python -m benchmarks.checkpoint --shape 7b [--workdir DIR] [--install-mergekit]
    python -m benchmarks.checkpoint --shape 70b          # after 7b: peak memory only, sparse files
    python -m benchmarks.checkpoint --shape tiny         # seconds, to try this script

The checkpoint is random (benchmarks/synthetic.py) and is kept under DIR for the next run; 7b needs
45 GB there, 13.5 for the checkpoint, 2.9 for its gate rows alone and two copies. Every command is
a process of its own (benchmarks/measured.py). What is compared runs in turn in one session, with
the source read before, and each ratio is that of a pair; the table gives medians and minima.
Commands that write count until a `sync` after them has ended. Without --results the tables of tiny
are only printed; those of 7b and 70b become sections of benchmarks/RESULTS.md.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks import published
from benchmarks.merging import (
    SETTINGS,
    install_mergekit,
    merge_command,
    merge_label,
    mergekit_version,
)
from benchmarks.published import Aim, Runs, aim_at_most
from benchmarks.synthetic import SIZES, Fingerprints, Size, ensure_checkpoint, fingerprints
from modelsurgery import Probe, find_gate_matrices, open_checkpoint, save_probe

COMPARED_WITH = {"tiny-sparse": "tiny", "70b": "7b"}
ALPHA = "1.08"
MEMORY_AIM_BYTES = 700e6
SPARE_BYTES = 2 * 10**9
COPY_BLOCK_BYTES = 1 << 23

CAT, CAT_AGAIN = "cat GATES > /dev/null", "cat GATES > /dev/null, before each --in-place"
READ = "dd of the gates in their files > /dev/null"
EDIT, IN_PLACE, UNDO = "surgery edit", "surgery apply --in-place", "surgery undo"
CP, COPY, APPLY = "cp -r", "surgery apply --out --copy", "surgery apply --out"
PLAN, PLAN_EDIT, VERIFY, DIFF = (
    "surgery plan MODEL", "surgery plan MODEL EDIT", "surgery verify", "surgery diff",
)  # fmt: skip
OURS = (EDIT, IN_PLACE, UNDO, COPY, APPLY, PLAN, PLAN_EDIT, VERIFY, DIFF)
REWRITES = (IN_PLACE, APPLY, COPY, CP, *(merge_label(*one) for one in SETTINGS))


@dataclass
class Bench:
    """One checkpoint, the commands on it and what they took.

    Attributes:
        shape: name of its size.
        directory: where everything of this size is.
        runs: what was measured.
        aims: what came of the aims.
        original: fingerprints of the checkpoint's files.
    """

    shape: str
    directory: Path
    runs: Runs = field(default_factory=Runs)
    aims: list[Aim] = field(default_factory=list)
    original: Fingerprints = field(default_factory=dict)

    @property
    def size(self) -> Size:
        """Its shape in numbers."""
        return SIZES[self.shape]

    @property
    def is_sparse(self) -> bool:
        """Mostly holes: good for memory, not for time."""
        return self.size.written_rows is not None

    @property
    def model(self) -> Path:
        """The checkpoint."""
        return self.directory / "model"

    @property
    def edit(self) -> Path:
        """The edit made for it."""
        return self.directory / "edit.safetensors"

    @property
    def gates(self) -> Path:
        """A file with the bytes of all gate matrices and nothing else."""
        return self.directory / "gates.bin"

    def copy(self, name: str) -> Path:
        """Where a copy goes; what was there is removed."""
        path = self.directory / "copies" / name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        return path

    @cached_property
    def gate_ranges(self) -> tuple[tuple[Path, int, int], ...]:
        """File, first byte and length of every gate matrix."""
        checkpoint = open_checkpoint(self.model)
        names = [gate.tensor for gate in find_gate_matrices(checkpoint)]
        stored = [checkpoint.tensors[name] for name in names]
        return tuple((self.model / one.file, one.start, one.size_bytes) for one in stored)

    def surgery(self, label: str, *arguments: object) -> bool:
        """Measure a verb of the `surgery` beside this Python."""
        return self.runs.run(label, [Path(sys.executable).with_name("surgery"), *arguments])

    def warm(self) -> None:
        """Read the checkpoint, so that the page cache holds of it what it can."""
        _read(["cat", *self.model.glob("*.safetensors")])

    def read_in_place(self) -> list[str]:
        """A command that reads the gate matrices where they are."""
        flags = "iflag=skip_bytes,count_bytes status=none"
        lines = [
            f"dd if={shlex.quote(str(path))} bs=1M {flags} skip={start} count={length}"
            for path, start, length in self.gate_ranges
        ]
        return ["sh", "-c", "; ".join(lines)]


def _read(command: Sequence[str | Path]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def prepare(bench: Bench) -> None:
    """Write what the commands need, unless it is there."""
    bench.directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(bench.directory / "copies", ignore_errors=True)
    size = bench.size
    copies = 0 if bench.is_sparse else 2 * size.total_bytes
    gate_bytes = 0 if bench.is_sparse or bench.gates.is_file() else size.gate_bytes
    stored = 0 if bench.model.is_dir() else size.stored_bytes
    needed = stored + gate_bytes + copies + SPARE_BYTES
    free = shutil.disk_usage(bench.directory).free
    if free < needed:
        sys.exit(
            f"{bench.directory}: {free / 1e9:.0f} GB are free, {needed / 1e9:.0f} GB are needed; "
            "free some or choose another --workdir"
        )
    print(f"checkpoint of {size.total_bytes / 1e9:.3g} GB in {bench.directory}", flush=True)
    bench.original = ensure_checkpoint(bench.model, size)
    _write_probe(bench.directory / "probe.safetensors", size.width)
    if not bench.is_sparse:
        _extract_gates(bench)


def _write_probe(path: Path, width: int) -> None:
    values = np.random.default_rng(1).standard_normal((2, width), dtype=np.float32)
    path.unlink(missing_ok=True)
    save_probe(Probe(values * np.float32(0.02), np.zeros(2, np.float32)), path)


def _extract_gates(bench: Bench) -> None:
    """Copy the gate matrices out; a file of the right length is that of the same checkpoint."""
    if bench.gates.is_file() and bench.gates.stat().st_size == bench.size.gate_bytes:
        return
    with bench.gates.open("wb") as out:
        for path, start, length in bench.gate_ranges:
            with path.open("rb") as file:
                file.seek(start)
                for done in range(0, length, COPY_BLOCK_BYTES):
                    out.write(file.read(min(COPY_BLOCK_BYTES, length - done)))


def time_editing(bench: Bench, rounds: int) -> None:
    """`surgery edit` against reading the same bytes."""
    runs = bench.runs
    bench.warm()
    for _ in range(rounds):
        if not bench.is_sparse:
            _read(["cat", bench.gates])
            runs.run(CAT, ["cat", bench.gates])
            runs.run(READ, bench.read_in_place())
        bench.edit.unlink(missing_ok=True)
        probe = ("--probe", bench.directory / "probe.safetensors", "--alpha", ALPHA)
        rows = ("--rows", bench.size.chosen_rows)
        bench.surgery(EDIT, "edit", bench.model, *probe, *rows, "--out", bench.edit)
    if not bench.is_sparse:
        pairs = zip(runs.of(EDIT), runs.of(CAT), strict=False)
        ratios = [edit.seconds / cat.seconds for edit, cat in pairs]
        bench.aims.append(aim_at_most("edit within 4 x cat of the gate rows", ratios, limit=4))


def time_in_place(bench: Bench, rounds: int) -> None:
    """`surgery apply --in-place` and `surgery undo`, and that every byte comes back."""
    runs = bench.runs
    for _ in range(rounds):
        if not bench.is_sparse:
            _read(bench.read_in_place())
            _read(["cat", bench.gates])
            runs.run(CAT_AGAIN, ["cat", bench.gates])
        if not bench.surgery(IN_PLACE, "apply", bench.model, bench.edit, "--in-place"):
            break
        if not bench.surgery(UNDO, "undo", bench.model):
            break
    if not bench.is_sparse:
        for label in (IN_PLACE, UNDO):
            pairs = zip(runs.of(label), runs.of(CAT_AGAIN), strict=False)
            ratios = [one.seconds_on_disk / (2 + 2 * cat.seconds) for one, cat in pairs]
            verb = label.removeprefix("surgery ")
            bench.aims.append(aim_at_most(f"{verb} within 2 s + 2 x cat of the gate rows", ratios))
    _check_undone(bench)


def _check_undone(bench: Bench) -> None:
    text = "after undo every file as it was (SHA-256)"
    found = fingerprints(bench.model)
    names = found.keys() | bench.original.keys()
    other = sorted(name for name in names if found.get(name) != bench.original.get(name))
    if bench.runs.of(UNDO):
        said = f"other: {', '.join(other)}" if other else f"{len(found)} files equal"
        bench.aims.append(Aim(text, said, None, not other))
    else:
        bench.aims.append(Aim(text, "not measured", None, None))
    if other:
        ensure_checkpoint(bench.model, bench.size)


def time_copies(bench: Bench, rounds: int) -> None:
    """Edited copies against `cp -r`, in an order that changes from round to round."""

    def cp() -> None:
        bench.runs.run(CP, ["cp", "-r", bench.model, bench.copy("plain")])

    def copy() -> None:
        bench.surgery(COPY, "apply", bench.model, bench.edit, "--out", bench.copy("real"), "--copy")

    def default() -> None:
        bench.surgery(APPLY, "apply", bench.model, bench.edit, "--out", bench.copy("edited"))

    order = [cp, copy, default]
    for _ in range(rounds):
        for write in order:
            bench.warm()
            write()
            for name in ("plain", "real"):
                bench.copy(name)
        order = [*order[1:], order[0]]
    pairs = zip(bench.runs.of(COPY), bench.runs.of(CP), strict=False)
    ratios = [one.seconds_on_disk / plain.seconds_on_disk for one, plain in pairs]
    text = "apply --out --copy within 1.3 x (cp -r && sync)"
    bench.aims.append(aim_at_most(text, ratios, limit=1.3))


def time_looking(bench: Bench) -> None:
    """The verbs that only read."""
    edited = bench.directory / "copies" / "edited"
    bench.surgery(PLAN, "plan", bench.model)
    bench.surgery(PLAN_EDIT, "plan", bench.model, bench.edit)
    if edited.is_dir():
        bench.surgery(VERIFY, "verify", edited)
        bench.surgery(DIFF, "diff", bench.model, edited)


def time_mergekit(bench: Bench, executable: Path) -> None:
    """The comparable rewrites of mergekit, once each."""
    edited = bench.directory / "copies" / "edited"
    for method, options in SETTINGS:
        bench.warm()
        out = bench.copy("merged")
        command = merge_command(executable, method, options, bench.model, edited, out)
        bench.runs.run(merge_label(method, options), command)
    bench.copy("merged")


def judge_memory(bench: Bench) -> None:
    """Peak memory against the aim, and of a sparse checkpoint against the smaller one."""
    peaks = {label: peak for label in OURS if (peak := bench.runs.peak(label)) is not None}
    if peaks:
        most = max(peaks, key=peaks.__getitem__)
        text = "peak memory of every command under 700 MB"
        said = f"{peaks[most] / 1e6:.0f} MB ({most})"
        ratio = peaks[most] / MEMORY_AIM_BYTES
        bench.aims.append(Aim(text, said, ratio, ratio < 1))
    smaller = COMPARED_WITH.get(bench.shape)
    if smaller is None:
        return
    before = bench.directory.with_name(bench.directory.name.replace(bench.shape, smaller))
    path = before / "peaks.json"
    known: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}
    for label in (EDIT, IN_PLACE, UNDO):
        text = f"peak memory of {label.removeprefix('surgery ')} within 10 % of that of {smaller}"
        if label not in known or label not in peaks:
            bench.aims.append(Aim(text, "not measured", None, None))
            continue
        ratio = peaks[label] / known[label]
        said = f"{peaks[label] / 1e6:.0f} MB against {known[label] / 1e6:.0f} MB"
        bench.aims.append(Aim(text, said, ratio, 0.9 <= ratio <= 1.1))


def report(bench: Bench, options: argparse.Namespace, mergekit: Path | None) -> str:
    """Everything measured, as Markdown."""
    versions = published.describe_versions()
    if mergekit is not None:
        versions += f", mergekit {mergekit_version(mergekit)}"
    command = f"python -m benchmarks.checkpoint --shape {bench.shape} --rounds {options.rounds}"
    if not bench.is_sparse:
        command += f" --copies {options.copies}" + (" --mergekit PATH" if mergekit else "")
    labels = [*bench.runs.measured, *bench.runs.problems]
    alone = [label for label in dict.fromkeys(labels) if not label.startswith("mergekit")]
    parts = [
        f"{published.describe_machine(bench.directory)}.\n{versions}.",
        f"`{command}`, a checkpoint of {bench.size.total_bytes / 1e9:.4g} GB"
        f"{', most of it holes: memory counts, seconds do not' * bench.is_sparse}"
        f", {bench.size.chosen_rows} of {bench.size.blocks * bench.size.inner} gate rows edited",
        *(["Tiny: Python's start decides; the aims are for 7b."] * bench.shape.startswith("tiny")),
        published.aims_table(bench.aims),
        published.runs_table(bench.runs, alone),
    ]
    if mergekit is not None:
        parts += [
            "Against mergekit:",
            published.runs_table(bench.runs, REWRITES),
        ]
    return "\n\n".join(parts).replace(str(bench.directory), "DIR")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and publish those of the large shapes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SIZES, default="tiny")
    parser.add_argument(
        "--workdir", type=Path, default=Path(tempfile.gettempdir()) / "modelsurgery-benchmark"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of edit, --in-place and undo")
    parser.add_argument("--copies", type=int, default=2, help="rounds of whole copies")
    parser.add_argument("--mergekit", type=Path, help="path of mergekit-yaml")
    parser.add_argument("--install-mergekit", action="store_true", help="into the workdir")
    parser.add_argument("--results", type=Path, help="file of results to update")
    options = parser.parse_args(arguments)
    workdir = options.workdir.resolve()
    bench = Bench(options.shape, workdir / f"llama-{options.shape}")
    prepare(bench)
    time_editing(bench, options.rounds)
    time_in_place(bench, options.rounds)
    mergekit = None
    if not bench.is_sparse:
        time_copies(bench, options.copies)
        time_looking(bench)
        mergekit = options.mergekit
        if options.install_mergekit:
            mergekit = install_mergekit(workdir / "mergekit")
        if mergekit is None or not mergekit.is_file():
            print("mergekit: skipped; give --mergekit PATH or --install-mergekit")
            mergekit = None
        else:
            time_mergekit(bench, mergekit)
    judge_memory(bench)
    finish(bench, report(bench, options, mergekit), options.results)


def finish(bench: Bench, text: str, results: Path | None) -> None:
    """Print and publish; remove the copies, keep the checkpoint."""
    shutil.rmtree(bench.directory / "copies", ignore_errors=True)
    peaks = {label: bench.runs.peak(label) for label in bench.runs.measured}
    (bench.directory / "peaks.json").write_text(json.dumps(peaks, indent=2) + "\n")
    raw = {label: [asdict(one) for one in found] for label, found in bench.runs.measured.items()}
    (bench.directory / "runs.json").write_text(json.dumps(raw, indent=2) + "\n")
    print(f"\n{text}")
    if results is None and not bench.shape.startswith("tiny"):
        results = published.RESULTS
    if results is not None:
        published.write_section(results, f"Checkpoint surgery, {bench.shape}", text)


if __name__ == "__main__":
    main()
