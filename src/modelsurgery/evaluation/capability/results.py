"""What capability tasks give: scores of items, and perplexity over windows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelsurgery.evaluation.capability.published import TASKS
from modelsurgery.evaluation.statistics import paired_change, rate_of
from modelsurgery.results import Change, Rate
from modelsurgery.results.published import published


@dataclass(frozen=True)
class Item:
    """One item of a task."""

    identity: str  # which
    group: str | None  # subject or task that it belongs to
    base: float  # score of the base model, 0 to 1
    edited: float | None  # score of the edited model; None without an edit


@dataclass(frozen=True)
class TaskResult:
    """Scores of a task."""

    task: str
    items: tuple[Item, ...]
    base: Rate  # mean score of the base model
    edited: Rate | None  # of the edited model; None without an edit
    change: Change | None  # the paired difference over items; None without an edit
    by: dict[str, tuple[Rate, Rate | None]]  # mean scores of each group, base and edited
    # What lm-eval calls the score, metric and filter; empty for those measured here.
    score: str = ""
    shots: int = 0  # solved examples in each prompt

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, without the single items."""
        set_as = TASKS.get(self.task)
        return {
            "title": set_as.title if set_as else self.task,
            "metric": set_as.metric if set_as else self.score.removesuffix(",none"),
            "score": self.score,
            "shots": self.shots,
            "items": len(self.items),
            "base": self.base.model_dump(),
            "edited": self.edited and self.edited.model_dump(),
            "change": self.change and self.change.model_dump(),
            "by": {
                group: {"base": base.model_dump(), "edited": edited and edited.model_dump()}
                for group, (base, edited) in self.by.items()
            },
            "published": _published(self.task),
        }


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity over windows of running text."""

    base: float  # exp(total loss / predicted tokens) of the base model
    edited: float | None  # of the edited model; None without an edit
    rise: float | None  # edited / base - 1; None without an edit
    rise_interval: tuple[float, float] | None  # its 95 % interval, a bootstrap over windows
    # Mean KL(base ‖ edited) over all positions, nats; None without an edit.
    divergence: float | None
    divergence_interval: tuple[float, float] | None  # its 95 % interval, the same
    windows: int  # how many
    tokens: int  # predicted tokens

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        set_as = TASKS["wikitext"]
        return {
            "title": set_as.title,
            "metric": set_as.metric,
            **asdict(self),
            "published": _published("wikitext"),
        }


def compare_items(
    task: str, items: Sequence[Item], *, score: str = "", shots: int = 0
) -> TaskResult:
    """Means over items, whole and by group; at least one item."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.group is not None:
            groups.setdefault(item.group, []).append(item)
    base, edited = _means(items)
    after = [item.edited for item in items if item.edited is not None]
    change = paired_change([item.base for item in items], after) if after else None
    by = {group: _means(some) for group, some in sorted(groups.items())}
    return TaskResult(task, tuple(items), base, edited, change, by, score, shots)


def _published(task: str) -> dict[str, Any] | None:
    """What the paper measured; None of tasks that it does not have."""
    found = published().task(task)
    return None if found is None else dict(zip(("model", "base", "edited"), found, strict=True))


def _means(items: Sequence[Item]) -> tuple[Rate, Rate | None]:
    after = [item.edited for item in items if item.edited is not None]
    return rate_of([item.base for item in items]), rate_of(after) if after else None
