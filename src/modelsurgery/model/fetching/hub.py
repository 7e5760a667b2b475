"""The original of a named model, out of the Hub's own cache."""

from pathlib import Path

from modelsurgery.checkpoint.named_models import NamedModel
from modelsurgery.errors import FetchError
from modelsurgery.files.atomic import copy_file, link_file
from modelsurgery.files.progress import Progress

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = ("chat_template.jinja", "generation_config.json")


def copy_from_hub(model: NamedModel, directory: Path, progress: Progress) -> str:
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
