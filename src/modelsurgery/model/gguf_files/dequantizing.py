"""A GGUF file as an ordinary model directory, made once and kept in the cache.

transformers needs a minute to read even a small GGUF file, most of it for the vocabulary, so what
it reads is saved: weights without any rounding, tokenizer, chat template, end tokens. The directory
of a file is made anew when the file has changed. Nothing is written beside the file.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelsurgery.checkpoint.directory import DEQUANTIZED_FILE
from modelsurgery.checkpoint.named_models import ORIGIN_FILE, cache_directory
from modelsurgery.errors import CheckpointError, RecipeError, UnsupportedModelError
from modelsurgery.files.atomic import locked, staged_directory, storage_errors, write_json
from modelsurgery.model.gguf_files.contents import (
    GgufContents,
    gguf_parts,
    join_parts,
    plain_stem,
    read_contents,
)

NEEDED = ("gguf", "accelerate")  # by transformers, to read GGUF files
VERSION = 1  # of what is saved; another one is made anew
GPU_DTYPE = "bfloat16"  # of a quantized model, where nothing else is asked for
# What transformers and the gguf package raise for a damaged file: whatever they stumble over.
READING_ERRORS = (
    ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, NotImplementedError,
    OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
log = logging.getLogger(__name__)


def dequantized_directory(path: Path) -> Path:
    """Directory with the model of a GGUF file, dequantized; made if it is not in the cache.

    Weights that a file holds in F16 or BF16 keep that dtype; quantized ones are written in float32,
    which holds their values exactly. The path may be that of any part of a split file.

    Raises:
        CheckpointError: the file is damaged or incomplete.
        ModelNotFoundError: there is no such file.
        RecipeError: a package is missing.
        StorageError: the disk is full, or another process is reading the same file.
        UnsupportedModelError: transformers does not know the file's architecture.
    """
    parts = gguf_parts(path.absolute())
    state = _state(parts)
    place = _place(parts)
    if _is_current(place, state):
        return place
    if missing := missing_packages():
        raise RecipeError(f"reading a GGUF file needs {missing}; pip install 'modelsurgery[gguf]'")
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.parent):
        if _is_current(place, state):  # another process made it meanwhile
            return place
        log.info("%s: dequantizing it into %s, once", path, place)
        shutil.rmtree(place, ignore_errors=True)
        with staged_directory(place) as staged, storage_errors(place):
            _dequantize(parts, staged, state)
    return place


def _place(parts: Sequence[Path]) -> Path:
    """One directory for each path, so that an edited file replaces what was kept of it."""
    # The directory is called as the file is: reports show its name.
    key = hashlib.sha256(str(parts[0].resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_directory() / "gguf" / key / plain_stem(parts[0])


def _state(parts: Sequence[Path]) -> list[Any]:
    """What tells that the files are those that were read."""
    stats = [(part.name, part.stat()) for part in parts]
    return [VERSION, *([name, one.st_size, one.st_mtime_ns, one.st_ino] for name, one in stats)]


def _is_current(place: Path, state: list[Any]) -> bool:
    try:
        kept: Any = json.loads((place / DEQUANTIZED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(kept == {"files": state})


def missing_packages() -> str:
    """Names of the packages that reading a GGUF file lacks; empty if it lacks none."""
    return " and ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)


def _dequantize(parts: Sequence[Path], staged: Path, state: list[Any]) -> None:
    """Fill a directory with model and tokenizer; the file is linked there while it is read.

    transformers looks for other files beside the one that it reads, so it is not told the place.
    """
    source = staged / "source.gguf"
    with _reading(parts[0]):
        contents = read_contents(parts)
        if len(parts) == 1:
            source.symlink_to(parts[0].resolve())
        else:
            join_parts(parts, source)
        # With the digits and the BOS that transformers leaves out.
        settings = {"add_bos_token": True} if contents.begins_with_bos else {}
        tokenizer = read_tokenizer(source, contents.has_single_digits, **settings)
        model = _whole_model(source, contents)
    source.unlink()
    if contents.end_ids:
        model.generation_config.eos_token_id = list(contents.end_ids)
    # Of a text that is not a model's: transformers would keep a number of 30 digits.
    tokenizer.model_max_length = model.config.get_text_config().max_position_embeddings
    with quietly():
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
    _set_dtype(staged / "config.json", contents)
    types = ", ".join(contents.matrix_types)
    origin = {
        "model": plain_stem(parts[0]),
        "source": "gguf",
        "from": parts[0].name,
        "note": f"dequantized from {types}",
    }
    write_json(staged / ORIGIN_FILE, origin)
    write_json(staged / DEQUANTIZED_FILE, {"files": state})


def _whole_model(source: Path, contents: GgufContents) -> Any:
    """The model with its matrices in `contents.dtype`, the rest in float32."""
    import torch

    model, report = read_model(source, torch.float32)
    absent = sorted(report["missing_keys"])
    if absent:
        raise ValueError(f"{absent[0]} is missing ({len(absent)} such tensors)")
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.to(getattr(torch, contents.dtype))
    return model


def read_model(source: Path, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a GGUF file in a dtype of torch, and what transformers tells of loading it."""
    import transformers

    with quietly():
        answer: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
            # Packed weights, which are the default where there are kernels, cannot be saved.
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
    model, report = answer
    return model, report


def read_tokenizer(source: Path, has_single_digits: bool, **settings: bool) -> Any:
    """The tokenizer of a GGUF file.

    The splitting of numbers is put back, which transformers does not read from the file. No merge
    joins two digits, so only blanks before a digit are tokenized otherwise without it.
    """
    import transformers
    from tokenizers import pre_tokenizers

    with quietly():
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            source.parent, gguf_file=source.name, trust_remote_code=False, **settings
        )
    if has_single_digits:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    return tokenizer


def _set_dtype(config: Path, contents: GgufContents) -> None:
    """Say which dtype a GPU shall take: float32 is there to be exact, not to be computed with."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content["dtype"] = GPU_DTYPE if contents.dtype == "float32" else contents.dtype
    if contents.matrix_types == ("F32",):
        content["dtype"] = "float32"
    write_json(config, content)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide bars that no setting of transformers hides."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except READING_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "not supported" in reason or "Unknown gguf model_type" in reason:
            raise UnsupportedModelError(
                f"{path}: transformers cannot read GGUF files of this kind ({reason}); give the "
                "model's own directory instead"
            ) from error
        raise CheckpointError(
            f"{path}: transformers cannot read it ({reason}); the file may be damaged, fetch it "
            "again"
        ) from error
