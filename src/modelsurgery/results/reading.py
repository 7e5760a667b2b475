"""Reading `results.json`, of earlier versions too.

Files say their `format`. Those of format 1 do not: they were written before there was one, and are
told apart by their keys. They lack what was added later, and are read with what it was then. In
those of formats 1 and 2 some keys have earlier names.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from modelsurgery.errors import ArtifactError
from modelsurgery.results.evaluations import EvaluationResults
from modelsurgery.results.parts import FORMAT
from modelsurgery.results.rivals import RivalsResults
from modelsurgery.results.runs import RunResults
from modelsurgery.results.sequences import SequenceResults

Results = RunResults | EvaluationResults | SequenceResults | RivalsResults
Kind = Literal["run", "evaluation", "sequence", "rivals"]
KINDS: dict[str, type[Results]] = {
    "run": RunResults,
    "evaluation": EvaluationResults,
    "sequence": SequenceResults,
    "rivals": RivalsResults,
}
RESULTS_FILE = "results.json"
EARLIER_NAMES = (  # part, its key until format 2, and since
    ("probe", "held_out_texts", "test_texts"),  # earlier name
    ("edit", "direction_rule", "direction_source"),
)


def read_results(directory: Path) -> Results:
    """Results of a finished run, evaluation or sequence.

    Raises:
        ArtifactError: no results there, or not those of a version that can be read.
    """
    return results_of(read_json(directory, RESULTS_FILE), str(directory))


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a finished run."""
    path = directory / name
    try:
        content = json.loads(read_text(directory, name))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); run it again") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: expected a JSON object; run it again")
    return content


def read_text(directory: Path, name: str) -> str:
    """A file of a finished run."""
    try:
        return (directory / name).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{directory}: no finished run found ({name} is missing); give the directory "
            "that `surgery run` or `surgery evaluate` wrote, or run the same command again to "
            "finish it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{directory / name}: cannot be read ({error})") from error


def results_of(content: Any, where: str) -> Results:
    """Results from the content of a `results.json`; `where` that is from is for messages.

    Raises:
        ArtifactError: not results of a version that can be read.
    """
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}/{RESULTS_FILE}: expected a JSON object; run it again")
    version = content.get("format", 1)
    if version not in range(1, FORMAT + 1):
        raise ArtifactError(
            f"{where}: results of format {version!r}; this version reads formats 1 to {FORMAT}, "
            "update modelsurgery"
        )
    kind = kind_of(content)
    model = KINDS[kind]
    if version == 1:
        content = _upgraded(content, set(model.model_fields))
    if version < 3:
        content = _renamed(content)
    try:
        return model.model_validate({**content, "format": FORMAT, "kind": kind})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{where}: its results are not those of a run or an evaluation ({place}: "
            f"{first['msg']}); run it again"
        ) from error


def _upgraded(content: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Content of format 1 as this version writes it, but for its number."""
    # What else earlier versions wrote says nothing to this one.
    found = {key: value for key, value in content.items() if key in known}
    damage = content.get("damage")
    if not content.get("edits") and isinstance(damage, dict) and damage.get("facts"):
        # Without an edit the facts of the base model stood there twice.
        found["damage"] = {**damage, "facts": [damage["facts"][0], None]}
    return found


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    """Content of format 2 with the keys of format 3."""
    found = dict(content)
    for part, key, name in EARLIER_NAMES:
        old = found.get(part)
        if isinstance(old, dict) and key in old:
            found[part] = {name if one == key else one: value for one, value in old.items()}
    return found


def kind_of(content: dict[str, Any]) -> Kind:
    """Which results these are."""
    kind = content.get("kind")
    if kind in KINDS:
        return kind  # type: ignore[no-any-return]
    if "stages" in content:
        return "sequence"
    return "evaluation" if "sets" in content else "run"
