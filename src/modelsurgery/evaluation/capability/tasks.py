"""Tasks of lm-evaluation-harness by name, and which of their items are asked (extra `eval`)."""

import contextlib
import difflib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modelsurgery.data.choosing import evenly
from modelsurgery.errors import EvaluationError, RecipeError, SurgeryError, TextsError
from modelsurgery.evaluation.capability.local_data import local_copy
from modelsurgery.evaluation.capability.published import TASKS


@dataclass(frozen=True)
class HarnessTasks:
    """What a name stands for: one task, or all of a group."""

    tasks: Mapping[str, Any]  # the tasks of lm-eval by name, with their data
    score: str  # key of the score of an item: metric and filter, as lm-eval writes them
    shots: int  # solved examples in each prompt

    def chosen(self, limit: int | None, per_task: int | None) -> dict[str, list[int]]:
        """Numbers of the items of each task, evenly from the tasks, at most `limit` of all."""
        items = [
            (name, number)
            for name, task in self.tasks.items()
            for number in range(len(task.eval_docs))
        ]
        keys = [f"{name}/{number}" for name, number in items]
        kinds = [name for name, _ in items]
        kept = evenly(keys, limit, kinds=kinds, per_kind=per_task)
        chosen: dict[str, list[int]] = {}
        for name, number in sorted(items[place] for place in kept):
            chosen.setdefault(name, []).append(number)
        return chosen


def check_task(name: str, include: Path | None) -> None:
    """Refuse a task that does not exist, before anything else is done.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed.
        RecipeError: no such task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError(
            f"task {name!r} needs lm-evaluation-harness; pip install 'modelsurgery[eval]'"
        )
    if include is not None and not include.is_dir():
        raise RecipeError(f"no directory at {include}; expected one with task files of lm-eval")
    wanted = TASKS[name].harness_name if name in TASKS else name
    known = _manager(wanted, include).all_tasks
    if wanted not in known:
        near = difflib.get_close_matches(name, sorted({*TASKS, *known}), n=3)
        expected = ", ".join(near or TASKS)
        raise RecipeError(
            f"no capability task {name!r}; expected one like {expected} (`lm_eval ls tasks` lists "
            "those of lm-eval), or --include-path DIR with its YAML file"
        )


def find_tasks(name: str, data: Path | None, include: Path | None) -> HarnessTasks:
    """The tasks of a name with their data: local copies, or those of the Hub.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed, or the task needs more than it.
        RecipeError: no such task, or one that this can't measure.
        TextsError: its data are not there.
    """
    check_task(name, include)
    published = TASKS.get(name)
    wanted = published.harness_name if published else name
    manager = _manager(wanted, include)
    try:
        with quietly(), _reading_from(data):
            tasks = manager.load(wanted)["tasks"]
    except SurgeryError:
        raise
    except ImportError as error:
        raise EvaluationError(f"task {name!r}: {error}; install what it needs") from error
    except (OSError, ValueError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TextsError(
            f"task {name!r}: cannot load its data ({reason}); download them on a machine with "
            "network access, or give your own task file with --include-path"
        ) from error
    for task in tasks.values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise RecipeError(
                f"task {name!r} executes code that the model writes, or is not text-only; choose "
                "another task"
            )
        if published or task.config.num_fewshot is None:
            task.set_config("num_fewshot", published.shots if published else 0)
    first = next(iter(tasks.values()))
    score = published.score if published else _score(name, first)
    return HarnessTasks(tasks, score, first.config.num_fewshot)


def _score(name: str, task: Any) -> str:
    """Key of a task's first metric that is a mean over items."""
    from lm_eval.api.metrics import mean

    means = [metric for metric, aggregate in task.aggregation().items() if aggregate is mean]
    if not means:
        raise RecipeError(
            f"task {name!r} has no metric that is a mean over items "
            f"({', '.join(task.aggregation())}); choose another task"
        )
    filters = task.config.filter_list
    return f"{means[0]},{filters[0]['name'] if filters else 'none'}"


@cache
def _manager(name: str, include: Path | None) -> Any:
    """An index that has the task, if there is one: the smallest, for lm-eval has 15,000 files."""
    with quietly():
        import lm_eval.tasks
        from lm_eval.tasks import TaskManager

        if include is not None:
            own = TaskManager(include_path=include, include_defaults=False)
            if name in own.all_subtasks:  # a group may name tasks of lm-eval
                return own
        family = Path(lm_eval.tasks.__file__).parent / name.partition("_")[0]
        if include is None and family.is_dir():
            near = TaskManager(include_path=family, include_defaults=False)
            if name in near.all_tasks:
                return near
        return TaskManager(include_path=include)


@contextlib.contextmanager
def _reading_from(data: Path | None) -> Iterator[None]:
    """Tasks that are made while the block lasts read local copies where there are some.

    A task loads its data when it is made, and lm-eval has no setting for where from.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download

    def download(self: Any, dataset_kwargs: dict[str, Any] | None = None, **named: Any) -> None:
        local = None if data is None else local_copy(self.DATASET_PATH, self.DATASET_NAME, data)
        if local is None:
            original(self, dataset_kwargs, **named)
        else:
            splits = {split: datasets.Dataset.from_list(rows) for split, rows in local.items()}
            self.dataset = datasets.DatasetDict(splits)

    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = original


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the harness's logs, progress bars and deprecations."""
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        for logger in map(logging.getLogger, ("lm_eval", "datasets", "transformers")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield
