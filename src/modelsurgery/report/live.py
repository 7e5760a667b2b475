"""Progress on stderr: rich's bars on a terminal, a plain line every few seconds elsewhere.

Both tell the stage, how long it will take, tokens a second and the memory of the process. What
takes no more than a moment says nothing. Colors are left out where NO_COLOR is set.
"""

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from modelsurgery.files.progress import Advance, Progress

SECONDS_BEFORE_FIRST_LINE = 1.0
SECONDS_BETWEEN_LINES = 5.0
REFRESHES_PER_SECOND = 8
BAR_COLUMNS = 24
STATUS_FILE = Path("/proc/self/status")


@contextmanager
def live_progress(console: Console) -> Iterator[Progress]:
    """Show stages on a console while the block lasts; on a terminal nothing of it stays."""
    stages = Stages(console)
    is_drawn = console.is_terminal and not console.is_dumb_terminal
    with stages if is_drawn else _plain_lines(stages, console):
        yield stages


class _TokensPerSecond(ProgressColumn):
    """Mean rate since the stage was opened; nothing where no tokens were told of."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task) or "")


class Stages(Bars):
    """Bars of all stages that are open, outermost first. Calling it opens one: a `Progress`.

    Where no stage is open there is one without steps, `starting` and later `working`.
    """

    def __init__(self, console: Console) -> None:
        self._now = console.get_time
        self._started = self._now()
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_COLUMNS),
            MofNCompleteColumn(separator=" of "),
            TimeRemainingColumn(),
            _TokensPerSecond(),
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            speed_estimate_period=float("inf"),  # steps may take minutes each
            transient=True,
            redirect_stdout=False,  # results are for whoever reads stdout
        )
        self._idle = self.add_task("starting", total=None, tokens=0)
        self._open = 0

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Advance]:
        """Open a stage for as long as the block lasts; a total of 0 is not known."""
        number = self.add_task(stage, total=total or None, tokens=0)
        self.advance(number, 0)  # the first step's time counts for the pace, too
        task = next(one for one in self.tasks if one.id == number)

        def advance(steps: int, *, tokens: int = 0) -> None:
            if task.total is not None and task.completed + steps > task.total:
                task.total = task.finished_time = None  # nobody knows the end any more
            if steps:
                self.advance(number, steps)
            self.update(number, tokens=task.fields["tokens"] + tokens)

        self._count(1)
        try:
            yield advance
        finally:
            self.remove_task(number)
            self._count(-1)

    def _count(self, opened: int) -> None:
        self._open += opened
        self.update(self._idle, visible=not self._open, description="working")

    def footer(self) -> list[str]:
        """Memory, and the time since the work began."""
        return [*_memory(), _clock(self._now() - self._started)]

    def shown(self) -> list[Task]:
        """The stages that are open, or the one without steps."""
        return [task for task in self.tasks if task.visible]

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, and the footer below."""
        yield from super().get_renderables()
        yield Text(", ".join(self.footer()), style="dim")


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
    *memory, clock = stages.footer()
    told = [f"{task.description} {_told(task)}".strip() for task in stages.shown()]
    return f"[{clock}] {'; '.join([*told, *([', '.join(memory)] if memory else [])])}"


def _told(task: Task) -> str:
    """How far a stage is, in words."""
    steps = None if task.total is None else f"{task.completed:.0f} of {task.total:.0f}"
    left = task.time_remaining
    told = [steps, None if left is None else f"{_duration(left)} left", _rate(task)]
    return ", ".join(part for part in told if part)


def _rate(task: Task) -> str | None:
    tokens, seconds = task.fields["tokens"], task.elapsed
    return f"{tokens / seconds:,.0f} tokens/s" if tokens and seconds else None


def _memory() -> list[str]:
    resident, on_gpus = resident_bytes(), gpu_bytes()
    parts = [] if resident is None else [f"{resident / 1e9:.1f} GB"]
    return [*parts, f"{on_gpus / 1e9:.1f} GB on GPU"] if on_gpus else parts


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not tell."""
    try:
        lines = STATUS_FILE.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def gpu_bytes() -> int:
    """Memory of all GPUs that torch holds for this process; 0 before it uses one.

    Torch is asked only if something else has imported it: this is called in verbs that never do,
    and from a thread while the import is under way, when the module is there and still empty.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    reserved = getattr(cuda, "memory_reserved", None)
    if cuda is None or is_initialized is None or reserved is None or not is_initialized():
        return 0
    return sum(reserved(device) for device in range(cuda.device_count()))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else _clock(seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
