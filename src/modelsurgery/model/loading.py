"""Loading language models: the only place that calls from_pretrained to use them.

Weights stay in the stored dtype on a GPU and are widened to f32 on a CPU, where f32 is faster and
free of rounding; `LanguageModel.stored_dtypes` remembers what the file has, so that an edit in
memory rounds as an edit on disk does.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from modelsurgery.apply.in_memory import mark_dequantized
from modelsurgery.checkpoint.directory import Checkpoint, open_checkpoint
from modelsurgery.checkpoint.header import read_json_object
from modelsurgery.checkpoint.layouts import GateLayout
from modelsurgery.checkpoint.named_models import NAMED_MODELS, fetched_directory
from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.errors import (
    CheckpointError,
    ModelNotFoundError,
    RecipeError,
    StorageError,
    UnsupportedModelError,
)
from modelsurgery.files.atomic import refuse_unreadable, sha256_file, sha256_json
from modelsurgery.files.object_store import refuse_url
from modelsurgery.model.chat_template import ChatTemplate, processor_template
from modelsurgery.model.gguf_files.dequantizing import dequantized_directory
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.placement import Placement, single_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GENERATION_FILE = "generation_config.json"
CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
# What transformers 5 raises for a strange config.json or tokenizer: whatever it stumbles over.
LOADING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
CARRIED_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def resolve_model_directory(model: Path | str, *, revision: str | None = None) -> Path:
    """Directory of a model: a directory, the name of a fetched model, or an id of the Hub.

    A model of the Hub is downloaded if need be.

    Raises:
        ModelNotFoundError: no such directory, a name that was not fetched yet, or no such id.
    """
    refuse_url(model, "a model is loaded from a local disk; download it first")
    if Path(model).is_dir():
        return Path(model)
    if str(model) in NAMED_MODELS:
        return fetched_directory(str(model))
    refuse_unreadable(Path(model))
    if Path(model).is_absolute() or str(model).startswith((".", "~")) or Path(model).exists():
        raise ModelNotFoundError(
            f"no model directory at {model}; expected a directory with config.json and "
            "safetensors weights, or a Hub ID"
        )
    try:
        found = snapshot_download(str(model), revision=revision, allow_patterns=CARRIED_PATTERNS)
    except (HFValidationError, HfHubHTTPError, FileNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelNotFoundError(
            f"no model {str(model)!r}: there is no such directory, and it cannot be downloaded "
            f"from the Hub ({reason}); give a local directory"
        ) from error
    return Path(found)


def load_model(
    model: Path | str,
    *,
    device: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    max_memory: str | None = None,
    offload: Path | str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    layout: GateLayout | None = None,
    chat_template: str | None = None,
    now: datetime | None = None,
) -> LanguageModel:
    """Load a causal language model and its tokenizer.

    Args:
        model: directory, GGUF file, Hub ID, or name of a model that `surgery fetch` downloaded.
            A GGUF file is dequantized, once, into a directory of the cache.
        device: `cpu`, `cuda`, `cuda:1` and so on, or `auto`: all GPUs, then the CPU's memory, then
            the disk, which needs accelerate. By default a GPU if there is one.
        device_map: a device for each module (`cpu` and `disk` are devices too), or another
            way of choosing them, as in transformers. Needs accelerate; replaces `device`.
        max_memory: with several devices the memory for weights, for each one as `20GB`, or by
            device as `0=40GB,cpu=16GB`; by default what is free.
        offload: directory for weights on disk which the checkpoint has in another form (as of
            some mixtures). They are removed with the model.
        dtype: `float32`, `bfloat16` or `float16`; by default float32 on a CPU, otherwise as stored.
        revision: commit, tag or branch on the Hub.
        layout: where the gate rows are, for an unsupported model family.
        chat_template: name of the chat template, if there are several; None means `default`.
        now: date and time to give to the chat template; by default the time of the call.

    Returns:
        The model in eval mode, without gradients.

    Raises:
        ModelNotFoundError: the model does not exist.
        RecipeError: the dtype, device or chat template is unknown, or a package is missing.
        UnsupportedModelError: the model is not a causal language model, has no safetensors weights,
            or needs custom code; a GGUF file of an architecture that transformers does not know.
        CheckpointError: the weights are damaged or incomplete, or the tokenizer cannot be loaded.
        StorageError: the directory for offloaded weights is full or cannot be written.

    Example:
        >>> model = load_model("model", dtype="float32")
    """
    if dtype is not None and dtype not in DTYPES:
        raise RecipeError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    placement = Placement(
        device, device_map, max_memory, None if offload is None else Path(offload)
    )
    place = placement.main
    loader, known = _opened(model, revision, layout, chat_template, now)
    wanted: Any = DTYPES.get(dtype or ("float32" if place.type == "cpu" else ""), "auto")
    with placement.options() as options:
        loaded = _with_weights(loader, known.checkpoint, wanted, **options)
    if known.checkpoint.is_dequantized:
        mark_dequantized(loaded)
    return _holding(known, placement.placed(loaded, options))


def load_without_weights(
    model: Path | str,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    layout: GateLayout | None = None,
    chat_template: str | None = None,
    now: datetime | None = None,
) -> LanguageModel:
    """Load a model that something else runs: configuration and tokenizer, and no weights.

    It says how prompts are read and what ends a text, and its checkpoint can be edited. Its
    weights are on torch's meta device, which computes nothing. Arguments and errors are those of
    `load_model`, but that no dtype means the stored one.
    """
    loader, known = _opened(model, revision, layout, chat_template, now)
    directory = known.checkpoint.directory
    with _loading(known.checkpoint):
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False)
        with torch.device("meta"):
            described = loader.from_config(
                config, trust_remote_code=False, dtype=DTYPES.get(dtype or "", config.dtype)
            )
        if (directory / GENERATION_FILE).is_file():
            content = read_json_object(directory / GENERATION_FILE)
            settings = transformers.GenerationConfig.from_dict(content)
            described.generation_config = settings
    return _holding(known, described)


def _opened(
    model: Path | str,
    revision: str | None,
    layout: GateLayout | None,
    chat_template: str | None,
    now: datetime | None,
) -> tuple[Any, LanguageModel]:
    """The class of transformers that makes a model, and what is known before: all but `model`."""
    gguf = Path(model) if is_gguf(model) else None
    directory = (
        resolve_model_directory(model, revision=revision)
        if gguf is None
        else dequantized_directory(gguf)
    )
    checkpoint = open_checkpoint(directory)
    loader = _loader(checkpoint)
    tokenizer = _tokenizer(checkpoint)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = processor_template(checkpoint.directory)
    prepare_tokenizer(tokenizer, chat_template)  # refused before weights are read
    at = now or datetime.now()
    return loader, LanguageModel(
        None, tokenizer, checkpoint, layout, template_name=chat_template, now=at, gguf=gguf
    )


def _holding(known: LanguageModel, made: Any) -> LanguageModel:
    """What is known of a model, with what transformers made: in eval mode, without gradients."""
    return replace(known, model=made.eval().requires_grad_(False))


def prepare_tokenizer(tokenizer: Any, chat_template: str | None) -> None:
    """Give a tokenizer a padding token if it has none: it is masked, so any token will do.

    Raises:
        RecipeError: it has no chat template of that name.
    """
    if chat_template is not None:
        _ = ChatTemplate(tokenizer, chat_template).source
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)


def _tokenizer(checkpoint: Checkpoint) -> Any:
    with _loading(checkpoint):
        return transformers.AutoTokenizer.from_pretrained(
            checkpoint.directory, trust_remote_code=False
        )


def _loader(checkpoint: Checkpoint) -> Any:
    """The class that loads weights saved with a head that predicts the next token."""
    model_type = checkpoint.config.get("model_type")
    architectures = checkpoint.config.get("architectures")
    causal, images = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    for loader, known, endings in (
        (transformers.AutoModelForCausalLM, causal, CAUSAL_SUFFIXES),
        (transformers.AutoModelForImageTextToText, images, ()),
    ):
        if isinstance(model_type, str) and model_type in known:
            given = architectures if isinstance(architectures, list) else [known[model_type]]
            if any(one == known[model_type] or str(one).endswith(endings) for one in given):
                return loader
    raise UnsupportedModelError(
        f"{checkpoint.directory}: model type {model_type!r} ({architectures}) is not a causal "
        "language model; expected one that generates text"
    )


def _with_weights(loader: Any, checkpoint: Checkpoint, dtype: Any, **options: Any) -> Any:
    """A model of a checkpoint, as a class of transformers loads it: all of its weights, no code."""
    with _loading(checkpoint):
        loaded, report = loader.from_pretrained(
            checkpoint.directory,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    _check_complete(checkpoint, report)
    return loaded


def _check_complete(checkpoint: Checkpoint, report: dict[str, Any]) -> None:
    """Refuse what transformers would fill with random weights: absent or misshapen tensors."""
    absent = sorted(report["missing_keys"])
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if absent or misshapen:
        names = absent or misshapen
        problem = "is missing" if absent else "has another shape than config.json says"
        raise CheckpointError(
            f"{checkpoint.directory}: {names[0]} {problem} ({len(names)} such tensors); the "
            "weights and config.json do not match, fetch them again"
        )


@contextlib.contextmanager
def _loading(checkpoint: Checkpoint) -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except LOADING_ERRORS as error:
        # Without this argument transformers asks on stdin, where a pipe's first prompt answers.
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"{checkpoint.directory}: needs custom code, which is never run; expected a model "
                "and a tokenizer that transformers supports (save the tokenizer as "
                "tokenizer.json)"
            ) from error
        if "`offload_folder`" in str(error):
            raise RecipeError(
                f"{checkpoint.directory}: weights that do not fit in memory are stored otherwise "
                "there, and need a directory; give one with --offload DIR"
            ) from error
        if "os error 28" in str(error):
            raise StorageError(
                "no space left for weights on disk; choose another directory with --offload"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint.directory}: transformers cannot load it ({reason}); "
            "check that the download is complete"
        ) from error


@dataclass(frozen=True)
class SequenceClassifier:
    """A transformers model that gives a text one of several labels.

    `fingerprint` changes when its weights or labels change.
    """

    model: Any
    tokenizer: Any
    fingerprint: str


def load_sequence_classifier(model: str) -> SequenceClassifier:
    """Load a sequence classifier, a directory or an id of the Hub; safetensors only.

    Raises:
        ModelNotFoundError: no such model.
        UnsupportedModelError: a model of another kind, or with code of its own.
        CheckpointError: damaged or incomplete weights, or a tokenizer that cannot be loaded.
    """
    checkpoint = open_checkpoint(resolve_model_directory(model))
    architectures = checkpoint.config.get("architectures") or []
    if not any(str(one).endswith("ForSequenceClassification") for one in architectures):
        raise UnsupportedModelError(
            f"{model}: {', '.join(map(str, architectures)) or 'no architecture'}; expected a "
            "sequence classifier"
        )
    tokenizer = _tokenizer(checkpoint)
    loader = transformers.AutoModelForSequenceClassification
    loaded = _with_weights(loader, checkpoint, torch.float32)
    hashes = [sha256_file(checkpoint.directory / name) for name in checkpoint.files]
    return SequenceClassifier(
        loaded.to(single_device(None)).eval().requires_grad_(False),
        tokenizer,
        sha256_json([hashes, checkpoint.config]),
    )
