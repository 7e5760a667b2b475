"""The files of a GGUF model: which there are, and what they say beyond what transformers takes.

The parts of a split model are joined for it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.checkpoint.place import STABLE_STEM, place_of
from modelsurgery.errors import CheckpointError, ModelNotFoundError
from modelsurgery.files.magic import GGUF_MAGIC, begins_as_gguf

# llama.cpp's names of vocabularies that are split into single digits, then as GPT-2's are:
# llama_vocab::impl::load, where these share one list of expressions.
SINGLE_DIGITS = {
    "codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder",
}  # fmt: skip
# Those whose texts begin with BOS where the file does not say, in llama.cpp and nowhere else.
BEGINS_WITH_BOS = {
    "falcon-h1", "falcon3", "jina-v5-nano", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0",
    "pixtral", "tekken",
}  # fmt: skip
# Tokens that end a turn, which llama.cpp looks for too where the file does not name one.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>")
CONTROL = 3  # type of a token


@dataclass(frozen=True)
class GgufContents:
    """What is read of a GGUF file besides its weights."""

    architecture: str  # llama.cpp's name of the model's architecture
    has_single_digits: bool  # whether its tokenizer splits numbers into digits
    begins_with_bos: bool  # whether a text begins with BOS though the file does not say so
    end_ids: tuple[int, ...]  # tokens that end a text or a turn, sorted
    # ggml's names of the types of its matrices, sorted by how many have them.
    matrix_types: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """The narrowest dtype that holds the values of all matrices exactly, as torch spells it."""
        exact: dict[tuple[str, ...], str] = {("F16",): "float16", ("BF16",): "bfloat16"}
        return exact.get(self.matrix_types, "float32")


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All files of a model, the first one first, for the path of any of them.

    Raises:
        CheckpointError: a part is missing, or a file is not in GGUF.
        ModelNotFoundError: there is no file at the path.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"no file at {path}; expected a GGUF file or a model directory")
    place = place_of(path)
    parts = tuple(place.path(name) for name in place.gguf_names)
    for part in parts:
        if not part.is_file():
            raise CheckpointError(
                f"{path}: {part.name}, another part of this model, is missing; put all parts into "
                "one directory"
            )
        if not begins_as_gguf(part):
            raise CheckpointError(
                f"{part}: not a GGUF file; expected one that begins with {GGUF_MAGIC.decode()}, "
                "fetch it again"
            )
    return parts


def plain_stem(path: Path) -> str:
    """Name of a model's file without its ending and the number of its part."""
    return place_of(path).stem or STABLE_STEM


def read_contents(parts: Sequence[Path]) -> GgufContents:
    """Read what transformers does not: end tokens, the splitting of digits, types of matrices.

    Raises:
        KeyError, ValueError, OSError: what the gguf package stumbles over in a damaged file.
    """
    from gguf import GGUFReader

    readers = [GGUFReader(part) for part in parts]
    first = readers[0]

    def value(name: str) -> Any:
        field = first.fields.get(name)
        return None if field is None else field.contents()

    pre = value("tokenizer.ggml.pre")
    is_silent = value("tokenizer.ggml.add_bos_token") is None
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    counts = Counter(tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1)
    return GgufContents(
        str(first.fields["general.architecture"].contents()),
        pre in SINGLE_DIGITS,
        pre in BEGINS_WITH_BOS and is_silent,
        _end_ids(value),
        tuple(sorted(counts, key=lambda name: (-counts[name], name))),
    )


def _end_ids(value: Any) -> tuple[int, ...]:
    named = [value(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    ends = {int(one) for one in named if one is not None}
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    if tokens is not None and kinds is not None:
        control = {token: at for at, token in enumerate(tokens) if kinds[at] == CONTROL}
        ends |= {control[token] for token in TURN_ENDS if token in control}
    return tuple(sorted(ends))


def join_parts(parts: Sequence[Path], joined: Path) -> None:
    """Write the parts of a split model as one file, which transformers can read."""
    import gguf

    readers = [gguf.GGUFReader(part) for part in parts]
    fields = readers[0].fields
    architecture = str(fields[gguf.Keys.General.ARCHITECTURE].contents())
    writer = gguf.GGUFWriter(str(joined), architecture)
    for name, field in fields.items():
        if name == gguf.Keys.General.ARCHITECTURE or name.startswith(("GGUF.", "split.")):
            continue
        kind = field.types[0]
        entries = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=entries)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    for one in tensors:
        writer.add_tensor_info(
            one.name, one.data.shape, one.data.dtype, one.data.nbytes, one.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for one in tensors:
        writer.write_tensor_data(one.data)
    writer.close()
