"""What a layout says, as data: YAML of ours for known families, of the user's for others."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modelsurgery.files.schema import load_yaml, parse

Axes = Literal["row column", "column row", "expert row column", "expert column row"]
Part = Literal["all", "first half", "second half", "even", "odd"]
ConfigKeys = str | list[str]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spelling(_Entry):
    """One way in which files or loaded modules store a matrix."""

    # What follows the block's prefix; `{expert}` where each expert is a tensor.
    name: str = Field(min_length=1)
    axes: Axes = "row column"  # what the axes of the stored tensor mean
    part: Part = "all"  # which entries along the row axis are gate rows

    @field_validator("name")
    @classmethod
    def _one_expert_at_most(cls, name: str) -> str:
        if name.count("{expert}") > 1 or "{block}" in name:
            raise ValueError("expected a name with {expert} at most once and no {block}")
        return name

    @property
    def is_per_expert(self) -> bool:
        """Whether each expert is a tensor of its own."""
        return "{expert}" in self.name

    @property
    def is_fused(self) -> bool:
        """Whether all experts are in one tensor."""
        return self.axes.startswith("expert")


class MatrixEntry(_Entry):
    """A matrix that a block has."""

    branch: str = Field(min_length=1)  # our word for it: `mlp`, `experts`, `shared`
    # Ways of storing it, one of which must be there.
    spellings: Annotated[list[Spelling], Field(min_length=1)]
    # Key of config.json with the number of experts, or keys tried in order.
    experts: ConfigKeys | None = None
    # Key of config.json; the matrix is there if and only if its value is truthy.
    when: str | None = None


class GateLayout(_Entry):
    """Where a model family keeps its gate rows.

    Layouts of supported families are built in. Others can be described in a YAML file.

    Attributes:
        title: name of the family.
        model_types: values of `model_type` in config.json.
        mlp: `gated`, or `plain` for a two-layer MLP, where the rows of the first matrix are edited.
        hidden_size: key of config.json with the length d of a row.
        blocks_count: key of config.json with the number of blocks.
        extra_blocks: key of config.json with the number of extra blocks that may follow, for
            multi-token prediction. They are not edited.
        defaults: values of keys that config.json may omit.
        prefixes: what precedes a matrix's name, with `{block}`. One of them must match.
        loaded_prefix: the prefix that transformers uses when the model is loaded for generation, if
            files may use another. Adapters name modules by it.
        blocks: the forms that a block may have, by name.

    Example:
        >>> load_layout("layout.yaml").hidden_size
        'hidden_size'
    """

    title: str = "described by the user"
    model_types: list[str] = []
    mlp: Literal["gated", "plain"] = "gated"
    hidden_size: ConfigKeys = "hidden_size"
    blocks_count: ConfigKeys = "num_hidden_layers"
    extra_blocks: str | None = None
    defaults: dict[str, int] = {}
    prefixes: Annotated[list[str], Field(min_length=1)]
    loaded_prefix: str | None = None
    blocks: Annotated[dict[str, list[MatrixEntry]], Field(min_length=1)]

    @field_validator("prefixes")
    @classmethod
    def _name_the_block(cls, prefixes: list[str]) -> list[str]:
        for prefix in prefixes:
            if prefix.count("{block}") != 1:
                raise ValueError(f"prefix {prefix!r}; expected {{block}} in it, once")
        return prefixes

    @model_validator(mode="after")
    def _loaded_is_one_of_them(self) -> "GateLayout":
        if self.loaded_prefix is not None and self.loaded_prefix not in self.prefixes:
            raise ValueError(f"loaded_prefix {self.loaded_prefix!r}; expected one of the prefixes")
        return self

    def loaded_name(self, tensor: str, block: int) -> str:
        """Return the parameter name that a stored tensor has in a loaded transformers model.

        Args:
            tensor: name of the stored tensor.
            block: number of its block, from 0.
        """
        if self.loaded_prefix is None:
            return tensor
        for prefix in sorted(self.prefixes, key=len, reverse=True):  # `h.` ends `transformer.h.`
            stored = prefix.format(block=block)
            if tensor.startswith(stored):
                return self.loaded_prefix.format(block=block) + tensor.removeprefix(stored)
        return tensor


def load_layout(path: Path | str) -> GateLayout:
    """Read a layout file written by a user.

    Args:
        path: YAML file; its keys are described in docs/formats.md.

    Returns:
        The layout.

    Raises:
        RecipeError: the file is missing, is not YAML, or has an unknown key or a wrong value.

    Example:
        >>> matrices = find_gate_matrices(checkpoint, load_layout("layout.yaml"))
    """
    return load_yaml(Path(path), GateLayout)


def layout_from_json(content: dict[str, Any], where: str) -> GateLayout:
    """Check a layout that stands in one of our own files."""
    return parse(content, GateLayout, where)


@cache
def built_in_layouts() -> dict[str, GateLayout]:
    """Layouts of all known families by `model_type`, in the order of the data file."""
    return _layouts_in("families.yaml")


@cache
def gguf_layouts() -> dict[str, GateLayout]:
    """Layouts of GGUF files by llama.cpp's architecture, in the order of the data file."""
    return _layouts_in("gguf.yaml")


def _layouts_in(file: str) -> dict[str, GateLayout]:
    content = resources.files("modelsurgery.checkpoint.layouts").joinpath(file).read_bytes()
    # The C loader: surgery on a checkpoint takes a second, reading this must not be half of it.
    entries = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    layouts = [parse(entry, GateLayout, file) for entry in entries]
    return {name: layout for layout in layouts for name in layout.model_types}
