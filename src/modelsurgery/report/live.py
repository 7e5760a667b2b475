"""Progress on stderr: bars on a terminal, a plain line every few seconds elsewhere.

Both tell the stage, how long it will take, tokens a second and the memory of the process. What
takes no more than a moment says nothing. Colors are left out where NO_COLOR is set.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from modelsurgery.files.progress import Progress
from modelsurgery.report.stages import Stage, Stages, gpu_bytes, resident_bytes

SECONDS_BEFORE_FIRST_LINE = 1.0
SECONDS_BETWEEN_LINES = 5.0
REFRESHES_PER_SECOND = 8
BAR_COLUMNS = 24


@contextmanager
def live_progress(console: Console) -> Iterator[Progress]:
    """Show stages on a console while the block lasts; on a terminal nothing of it stays."""
    stages = Stages()
    shown = _bars if console.is_terminal and not console.is_dumb_terminal else _plain_lines
    with shown(stages, console):
        yield stages


@contextmanager
def _bars(stages: Stages, console: Console) -> Iterator[None]:
    spinner = Spinner("dots")
    with Live(
        console=console,
        get_renderable=lambda: _drawn(stages, spinner),
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,  # results are for whoever reads stdout
    ):
        yield


def _drawn(stages: Stages, spinner: Spinner) -> Group:
    now = time.monotonic()
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(width=BAR_COLUMNS)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for stage in stages.shown():
        bar = ProgressBar(stage.total, min(stage.done, stage.total), width=BAR_COLUMNS)
        has_steps = stage.total > 0
        table.add_row(stage.name, bar if has_steps else spinner, ", ".join(_told(stage, now)))
    footer = ", ".join([*_memory(), _clock(now - stages.started)])
    return Group(table, Text(footer, style="dim"))


@contextmanager
def _plain_lines(stages: Stages, console: Console) -> Iterator[None]:
    """A thread writes the lines, so that they come while a single step takes long, too."""
    ended = threading.Event()

    def write() -> None:
        wait = SECONDS_BEFORE_FIRST_LINE
        while not ended.wait(wait):
            console.print(plain_line(stages), highlight=False, markup=False, soft_wrap=True)
            wait = SECONDS_BETWEEN_LINES

    writer = threading.Thread(target=write, name="progress", daemon=True)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


def plain_line(stages: Stages) -> str:
    """One line: time since the start, each open stage, memory.

    Example:
        `[1:05] survivors 3 of 8, 1:20 left; generate 20 of 100, 5 s left, 900 tokens/s; 0.6 GB`
    """
    now = time.monotonic()
    told = [
        " ".join([one.name, ", ".join(_told(one, now))]).strip() + ";" for one in stages.shown()
    ]
    line = " ".join([f"[{_clock(now - stages.started)}]", *told, ", ".join(_memory())])
    return line.rstrip("; ")


def _told(stage: Stage, now: float) -> list[str]:
    """How far a stage is, in words."""
    parts = []
    if stage.total > 0:
        parts.append(f"{stage.done} of {max(stage.done, stage.total)}")
    left, rate = stage.seconds_left(now), stage.tokens_per_second(now)
    if left is not None:
        parts.append(f"{_duration(left)} left")
    if rate is not None:
        parts.append(f"{rate:,.0f} tokens/s")
    return parts


def _memory() -> list[str]:
    resident, on_gpus = resident_bytes(), gpu_bytes()
    parts = [] if resident is None else [f"{resident / 1e9:.1f} GB"]
    return [*parts, f"{on_gpus / 1e9:.1f} GB on GPU"] if on_gpus else parts


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else _clock(seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
