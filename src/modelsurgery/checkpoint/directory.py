"""A model as tensors in files, on disk or in an object store: which file holds which tensor.

Of a model directory it reads `config.json`, the index of a sharded model and the headers of its
safetensors files, of a GGUF file its header, and nothing else. All of them come from strangers:
every file name is checked before it is used.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelsurgery.checkpoint.gguf_files import read_gguf_files
from modelsurgery.checkpoint.header import StoredTensor, read_header, read_json_object
from modelsurgery.checkpoint.place import Place, is_plain_name, place_of
from modelsurgery.checkpoint.remote import ADAPTER_FILE, INDEX_FILE, SINGLE_FILE, RemoteModel
from modelsurgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from modelsurgery.files.atomic import reading_errors, refuse_unreadable
from modelsurgery.files.object_store import is_url
from modelsurgery.files.shell import path_word

DEQUANTIZED_FILE = "gguf.json"  # says which GGUF files a directory was made from


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: its configuration and where each tensor is stored. Holds no weights.

    Attributes:
        directory: directory with the weight files.
        config: content of `config.json`; for a GGUF file, made of its metadata.
        tensors: stored tensors by name.
        gguf: where the GGUF files are; None for a model directory.
        remote: where rows are read from, if not in `directory`: it holds the headers then.

    Example:
        >>> open_checkpoint("model").files
        ('model.safetensors',)
    """

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    gguf: Place | None = None
    remote: RemoteModel | None = None

    @property
    def place(self) -> Place:
        """Where the weight files are."""
        url = None if self.remote is None else self.remote.folder.url
        return self.gguf or Place(self.directory, url=url)

    @property
    def is_dequantized(self) -> bool:
        """Whether it is a directory with the values of a GGUF file, and not with the same bytes."""
        return self.gguf is None and (self.directory / DEQUANTIZED_FILE).is_file()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the weight files, sorted."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def size_bytes(self) -> int:
        """Total size of all tensors, in bytes."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())


@reading_errors()
def open_checkpoint(directory: Path | str) -> Checkpoint:
    """Open a model without loading its weights.

    Only the configuration and the headers of the weight files are read.

    Args:
        directory: directory with `config.json` and safetensors weights, or a GGUF file (of a set
            of files, any); `s3://BUCKET/FOLDER` for such a directory in an object store.

    Returns:
        The checkpoint.

    Raises:
        ModelNotFoundError: the directory, its `config.json` or the file does not exist.
        UnsupportedModelError: it has no safetensors weights, or an adapter beside them.
        CheckpointError: a header, the index or the configuration is damaged or unsafe.
        StorageError: one of them may not be read, or an object store cannot be reached or refuses.

    Example:
        >>> checkpoint = open_checkpoint("model")
        >>> checkpoint.config["model_type"]
        'llama'
    """
    if is_url(directory):
        remote = RemoteModel.fetched(directory)
        with remote.named():
            return replace(open_checkpoint(remote.directory), remote=remote)
    directory, place = Path(directory), place_of(directory)
    if not place.is_gguf and not directory.is_dir():
        refuse_unreadable(directory)
        raise ModelNotFoundError(
            f"no model directory at {directory}; expected a directory with config.json and "
            "safetensors weights, or a GGUF file"
        )
    if place.hidden():
        raise CheckpointError(
            f"{directory}: an edit in place is running or was interrupted; after an interruption "
            f"`surgery undo {path_word(directory)}` restores the model, and repeating the "
            "`surgery apply` command completes the edit"
        )
    if place.is_gguf:
        return Checkpoint(place.directory, *read_gguf_files(place), place)
    _refuse_adapter(directory)
    if not (directory / "config.json").is_file():
        raise ModelNotFoundError(
            f"{directory} has no config.json; expected a transformers model directory"
        )
    config = read_json_object(directory / "config.json")
    if (directory / SINGLE_FILE).is_file():
        tensors = read_header(directory / SINGLE_FILE)
    elif (directory / INDEX_FILE).is_file():
        tensors = _read_sharded(directory)
    else:
        raise UnsupportedModelError(
            f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}; expected safetensors "
            "weights (convert pickled ones with transformers' save_pretrained first)"
        )
    return Checkpoint(directory, config, tensors)


def _refuse_adapter(directory: Path) -> None:
    """Refuse what would be measured with an adapter and edited without it."""
    if not (directory / ADAPTER_FILE).is_file():
        return
    if not (directory / "config.json").is_file():
        raise UnsupportedModelError(
            f"{directory} contains an adapter ({ADAPTER_FILE}) but no model; expected a model "
            "directory: merge the adapter into its base model first"
        )
    raise UnsupportedModelError(
        f"{directory}: {ADAPTER_FILE} is next to the weights, so transformers would load the "
        "model with that adapter, but edits are for the model without it; merge the adapter into "
        "the weights first, or remove it from the directory"
    )


def _read_sharded(directory: Path) -> dict[str, StoredTensor]:
    index_path = directory / INDEX_FILE
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path}: expected a weight_map of tensor names to file names")
    headers: dict[str, dict[str, StoredTensor]] = {}
    tensors = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not is_plain_name(file):
            raise CheckpointError(
                f"{index_path}: tensor {name!r} points to {file!r}; expected the plain name of a "
                "file in the same directory"
            )
        if file not in headers:
            if not is_file(directory / file):
                raise CheckpointError(
                    f"{index_path}: names {file}, which is missing; the download is incomplete"
                )
            headers[file] = read_header(directory / file)
        if name not in headers[file]:
            raise CheckpointError(
                f"{index_path}: lists {name!r} in {file}, which does not contain it; fetch both "
                "files again"
            )
        tensors[name] = headers[file][name]
    return tensors


def is_file(path: Path) -> bool:
    """Whether there is such a file; no name of a stranger's is too long to ask."""
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system can hold
        return False
