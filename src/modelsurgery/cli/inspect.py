"""`surgery inspect`: what a file holds, and with a model what that does inside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.allocation import keep_freed_memory
from modelsurgery.cli.options import (
    LOADING,
    DataRoot,
    Json,
    Neutral,
    ShowOffensive,
    model_directory,
    option,
    with_options,
)
from modelsurgery.cli.output import print_content, print_json, showing_progress
from modelsurgery.errors import RecipeError
from modelsurgery.pipeline.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelsurgery.data.behaviors import Behavior
    from modelsurgery.edit.edit import Edit
    from modelsurgery.interpret import Inside
    from modelsurgery.model.language_model import LanguageModel

WITH_MODEL = "With --model: also what its held-out texts show."
TABLES = ("explanation", "inside", "with", "similarity")  # parts that are shown as tables


@with_options(Recipe, LOADING)
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="Probe, edit, journal, or model (directory, GGUF file or s3://BUCKET/FOLDER)."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|ID",
            help="Show what the edit does inside this model: tokens, neurons, layers.",
        ),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="Edit (or probe) to compare with. Repeatable."),
    ] = None,
    behavior: Annotated[str | None, option("behavior", default="", more=WITH_MODEL)] = None,
    texts: Annotated[Path | None, option("texts", default="")] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Probe to show on the texts of --behavior: ROC curve, losses, cosines.",
        ),
    ] = None,
    neutral: Neutral = None,
    data: DataRoot = None,
    show_offensive: ShowOffensive = False,
    *,
    as_json: Json = False,
    **loading: Any,
) -> None:
    """Describe a probe, an edit, a journal, or the edits applied to a model."""
    from modelsurgery.files.artifact import is_artifact

    wanted = _Wanted(model, others or [], behavior, texts, probe, neutral, data, loading)
    if file.is_file() and is_artifact(file, "edit"):
        content = _edit(file, wanted)
    else:
        content = _other(file, wanted)
    if as_json:
        print_json(content)
        return
    print_content({key: value for key, value in content.items() if key not in TABLES}, False)
    _print_tables(content, show_offensive)


@dataclass(frozen=True)
class _Wanted:
    """What to show of a file, as it was typed."""

    model: str | None
    others: list[Path]
    behavior: str | None
    texts: Path | None
    probe: Path | None
    neutral: Path | None
    data: Path | None
    loading: dict[str, Any]  # arguments of `load_model`

    def __post_init__(self) -> None:
        with_texts = self.behavior is not None or self.texts is not None
        if with_texts and self.model is None:
            raise RecipeError("--behavior and --texts need --model")
        if self.probe is not None and not with_texts:
            raise RecipeError("--probe needs --behavior or --texts")

    def loaded(self, edit: "Edit | None" = None) -> "LanguageModel":
        """The model; its gates where an edit says that they are."""
        from modelsurgery.apply.compatibility import check_fits

        assert self.model is not None
        keep_freed_memory()
        directory = model_directory(self.model)
        if edit is not None:
            check_fits(directory, [edit])
        from modelsurgery.model.loading import load_model

        layout = None if edit is None else edit.layout
        return load_model(directory, layout=layout, **self.loading)

    def held_out(self, seed: int | None) -> "Behavior | None":
        """The held-out texts of a run with a seed; None where none were asked for."""
        from modelsurgery.data.behaviors import BehaviorFile, describe_behavior, load_test_part
        from modelsurgery.data.behaviors.roots import data_root
        from modelsurgery.data.demo import is_demo_model

        if self.texts is None and self.behavior is None:
            return None
        if self.texts is None:
            described = describe_behavior(str(self.behavior))
        else:
            described = BehaviorFile.of_texts(self.texts)
        return load_test_part(
            described.with_own(texts=self.texts, neutral=self.neutral),
            is_demo=is_demo_model(str(self.model)) and described.demo,
            data=data_root(self.data),
            seed=seed or 0,
            prompt_count=1,  # none are continued
        )


def _print_tables(content: dict[str, Any], show_offensive: bool) -> None:
    from rich.console import Console

    from modelsurgery.report.explained import print_explanation
    from modelsurgery.report.inside import (
        print_comparisons,
        print_inside,
        print_probe,
        print_probes,
    )

    console = Console()
    if content.get("explanation") is not None:
        print_explanation(content["explanation"], console)
    if "inside" in content:
        show = print_inside if content["kind"] == "edit" else print_probe
        show(content["inside"], console, show_offensive=show_offensive)
    if content["kind"] == "probe":
        print_probes(content.get("with", []), content.get("similarity", []), console)
    else:
        print_comparisons(content.get("with", []), console)


def _other(file: Path, wanted: _Wanted) -> dict[str, Any]:
    """What is known of a journal, a model or a probe."""
    from modelsurgery.apply.journal import is_journal, journal_json, load_journal
    from modelsurgery.apply.manifest import SURGERY_MANIFEST
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.checkpoint.place import is_gguf, place_of
    from modelsurgery.files.object_store import is_url

    if is_url(file):
        checkpoint = open_checkpoint(file)
        return _surgeries(checkpoint.directory, str(checkpoint.place))
    is_model = file.is_dir() or is_gguf(file) or file.name == SURGERY_MANIFEST
    is_probe = not (is_journal(file) or is_model)
    if is_probe:
        return _probe(file, wanted)
    if wanted.others:
        raise RecipeError(f"{file} is neither an edit nor a probe; --with compares those")
    if wanted.model is not None:
        raise RecipeError(f"{file} is neither an edit nor a probe; --model needs one of them")
    directory = place_of(file).records if file.is_dir() or is_gguf(file) else file.parent
    if is_journal(file):
        return journal_json(load_journal(directory))
    return _surgeries(directory, str(file))


def _probe(file: Path, wanted: _Wanted) -> dict[str, Any]:
    """What is known of a probe, inside a model and beside other probes."""
    from modelsurgery.edit.probe import load_probe, probe_cosine, probe_json

    probe = load_probe(file)
    probes = {str(path): load_probe(path) for path in (file, *wanted.others)}
    content = probe_json(probe)
    if wanted.others:
        content["with"] = [
            {"probe": str(path), "cosine": probe_cosine(probe, probes[str(path)])}
            for path in wanted.others
        ]
    if wanted.model is None:
        return content
    with showing_progress() as progress:
        from modelsurgery.interpret import probe_similarities, read_probe

        model = wanted.loaded()
        content["inside"] = read_probe(model, probe).to_json()
        behavior = wanted.held_out(probe.provenance.seed)
        if behavior is not None:
            found = probe_similarities(model, probes, behavior, progress=progress)
            content["similarity"] = [vars(one) for one in found]
    return content


def _edit(file: Path, wanted: _Wanted) -> dict[str, Any]:
    """What is known of an edit, inside a model and beside other edits."""
    from modelsurgery.edit.edit_file import edit_json, load_edit
    from modelsurgery.edit.explanation import explain
    from modelsurgery.edit.probe import load_probe

    edit = load_edit(file)
    explained = explain(edit)
    content = edit_json(edit)
    content["explanation"] = None if explained is None else explained.to_json()
    compared = [(path, load_edit(path)) for path in wanted.others]
    comparisons = [_comparison(edit, path, other) for path, other in compared]
    if wanted.model is not None:
        with showing_progress() as progress:
            from modelsurgery.interpret import look_inside, nearest_rows

            model = wanted.loaded(edit)
            seen = look_inside(
                model,
                edit,
                None if wanted.probe is None else load_probe(wanted.probe),
                wanted.held_out(edit.provenance.seed),
                direction=_direction(edit),
                progress=progress,
            )
            content["inside"] = seen.to_json()
            for one, (_, other) in zip(comparisons, compared, strict=True):
                found = nearest_rows(model, _addresses(seen), other)
                one["nearest"] = [vars(neighbor) for neighbor in found]
    if compared:
        content["with"] = comparisons
    return content


def _comparison(edit: "Edit", path: Path, other: "Edit") -> dict[str, Any]:
    from modelsurgery.edit.interactions import conflicts_of

    (found,) = conflicts_of((edit, other))
    return {
        "edit": str(path),
        "verdict": found.verdict,
        "cosine": found.cosine,
        "rows": list(found.rows),
        "shared_rows": found.shared_rows,
        "changed": found.first_changed,
        "other_changed": found.second_changed,
        "nearest": None,
    }


def _direction(edit: "Edit") -> "NDArray[np.float32]":
    """The direction that most of an edit's rows get; of a sum of edits there are several."""
    from collections import Counter

    rows: Counter[bytes] = Counter()
    directions = {update.direction.tobytes(): update.direction for update in edit.updates}
    for update in edit.updates:
        rows[update.direction.tobytes()] += len(update.rows)
    if not rows:
        raise RecipeError("the edit has no rows, so it does nothing inside a model")
    return directions[min(rows, key=lambda key: (-rows[key], key))]


def _addresses(seen: "Inside") -> list[Any]:
    from modelsurgery.checkpoint.layouts import Address

    return [
        (Address(one.layer - 1, one.branch, -1 if one.expert is None else one.expert), one.row)
        for one in seen.neurons
    ]


def _surgeries(directory: Path, name: str) -> dict[str, Any]:
    from modelsurgery.apply.manifest import read_manifest

    manifest = read_manifest(directory)
    if not manifest.operations:
        raise RecipeError(
            f"{name}: no surgery is recorded here; expected a probe, an edit, "
            "a journal or an edited model"
        )
    return {
        "kind": "model",
        "surgeries": [one.model_dump() for one in manifest.operations],
        "tensors_recorded": sum(len(one.tensors) for one in manifest.weights.values()),
    }
