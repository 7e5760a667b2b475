"""A grid gives the same rows in process, in several processes and on a Ray cluster.

Rows are compared as they are on the disk, to the byte, without what they cost: times and memory are
those of the process that measured.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from command_line import write_labeled
from grid_acting import Acting, ActingCell, How
from modelsurgery.data.behaviors import BehaviorFile
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.files.progress import silent
from modelsurgery.pipeline.grid_recipe import GridRecipe
from modelsurgery.pipeline.grids import Executor, InProcess, Kept, OnRay, Processes, perform_all
from modelsurgery.pipeline.method_cells import MethodCell
from modelsurgery.pipeline.rivals import RivalsRun, run_comparisons, run_rivals
from modelsurgery.pipeline.rivals_plan import RivalsPlan
from modelsurgery.pipeline.run_grid import GridRun, run_grid
from modelsurgery.pipeline.runs import EDIT_FILE, RUN_MANIFEST

# A cluster takes a minute to start on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
METHODS = ("caa", "aura", "random", "linear-act")
REFUSED: dict[str, How] = {"linear-act": "is refused"}
KILLED_TOO: dict[str, How] = {**REFUSED, "aura": "is killed once"}


@pytest.fixture(scope="module")
def plan(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RivalsPlan:
    texts = write_labeled(tmp_path_factory.mktemp("texts") / "texts.jsonl", 80)
    return RivalsPlan(
        model=str(tiny_llama),
        behavior=BehaviorFile.of_texts(texts),
        methods=METHODS,
        divergences=(0.001, 0.002),
        prompts=6,
    )


@pytest.fixture(scope="module")
def here(plan: RivalsPlan, tmp_path_factory: pytest.TempPathFactory) -> RivalsRun:
    """What is measured in this process."""
    return performed(plan, Acting(InProcess(), REFUSED), tmp_path_factory.mktemp("here") / "run")


def performed(plan: RivalsPlan, executor: Executor, out: Path) -> RivalsRun:
    return run_rivals(plan.model_copy(update={"out": out}), executor=executor)


def rows_of(run: RivalsRun) -> dict[str, str]:
    """The rows of a run as they are on the disk, by file, without what they cost."""
    rows = {}
    for path in sorted((run.directory / "rows").iterdir()):
        row = json.loads(path.read_text())
        assert row.pop("cost")["fit_seconds"] >= 0
        rows[path.name] = json.dumps(row)
    return rows


def check_same(run: RivalsRun, here: RivalsRun) -> None:
    assert rows_of(run) == rows_of(here)
    assert len(rows_of(run)) == 2 * (len(METHODS) - 1)
    assert run.results.failed == here.results.failed == {"linear-act": "this cell was refused"}
    assert run.lost == {}
    assert (run.directory / RUN_MANIFEST).exists()
    for one, two in zip(run.results.rows, here.results.rows, strict=True):
        assert one.model_copy(update={"cost": two.cost}) == two
    assert not [*run.directory.rglob("*.lock")]


def test_processes_one_of_them_killed(plan: RivalsPlan, here: RivalsRun, tmp_path: Path) -> None:
    run = performed(plan, Acting(Processes(2), KILLED_TOO), tmp_path / "run")
    assert int((run.directory / "killed").read_text()) != os.getpid()
    check_same(run, here)


def test_a_cell_that_kills_its_process_is_given_up(plan: RivalsPlan, tmp_path: Path) -> None:
    killing, other = (
        MethodCell(plan.model_copy(update={"methods": (name,)}), tmp_path, datetime(2026, 1, 1))
        for name in ("caa", "random")
    )
    cells = [
        ActingCell(killing, tmp_path, "is always killed"),
        ActingCell(other, tmp_path, "is refused"),
    ]
    first, second = perform_all(Processes(1), cells, Kept(), silent)
    assert first.is_lost
    assert "its process was killed 4 times" in str(first.error)
    assert str(second.error) == "this cell was refused"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with a CPU each, on this machine."""
    pytest.importorskip("ray", reason="needs Ray (pip install 'modelsurgery[ray]')")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray's workers give way to all else on a machine
        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
        started = Cluster(initialize_head=True, head_node_args=node)
        started.add_node(num_cpus=1, object_store_memory=80 << 20)
        try:
            yield started.address
        finally:
            started.shutdown()


@pytest.fixture(scope="module")
def on_ray(cluster: str, plan: RivalsPlan, tmp_path_factory: pytest.TempPathFactory) -> RivalsRun:
    acting = Acting(OnRay(cluster), KILLED_TOO)
    return performed(plan, acting, tmp_path_factory.mktemp("ray") / "run")


def test_a_cluster_one_worker_of_it_killed(on_ray: RivalsRun, here: RivalsRun) -> None:
    assert int((on_ray.directory / "killed").read_text()) != os.getpid()
    check_same(on_ray, here)


def test_a_fault_of_the_program_is_tried_again_and_then_told(
    cluster: str, on_ray: RivalsRun, plan: RivalsPlan, tmp_path: Path, here: RivalsRun
) -> None:
    """The run counts as interrupted, so that the same plan tries the cell again."""
    out = tmp_path / "run"
    shutil.copytree(on_ray.directory, out)
    (out / RUN_MANIFEST).unlink()
    for target in plan.divergences:
        (out / "rows" / f"0-caa-{target:g}.json").unlink()
    acting = Acting(OnRay(cluster), {**REFUSED, "caa": "breaks"})
    run = performed(plan, acting, out)
    assert (out / "tries").read_text() == "...."
    ((cell, why),) = run.lost.items()
    assert "caa, seed 0" in cell
    assert "ZeroDivisionError: a fault of the program" in why
    assert {row.method for row in run.results.rows} == {"aura", "random"}
    assert not (out / RUN_MANIFEST).exists()
    again = performed(plan, Acting(InProcess(), REFUSED), out)
    assert rows_of(again) == rows_of(here)
    assert (out / RUN_MANIFEST).exists()


def refusal(executor: OnRay, plan: RivalsPlan, out: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        performed(plan, executor, out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"gpus": 2}, "--gpus 2: no node of the cluster has so many, the most is 0"),
        ({"cpus": 3}, "--cpus 3: no node of the cluster has so many, the most is 1"),
    ],
)
def test_more_than_a_node_has_is_refused(
    cluster: str, plan: RivalsPlan, tmp_path: Path, asked: dict[str, int], says: str
) -> None:
    assert says in refusal(OnRay(cluster, **asked), plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_that_nodes_do_not_see_is_refused(
    cluster: str, plan: RivalsPlan, tmp_path: Path
) -> None:
    """The path leads through a descriptor that this process alone has."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        out = Path(f"/proc/self/fd/{descriptor}/run")
        said = refusal(OnRay(cluster), plan, out)
    finally:
        os.close(descriptor)
    assert f"--out {out}: node" in said
    assert "does not see it; give a directory on a disk that all nodes share" in said
    assert not [*tmp_path.iterdir()]


def test_no_cluster_there(plan: RivalsPlan, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray (pip install 'modelsurgery[ray]')")
    said = refusal(OnRay("127.0.0.1:1"), plan, tmp_path / "run")
    assert said.startswith("--ray 127.0.0.1:1: no Ray cluster there (")
    assert "Connection refused" in said
    assert "; start one with `ray start --head`" in said


def test_ray_is_not_installed(
    plan: RivalsPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refusal(OnRay(), plan, tmp_path / "run")
    assert said == "--ray needs Ray (pip install 'modelsurgery[ray]')"


def test_one_comparison_of_several_fails_and_a_finished_one_is_read(
    plan: RivalsPlan, tmp_path: Path
) -> None:
    plans = [
        plan.model_copy(update={"methods": (name,), "divergences": (0.001,), "out": tmp_path})
        for name in ("random", "linear-act")
    ]
    measured, refused = run_comparisons(plans, executor=Acting(InProcess(), REFUSED))
    assert isinstance(measured, RivalsRun)
    assert isinstance(refused, UnsupportedModelError)
    assert measured.directory.parent == tmp_path
    assert measured.directory.name.startswith("llama-texts-rivals-")
    read, refused = run_comparisons(plans, executor=Acting(InProcess(), {"": "is refused"}))
    assert read == measured
    assert isinstance(refused, UnsupportedModelError)


@pytest.fixture(scope="module")
def recipe(plan: RivalsPlan, tmp_path_factory: pytest.TempPathFactory) -> GridRecipe:
    """Runs of a model that is there and of one that is not."""
    return GridRecipe(
        models=(plan.model, str(tmp_path_factory.mktemp("nowhere") / "none")),
        seeds=(0, 1),
        texts=plan.behavior.texts,
        strength=0.5,
        steps=1,
        samples=1,
        doses=3,
        prompt_count=6,
        max_new_tokens=4,
    )


def files_of(grid: GridRun) -> dict[str, tuple[bytes, str]]:
    """The edit and the results of each run, without time and place."""
    found = {}
    for name in grid.results:
        place = grid.directory / name
        results = json.loads((place / "results.json").read_text())
        for key in ("seconds", "run_directory"):
            del results[key]
        found[name] = (place / EDIT_FILE).read_bytes(), json.dumps(results)
    return found


def test_a_grid_of_runs_and_of_one_that_fails(recipe: GridRecipe, tmp_path: Path) -> None:
    outs = {name: tmp_path / name for name in ("here", "apart")}
    here = run_grid(recipe.model_copy(update={"out": outs["here"]}))
    apart = run_grid(recipe.model_copy(update={"out": outs["apart"]}), executor=Processes(2))
    assert files_of(here) == files_of(apart)
    assert len(here.results) == 2
    assert here.failed == apart.failed
    assert len(here.failed) == 2
    assert all("no model directory at" in why for why in here.failed.values())
    written = {path: path.stat().st_mtime_ns for path in outs["here"].glob("*/*")}
    again = run_grid(recipe.model_copy(update={"out": outs["here"]}))
    assert files_of(again) == files_of(here)
    assert written == {path: path.stat().st_mtime_ns for path in outs["here"].glob("*/*")}
