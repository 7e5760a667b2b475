"""Finding the gate matrices that a layout describes among named, shaped tensors.

The same search runs over the tensors of a file and over the parameters of a loaded module. It is
all or nothing: a block without its gate matrices, an expert too few or a matrix too many is refused
by name, because a model edited in part looks like a model that was edited.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelsurgery.checkpoint.layouts.format import ConfigKeys, GateLayout, MatrixEntry, Spelling
from modelsurgery.checkpoint.rows import ROW_DTYPES, RowView, values_in
from modelsurgery.errors import UnsupportedModelError

NUMBER = r"(0|[1-9]\d{0,5})"
MOST_NAMES_SHOWN = 12


class Shaped(NamedTuple):
    """What the search needs to know of a tensor."""

    shape: tuple[int, ...]
    dtype: str


class Address(NamedTuple):
    """Which matrix of a model, whatever its file calls it: block from 0, branch, expert."""

    block: int
    branch: str
    expert: int


@dataclass(frozen=True)
class GateMatrix:
    """A gate matrix [rows, d] of a model. A mixture of experts has one per expert.

    Attributes:
        view: where its rows are within a stored tensor.
        block: number of the block, from 0.
        branch: `mlp`, `experts` or `shared`.
        expert: number of the expert, from 0; -1 if the branch has no experts.

    Example:
        >>> gate = find_gate_matrices(checkpoint)[0]
        >>> gate.block, gate.branch, gate.rows
        (0, 'mlp', 640)
    """

    view: RowView
    block: int
    branch: str = "mlp"
    expert: int = -1

    @property
    def tensor(self) -> str:
        """Name of the tensor in the checkpoint."""
        return self.view.tensor

    @property
    def rows(self) -> int:
        """Number of rows, one per neuron."""
        return self.view.rows

    @property
    def hidden_size(self) -> int:
        """Length d of a row."""
        return self.view.width

    @property
    def dtype(self) -> str:
        """Element type, as safetensors names it."""
        return self.view.dtype

    @property
    def address(self) -> Address:
        """Position in the model, independent of tensor names."""
        return Address(self.block, self.branch, self.expert)


class _Match(NamedTuple):
    name: str
    prefix: str
    block: int
    branch: str
    spelling: int
    expert: int


def match_layout(
    layout: GateLayout, tensors: Mapping[str, Shaped], config: dict[str, Any], where: str
) -> tuple[GateMatrix, ...]:
    """Find the gate matrices of all blocks, in the order of block, branch and expert.

    Args:
        layout: what to look for.
        tensors: shape and type by name, of a file or of a module.
        config: content of config.json.
        where: named in errors.

    Raises:
        UnsupportedModelError: not every block has all matrices of exactly one form, or one of them
            has another shape than config.json says, or is not f32, bf16 or f16.
    """
    settings = config.get("text_config")
    settings = {**layout.defaults, **(settings if isinstance(settings, dict) else config)}
    matches = _matches(layout, tensors)
    prefixes = sorted({match.prefix for match in matches})
    if len(prefixes) != 1:
        raise UnsupportedModelError(
            f"{where}: looked for {' or '.join(_wanted(layout))} and found "
            f"{'none of them' if not prefixes else f'{len(prefixes)} sets of them'}; "
            f"it has {described_names(tensors)}; describe it with --layout"
        )
    count = _count(settings, layout.blocks_count, where)
    further = settings.get(layout.extra_blocks) if layout.extra_blocks else 0
    further = further if type(further) is int else 0
    by_block: dict[int, list[_Match]] = {}
    for match in matches:
        by_block.setdefault(match.block, []).append(match)
    beyond = [block for block in by_block if block >= count]
    # The number found bounds the work: a hostile configuration may claim 10^15 blocks.
    if len(by_block) - len(beyond) != count or len(beyond) > further:
        raise UnsupportedModelError(
            f"{where}: found gate matrices of {len(by_block)} blocks, expected {count} as "
            f"config.json says; it has {described_names(tensors)}"
        )
    found = []
    for block in range(count):
        found += _block_matrices(layout, by_block[block], tensors, settings, where)
    return tuple(sorted(found, key=lambda gate: gate.address))


def described_names(tensors: Mapping[str, object]) -> str:
    """Names of tensors in one line, numbers replaced by `*` and counted; MLPs first."""
    patterns = name_patterns(tensors)
    ordered = sorted(patterns, key=lambda name: (not re.search("mlp|feed|expert", name), name))
    shown = [f"{name} ({patterns[name]})" for name in ordered[:MOST_NAMES_SHOWN]]
    more = len(ordered) - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown) or "no tensors"


def name_patterns(names: Iterable[str]) -> Counter[str]:
    """Names with their numbers replaced by `*`, counted."""
    return Counter(re.sub(r"\d+", "*", name) for name in names)


def _matches(layout: GateLayout, tensors: Mapping[str, Shaped]) -> list[_Match]:
    found = {}
    for prefix in layout.prefixes:
        head, tail = (re.escape(part) for part in prefix.split("{block}"))
        for entry, number, spelling in _spellings(layout):
            name_pattern = re.escape(spelling.name).replace(r"\{expert\}", NUMBER)
            pattern = re.compile(head + NUMBER + tail + name_pattern)
            for name in tensors:
                if match := pattern.fullmatch(name):
                    block, *expert = (int(group) for group in match.groups())
                    found[name, entry.branch, number] = _Match(
                        name, prefix, block, entry.branch, number, *(expert or [-1])
                    )
    return list(found.values())


def _spellings(layout: GateLayout) -> Iterator[tuple[MatrixEntry, int, Spelling]]:
    for entries in layout.blocks.values():
        for entry in entries:
            for number, spelling in enumerate(entry.spellings):
                yield entry, number, spelling


def _wanted(layout: GateLayout) -> list[str]:
    first = layout.prefixes[0].replace("{block}", "*")
    names = {first + spelling.name for _, _, spelling in _spellings(layout)}
    return sorted(name.replace("{expert}", "*") for name in names)


def _block_matrices(
    layout: GateLayout,
    matches: list[_Match],
    tensors: Mapping[str, Shaped],
    settings: dict[str, Any],
    where: str,
) -> list[GateMatrix]:
    """Matrices of one block, which must be all of exactly one form and nothing else."""
    available = {match.name for match in matches}
    hidden_size = _count(settings, layout.hidden_size, where)
    for form in layout.blocks.values():
        wanted = [entry for entry in form if entry.when is None or settings.get(entry.when)]
        taken: list[tuple[_Match, RowView]] = []
        for entry in wanted:
            taken += _entry_views(entry, matches, tensors, settings, hidden_size, where)
        if wanted and {match.name for match, _ in taken} == available and _all_there(wanted, taken):
            return [
                GateMatrix(view, match.block, match.branch, match.expert) for match, view in taken
            ]
    block = matches[0].block
    raise UnsupportedModelError(
        f"{where}: block {block} has {described_names(dict.fromkeys(available))}, which is not a "
        f"complete set of gate matrices; expected {' or '.join(_wanted(layout))}, with every "
        "expert and shared expert that config.json names"
    )


def _all_there(wanted: list[MatrixEntry], taken: list[tuple[_Match, RowView]]) -> bool:
    return {entry.branch for entry in wanted} == {match.branch for match, _ in taken}


def _entry_views(
    entry: MatrixEntry,
    matches: list[_Match],
    tensors: Mapping[str, Shaped],
    settings: dict[str, Any],
    hidden_size: int,
    where: str,
) -> list[tuple[_Match, RowView]]:
    """Matrices of one entry of a block: none if they are not all there in one spelling."""
    experts = None if entry.experts is None else _count(settings, entry.experts, where)
    for number, spelling in enumerate(entry.spellings):
        mine = [one for one in matches if (one.branch, one.spelling) == (entry.branch, number)]
        is_last = number == len(entry.spellings) - 1
        if not mine or not (is_last or _fits(spelling, tensors[mine[0].name].shape, hidden_size)):
            continue  # one name may mean two arrangements of the axes: the width tells them apart
        if spelling.is_per_expert:
            if len(mine) != experts or {one.expert for one in mine} != set(range(len(mine))):
                return []
        elif len(mine) != 1:
            return []
        return [
            (match._replace(expert=expert), view)
            for match in mine
            for expert, view in _views(match, spelling, tensors, experts, hidden_size, where)
        ]
    return []


def _fits(spelling: Spelling, shape: tuple[int, ...], hidden_size: int) -> bool:
    axes = spelling.axes.split()
    return len(axes) == len(shape) and shape[axes.index("column")] == hidden_size


def _views(
    match: _Match,
    spelling: Spelling,
    tensors: Mapping[str, Shaped],
    experts: int | None,
    hidden_size: int,
    where: str,
) -> list[tuple[int, RowView]]:
    """The matrices inside one stored tensor, by the number of the expert."""
    shape, dtype = tensors[match.name]
    axes = spelling.axes.split()
    sizes = dict(zip(axes, shape, strict=False))
    parts = 2 if spelling.part != "all" else 1
    if (
        len(shape) != len(axes)
        or sizes["column"] != hidden_size
        or sizes["row"] % parts
        or 0 in shape
        or (spelling.is_fused and sizes["expert"] != experts)
    ):
        raise UnsupportedModelError(
            f"{where}: {match.name} has shape {list(shape)}; expected [{', '.join(axes)}] with "
            f"column = {hidden_size}" + (f", expert = {experts}" if spelling.is_fused else "")
        )
    if dtype not in ROW_DTYPES:
        raise UnsupportedModelError(
            f"{where}: {match.name} is stored as {dtype}; expected {', '.join(ROW_DTYPES)} (edit "
            "the full-precision checkpoint, and either run this model with an adapter of the edit, "
            "`surgery export`, or requantize it to one of these types)"
        )
    values = values_in(dtype)
    if values > 1 and (axes[-1] != "column" or sizes["column"] % values):
        raise UnsupportedModelError(
            f"{where}: {match.name} is stored as {dtype} across its rows; expected rows of whole "
            "blocks"
        )
    strides = {}
    sizes["column"] //= values
    stride = 1
    for axis in reversed(axes):
        strides[axis] = stride
        stride *= sizes[axis]
    rows = sizes["row"] // parts
    first = {"second half": rows, "odd": 1}.get(spelling.part, 0)
    step = 2 if spelling.part in {"even", "odd"} else 1
    offset = first * strides["row"]
    step *= strides["row"]
    if not spelling.is_fused:
        numbers = [match.expert]
        places = [offset]
    else:
        numbers = list(range(sizes["expert"]))
        places = [offset + number * strides["expert"] for number in numbers]
    return [
        (number, RowView(match.name, dtype, rows, sizes["column"], place, step, strides["column"]))
        for number, place in zip(numbers, places, strict=True)
    ]


def _count(settings: dict[str, Any], keys: ConfigKeys, where: str) -> int:
    names = [keys] if isinstance(keys, str) else keys
    value = next((settings[name] for name in names if settings.get(name) is not None), None)
    if type(value) is not int or value < 1:
        raise UnsupportedModelError(
            f"{where}: config.json has {' and '.join(names)} {value!r}; expected a whole number "
            "from 1"
        )
    return value
