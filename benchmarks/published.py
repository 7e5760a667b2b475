"""What a benchmark leaves to read: runs by label, aims, and a section of benchmarks/RESULTS.md."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.measured import CommandError, Measured, measure

RESULTS = Path(__file__).with_name("RESULTS.md")
PREFACE = """# Results

Written by the benchmarks; each section by the command line that it names. Times are of one machine
in one run: compare the ratios.
"""
NOT_AVAILABLE = "not available"


@dataclass
class Runs:
    """Runs of commands by label, in the order in which the labels came.

    Attributes:
        measured: what was measured.
        problems: why a label has no measurement, or no more.
    """

    measured: dict[str, list[Measured]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def run(self, label: str, command: Sequence[object]) -> bool:
        """Measure a command once; False when it failed, now or before."""
        if label in self.problems:
            return False
        try:
            one = measure(command)
        except CommandError as error:
            missing = error.code == 2 and "No such" in error.line
            self.problems[label] = NOT_AVAILABLE if missing else str(error)
            print(f"{label}: {self.problems[label]}", flush=True)
            return False
        self.measured.setdefault(label, []).append(one)
        print(
            f"{label}: {one.seconds:.2f} s, {one.seconds_on_disk:.2f} s until on disk, "
            f"peak {_megabytes(one.peak_bytes)} MB, wrote {_megabytes(one.written_bytes)} MB",
            flush=True,
        )
        return True

    def of(self, label: str) -> list[Measured]:
        """Runs of a label; none when it failed."""
        return self.measured.get(label, [])

    def peak(self, label: str) -> int | None:
        """Highest peak memory of a label."""
        return max((one.peak_bytes for one in self.of(label)), default=None)


@dataclass(frozen=True)
class Aim:
    """An aim and what came of it.

    Attributes:
        text: what was aimed at.
        measured: what was measured, in words.
        ratio: measured divided by allowed; None when it was not measured.
        is_met: None when it was not measured.
    """

    text: str
    measured: str
    ratio: float | None
    is_met: bool | None


def aim_at_most(text: str, ratios: Sequence[float], *, unit: str = "x", limit: float = 1) -> Aim:
    """An aim on the median of some ratios."""
    if not ratios:
        return Aim(text, "not measured", None, None)
    middle = median(ratios)
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return Aim(text, f"{middle:.2f} {unit}{spread}", middle / limit, middle <= limit)


def aims_table(aims: Iterable[Aim]) -> str:
    """Markdown, one line an aim."""
    said = {True: "met", False: "**missed**", None: "-"}
    rows = [
        (aim.text, aim.measured, "-" if aim.ratio is None else f"{aim.ratio:.2f}", said[aim.is_met])
        for aim in aims
    ]
    return _table(("aim", "measured", "measured / allowed", ""), rows)


def runs_table(runs: Runs, labels: Iterable[str]) -> str:
    """Markdown, one line a label; labels that were never run are left out."""
    rows = []
    for label in labels:
        found = runs.of(label)
        if found:
            written = median([one.written_bytes for one in found])
            private = max(one.peak_private_bytes for one in found)
            rows.append((
                f"`{label}`",
                str(len(found)),
                _seconds([one.seconds for one in found]),
                _seconds([one.seconds_on_disk for one in found]),
                _megabytes(written),
                _megabytes(runs.peak(label) or 0),
                _megabytes(private),
            ))  # fmt: skip
        elif label in runs.problems:
            rows.append((f"`{label}`", "0", runs.problems[label], "", "", "", ""))
    heads = ("command", "runs", "seconds", "until on disk", "MB written", "peak MB", "without maps")
    return _table(heads, rows)


def describe_machine(directory: Path) -> str:
    """CPU, cores, memory and the file system of a directory."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"{memory / 2**30:.0f} GiB of memory, {_file_system(directory)}, "
        f"Linux {platform.release().partition('-')[0]}"
    )


def describe_versions() -> str:
    """Versions of what is measured, and the commit."""
    names = ("modelsurgery", "numpy", "torch")
    versions = [f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in names)]
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    # The results themselves change from one section to the next.
    sources = ("--", "src", "benchmarks", f":!benchmarks/{RESULTS.name}")
    changed = " with changes" if _git("status", "--porcelain", *sources) else ""
    return ", ".join([*versions, f"commit {commit}{changed}"])


def write_section(path: Path, title: str, body: str) -> None:
    """Put a section into a file of results, in place of the one with the same title."""
    day = datetime.now(UTC).date().isoformat()
    section = f"## {title}\n\n{day}. {body.strip()}\n"
    content = path.read_text() if path.is_file() else PREFACE
    before, *sections = re.split(r"^(?=## )", content, flags=re.MULTILINE)
    titled = {one.partition("\n")[0]: one.strip() + "\n" for one in sections}
    titled[f"## {title}"] = section
    path.write_text("\n".join([before.strip() + "\n", *titled.values()]))


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    top = RESULTS.parent.parent
    return subprocess.run(
        command, cwd=top, capture_output=True, text=True, check=False
    ).stdout.strip()


def _file_system(directory: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    real = directory.resolve()
    above = [(len(place), kind) for place, kind in mounts if real.is_relative_to(place)]
    return max(above)[1] if above else "unknown file system"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _seconds(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} (from {min(values):.2f})"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2f}"
