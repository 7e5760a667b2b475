"""A repository for the Hub: adapter or merged weights, the edits, and a model card.

It is written to a directory; it is uploaded only when that is asked for, by huggingface_hub with
the login that it knows. No token passes through here, and none is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from modelsurgery.apply.copying import apply_to_copy
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.errors import ArtifactError, RecipeError, SurgeryError
from modelsurgery.export.card import CardFacts, Form, model_card
from modelsurgery.export.factors import refuse_gguf
from modelsurgery.export.peft import write_peft_adapter
from modelsurgery.export.public import (
    is_local,
    public_edit,
    public_file,
    public_judge,
    public_name,
    public_recipe,
)
from modelsurgery.files.atomic import copy_file, refuse_existing, staged_directory, write_text
from modelsurgery.files.progress import Progress, silent
from modelsurgery.results import RunResults, read_results
from modelsurgery.results.reading import RESULTS_FILE

RECIPE_FILE = "recipe.resolved.yaml"


@dataclass(frozen=True)
class Repository:
    """A repository that was written; `measured` counts the runs whose numbers are in the card."""

    directory: Path
    form: Form
    files: tuple[str, ...]
    size_bytes: int
    measured: int


def write_repository(
    checkpoint: Checkpoint,
    edit_files: Sequence[Path],
    directory: Path,
    *,
    form: Form = "adapter",
    base_model: str | None = None,
    license: str | None = None,
    progress: Progress = silent,
) -> Repository:
    """Write a repository with a model card; nothing is sent anywhere.

    The card's numbers are those of the run directories that the edits are in. No path of this
    machine is in any file: see `public`.

    Args:
        checkpoint: the model that the edits were made from.
        edit_files: edits of this model, added up.
        directory: directory to create.
        form: a PEFT adapter, or the whole edited checkpoint.
        base_model: id of the base on the Hub; None takes the name of the checkpoint's directory.
        license: of the base; None takes what the base's own card says.
        progress: is told of tensors written.

    Raises:
        EditMismatchError: the checkpoint is not the one that an edit was made for.
        OutputExistsError: something is at `directory`.
        RecipeError: a run's results cannot be read, or the base model is a path.
        UnsupportedModelError: there is no adapter of these edits; the merged form always works.
    """
    refuse_gguf(checkpoint, "a repository")
    refuse_existing(directory, for_directory=True)
    if base_model is not None and is_local(base_model):
        raise RecipeError(f"--base-model {base_model!r}; expected a Hub ID such as owner/name")
    originals = [load_edit(path) for path in edit_files]
    edits = [public_edit(one) for one in originals]
    named = base_model or checkpoint.directory.resolve().name
    results, recipes = _runs_of(edit_files, named)
    license = license or _license_of(checkpoint)
    facts = CardFacts(named, license, form, edits, results, recipes)
    with staged_directory(directory) as staged:
        content = staged / "repository"
        if form == "adapter":
            write_peft_adapter(checkpoint, edits, content, base_model=named)
        else:
            apply_to_copy(
                checkpoint.directory,
                edits,
                content,
                real_copies=True,
                content_of=public_file,
                progress=progress,
            )
        for path in content.iterdir():
            path.rename(staged / path.name)
        content.rmdir()
        (staged / "edits").mkdir()
        written = zip(edit_files, originals, edits, strict=True)
        for number, (path, original, one) in enumerate(written, 1):
            place = staged / "edits" / f"{number}.safetensors"
            if one is original:
                copy_file(path, place)
            else:
                save_edit(one, place)
        write_text(staged / "README.md", str(model_card(facts)))
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return Repository(
        directory,
        form,
        tuple(str(path.relative_to(directory)) for path in files),
        sum(path.stat().st_size for path in files),
        len(results),
    )


def push_repository(directory: Path, repository: str, *, private: bool = True) -> str:
    """Upload a repository with huggingface_hub's own login, a new one as `private`; its address.

    Raises:
        RecipeError: `repository` is not `owner/name`.
        SurgeryError: the Hub cannot be reached or refuses.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api = HfApi()
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=directory, repo_id=made.repo_id)
    except HFValidationError as error:
        raise RecipeError(f"repository {repository!r}; expected owner/name") from error
    except (HfHubHTTPError, OSError, httpx2.HTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SurgeryError(
            f"cannot upload {repository} to the Hub ({reason}); the complete repository is in "
            f"{directory}: log in with `hf auth login` and push it again"
        ) from error
    return str(made)


def _runs_of(edit_files: Sequence[Path], base_model: str) -> tuple[list[RunResults], list[str]]:
    """Results and recipes, as they may be public, of the run directories that edits are in."""
    results, recipes = [], []
    for path in edit_files:
        if not (path.parent / RESULTS_FILE).is_file():
            continue
        try:
            found = read_results(path.parent)
        except ArtifactError as error:
            raise RecipeError(str(error)) from error
        if not isinstance(found, RunResults):
            continue
        judge, behavior = found.judge, found.behavior
        public = {
            "judge": judge.model_copy(update={"name": public_judge(judge.name)}),
            "behavior": behavior.model_copy(update={"name": public_name(behavior.name)}),
        }
        results.append(found.model_copy(update=public))
        recipe = path.parent / RECIPE_FILE
        if recipe.is_file():
            said = yaml.safe_load(recipe.read_text(encoding="utf-8"))
            told = public_recipe(said, base_model, judge.name)
            recipes.append(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    return results, recipes


def _license_of(checkpoint: Checkpoint) -> str | None:
    """What the front matter of the base's own card says; None where that can't be read."""
    from huggingface_hub.repocard import metadata_load

    card = checkpoint.directory / "README.md"
    try:
        said = metadata_load(card) if card.is_file() else None
    except (ValueError, yaml.YAMLError):
        return None
    license = (said or {}).get("license")
    return license if isinstance(license, str) else None
