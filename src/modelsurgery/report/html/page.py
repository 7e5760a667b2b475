"""Pages of a run directory: `report.html`, for which all is read here, and answers in pairs."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from modelsurgery.errors import ArtifactError
from modelsurgery.files.atomic import write_text
from modelsurgery.report.comparing import Pairs, summary
from modelsurgery.report.html.content import Page, Record
from modelsurgery.report.html.evaluations import page_of_evaluation
from modelsurgery.report.html.rivals import page_of_rivals
from modelsurgery.report.html.runs import page_of_run
from modelsurgery.report.html.templates import rendered
from modelsurgery.results import EvaluationResults, RunResults, kind_of, results_of
from modelsurgery.results.reading import RESULTS_FILE, read_json, read_text
from modelsurgery.results.rivals import RivalsResults


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Write the report of a finished run or evaluation, as `report.html` unless told; its path.

    Raises:
        ArtifactError: there is no finished run, or its files cannot be read.
        StorageError: the file cannot be written.
    """
    path = out or directory / "report.html"
    write_text(path, rendered("report.html.jinja", page=page_of(directory)))
    return path


def write_pairs(shown: Pairs, path: Path) -> None:
    """Write pairs as a page; what the judge takes for the behavior is blurred until clicked."""
    name = shown.directory.resolve().name
    content = rendered("compare.html.jinja", name=name, summary=summary(shown), pairs=shown.pairs)
    write_text(path, content)


def page_of(directory: Path) -> Page:
    """Gather the page of a run directory.

    Raises:
        ArtifactError: there is no finished run, or its files cannot be read.
    """
    content = read_json(directory, RESULTS_FILE)
    record = _record(directory)
    if kind_of(content) == "sequence":
        steps = ", ".join(sorted(path.parent.name for path in directory.glob("*/results.json")))
        raise ArtifactError(
            f"{directory}: a run with several behaviors; each has its own report, choose one of: "
            f"{steps}"
        )
    results = results_of(content, str(directory))
    if isinstance(results, RunResults):
        return page_of_run(directory, results, record)
    if isinstance(results, RivalsResults):
        return page_of_rivals(results, record)
    assert isinstance(results, EvaluationResults)
    return page_of_evaluation(directory, results, record)


class Made(BaseModel):
    """Versions of the programs that wrote a run."""

    versions: dict[str, str]


class Manifest(BaseModel):
    """What a report reads of a run's manifest."""

    provenance: Made
    sha256: dict[str, str]


def _record(directory: Path) -> Record:
    try:
        manifest = Manifest.model_validate(read_json(directory, "manifest.json"))
    except ValidationError as error:
        raise ArtifactError(
            f"{directory / 'manifest.json'}: not those of a run "
            f"({error.errors()[0]['msg'].lower()}); run it again"
        ) from error
    path = directory / "recipe.resolved.yaml"
    recipe = read_text(directory, path.name)
    try:
        asked = yaml.safe_load(recipe)
    except (yaml.YAMLError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid YAML; run it again") from error
    if not isinstance(asked, dict) or "model" not in asked:
        raise ArtifactError(f"{path}: names no model; run it again")
    return Record(recipe, str(asked["model"]), manifest.provenance.versions, manifest.sha256)
