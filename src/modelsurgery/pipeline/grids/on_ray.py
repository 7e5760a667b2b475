"""Cells on a Ray cluster: a task each, with its CPUs, GPUs and memory.

Ray begins a cell again whose worker or node was lost. Results are files in a directory that all
nodes see; nothing of them goes through Ray.
"""

import logging
import os
import secrets
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.errors import EvaluationError, RecipeError
from modelsurgery.files.atomic import write_text
from modelsurgery.files.progress import Progress
from modelsurgery.pipeline.grids.cells import Cell, Ended, Kept, perform
from modelsurgery.pipeline.grids.executors import RETRIES
from modelsurgery.pipeline.grids.telling import Shown, Stage, Telling

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_FOR_A_NODE = 120.0
SECONDS_TO_CONNECT = 10.0
SEEN_FILE = ".seen-by-nodes"
_kept = Kept(node=socket.gethostname())  # what a worker has; of no use in the process that asks


@dataclass(frozen=True)
class OnRay:
    """The workers of a Ray cluster."""

    # Of the cluster: `auto`, HOST:PORT, `ray://HOST:PORT`, or `local` for one that is started on
    # this machine and ends with the grid.
    address: str = "auto"
    gpus: float = 0.0  # for each cell; a fraction lets cells share one
    cpus: int = 1  # cores for each cell

    def run(self, cells: Sequence[Cell], kept: Kept, progress: Progress) -> Iterator[Ended]:
        """Perform cells wherever there is room.

        Raises:
            RecipeError: Ray is not installed, there is no such cluster, no node of it has what a
                cell needs, or a node does not see the directory of the results.
        """
        ray = _imported()
        with _connected(ray, self.address):
            needed = self._needed_by(cells)
            nodes = [node for node in ray.nodes() if node["Alive"]]
            for one in needed.values():
                _check_room(one, [node["Resources"] for node in nodes])
            _check_directories(ray, nodes, {cell.directory for cell in cells})
            yield from self._performed(ray, cells, needed, progress)

    def _needed_by(self, cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
        """What each cell takes, by Ray's names; a model is looked at once for all of its cells."""
        from modelsurgery.pipeline.scheduling.memory import planned_memory  # brings torch

        memory: dict[str, int] = {}
        needed = {}
        for cell in cells:
            recipe = cell.planned()
            key = recipe.model_dump_json()
            if key not in memory:
                memory[key] = planned_memory(recipe, on_gpu=self.gpus > 0)
            needed[cell.name] = {"GPU": self.gpus, "CPU": self.cpus, "memory": memory[key]}
        return needed

    def _performed(
        self,
        ray: Any,
        cells: Sequence[Cell],
        needed: Mapping[str, Mapping[str, float]],
        progress: Progress,
    ) -> Iterator[Ended]:
        """Hand cells to the cluster and wait for them, showing where they are."""
        shown = Shown(progress)
        board = ray.remote(num_cpus=0)(_Board).remote()
        task = ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_retries=RETRIES,
            retry_exceptions=True,  # of what is raised: see _perform
        )(_perform)
        waiting = {}
        try:
            for cell in cells:
                own = task.options(name=cell.label, memory=needed[cell.name]["memory"])
                waiting[own.remote(cell, Path.cwd(), board)] = cell
            while waiting:
                done, _ = ray.wait([*waiting], timeout=SECONDS_BETWEEN_LOOKS)
                with suppress(ray.exceptions.RayError):  # the board's node may be lost, too
                    for stage in ray.get(board.take.remote()):
                        if any(stage.cell == cell.label for cell in waiting.values()):
                            shown.show(stage)
                for one in done:
                    cell = waiting.pop(one)
                    shown.end(cell.label)
                    yield _ended(ray, one, cell)
        finally:
            shown.close()
            for one in waiting:
                ray.cancel(one, force=True)
            ray.kill(board)


def _imported() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise RecipeError("--ray needs Ray (pip install 'modelsurgery[ray]')") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected to a cluster for as long as the block lasts, unless the process is anyway."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would try for a minute
            socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"--ray {address}: no Ray cluster there ({reason}); start one with `ray start --head`, "
            "or give the address of one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_room(needed: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse what would wait for ever: Ray keeps tasks for nodes that may come."""
    if any(all(node.get(key, 0) >= value for key, value in needed.items()) for node in nodes):
        return
    for key, option in (("GPU", "--gpus"), ("CPU", "--cpus")):
        most = max(node.get(key, 0) for node in nodes)
        if most < needed[key]:
            raise RecipeError(
                f"{option} {needed[key]:g}: no node of the cluster has so many, the most is "
                f"{most:g}; ask for fewer, or add a node"
            )
    most = max(node.get("memory", 0) for node in nodes)
    raise RecipeError(
        f"a cell needs {needed['memory'] / 1e9:.1f} GB of memory beside its GPUs and CPUs, and no "
        f"node of the cluster has all of it (the most memory is {most / 1e9:.1f} GB); use "
        "a smaller --dtype, or add a node"
    )


def _check_directories(
    ray: Any, nodes: Sequence[Mapping[str, Any]], places: Collection[Path]
) -> None:
    """Refuse a directory that a node does not see: each reads there what is written here."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    written = secrets.token_hex()
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    for place in sorted(places):
        write_text(place / SEEN_FILE, written)
        try:
            for node in nodes:
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                sent = look.options(scheduling_strategy=where).remote(place / SEEN_FILE, Path.cwd())
                host = node["NodeManagerHostname"]
                try:
                    found = ray.get(sent, timeout=SECONDS_FOR_A_NODE)
                except ray.exceptions.RayError as error:
                    raise EvaluationError(
                        f"node {host} of the cluster cannot work ({_last_line(error)}); install "
                        "the same version of modelsurgery there as here"
                    ) from error
                if found != written:
                    raise RecipeError(
                        f"--out {place}: node {host} of the cluster does not see it; give a "
                        "directory on a disk that all nodes share, under the same path"
                    )
        finally:
            (place / SEEN_FILE).unlink(missing_ok=True)


def _look(path: Path, workplace: Path) -> str | None:
    """Read a file on a node; None where it is not there."""
    try:
        return (workplace / path).read_text(encoding="utf-8")
    except OSError:
        return None


def _ended(ray: Any, sent: Any, cell: Cell) -> Ended:
    try:
        ended: Ended = ray.get(sent)
    except ray.exceptions.RayError as error:
        told = EvaluationError(f"lost on the cluster, {RETRIES} retries too ({_last_line(error)})")
        return Ended(cell.name, told, is_lost=True)
    return ended


def _perform(cell: Cell, workplace: Path, board: Any) -> Ended:
    """Perform a cell on a node.

    Raises:
        SurgeryError: what may go well on another worker, so that Ray begins it again there.
    """
    os.chdir(workplace)  # paths are as they were typed
    ended = perform(cell, _kept, Telling(cell.label, board.tell.remote))
    if ended.is_lost and ended.error is not None:
        _kept.drop()
        raise ended.error
    return ended


class _Board:
    """An actor: what workers told since somebody looked."""

    def __init__(self) -> None:
        self._told: list[Stage] = []

    def tell(self, stage: Stage) -> None:
        """Say where a cell is."""
        self._told.append(stage)

    def take(self) -> list[Stage]:
        """All that was told since the last time."""
        told, self._told = self._told, []
        return told


def _last_line(error: Exception) -> str:
    """The last line of what Ray says, which is the error of the task itself if there is one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
