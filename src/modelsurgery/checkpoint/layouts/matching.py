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
    texts = config.get("text_config")
    settings = {**layout.defaults, **(texts if isinstance(texts, dict) else config)}
    return _Search(layout, tensors, settings, where).gates()


@dataclass(frozen=True)
class _Search:
    """A search for the matrices of a layout, with what config.json says of the language model."""

    layout: GateLayout
    tensors: Mapping[str, Shaped]
    settings: dict[str, Any]
    where: str

    def gates(self) -> tuple[GateMatrix, ...]:
        """The matrices of all blocks, in order."""
        layout, matches = self.layout, self._matches()
        prefixes = {match.prefix for match in matches}
        if len(prefixes) != 1:
            raise self._refused(
                f"looked for {' or '.join(self._wanted())} and found "
                f"{'none of them' if not prefixes else f'{len(prefixes)} sets of them'}; "
                f"it has {described_names(self.tensors)}; describe it with --layout"
            )
        count = self._count(layout.blocks_count)
        further = self.settings.get(layout.extra_blocks) if layout.extra_blocks else 0
        further = further if type(further) is int else 0
        by_block: dict[int, list[_Match]] = {}
        for match in matches:
            by_block.setdefault(match.block, []).append(match)
        beyond = [block for block in by_block if block >= count]
        # The number found bounds the work: a hostile configuration may claim 10^15 blocks.
        if len(by_block) - len(beyond) != count or len(beyond) > further:
            raise self._refused(
                f"found gate matrices of {len(by_block)} blocks, expected {count} as "
                f"config.json says; it has {described_names(self.tensors)}"
            )
        found = [gate for block in range(count) for gate in self._block_gates(by_block[block])]
        return tuple(sorted(found, key=lambda gate: gate.address))

    def _matches(self) -> list[_Match]:
        found = {}
        for prefix in self.layout.prefixes:
            head, tail = (re.escape(part) for part in prefix.split("{block}"))
            for entry, number, spelling in self._spellings():
                name_pattern = re.escape(spelling.name).replace(r"\{expert\}", NUMBER)
                pattern = re.compile(head + NUMBER + tail + name_pattern)
                for name in self.tensors:
                    if match := pattern.fullmatch(name):
                        block, *expert = (int(group) for group in match.groups())
                        found[name, entry.branch, number] = _Match(
                            name, prefix, block, entry.branch, number, *(expert or [-1])
                        )
        return list(found.values())

    def _spellings(self) -> Iterator[tuple[MatrixEntry, int, Spelling]]:
        for entries in self.layout.blocks.values():
            for entry in entries:
                for number, spelling in enumerate(entry.spellings):
                    yield entry, number, spelling

    def _wanted(self) -> list[str]:
        first = self.layout.prefixes[0].replace("{block}", "*")
        names = {first + spelling.name for _, _, spelling in self._spellings()}
        return sorted(name.replace("{expert}", "*") for name in names)

    def _block_gates(self, matches: list[_Match]) -> list[GateMatrix]:
        """Matrices of one block, which must be all of exactly one form and nothing else."""
        available = {match.name for match in matches}
        hidden_size = self._count(self.layout.hidden_size)
        for form in self.layout.blocks.values():
            wanted = [
                entry for entry in form if entry.when is None or self.settings.get(entry.when)
            ]
            taken: list[GateMatrix] = []
            for entry in wanted:
                taken += self._entry_gates(entry, matches, hidden_size)
            found = {gate.tensor for gate in taken}, {gate.branch for gate in taken}
            if wanted and found == (available, {entry.branch for entry in wanted}):
                return taken
        raise self._refused(
            f"block {matches[0].block} has {described_names(available)}, which is "
            f"not a complete set of gate matrices; expected {' or '.join(self._wanted())}, with "
            "every expert and shared expert that config.json names"
        )

    def _entry_gates(
        self, entry: MatrixEntry, matches: list[_Match], hidden_size: int
    ) -> list[GateMatrix]:
        """Matrices of one entry of a block: none if they are not all there in one spelling."""
        experts = None if entry.experts is None else self._count(entry.experts)
        for number, spelling in enumerate(entry.spellings):
            mine = [one for one in matches if (one.branch, one.spelling) == (entry.branch, number)]
            is_last = number == len(entry.spellings) - 1
            # One name may mean two arrangements of the axes: the width tells them apart.
            if not mine or not (is_last or self._fits(mine[0], spelling, hidden_size)):
                continue
            if spelling.is_per_expert:
                if len(mine) != experts or {one.expert for one in mine} != set(range(len(mine))):
                    return []
            elif len(mine) != 1:
                return []
            return [
                gate for one in mine for gate in self._gates(one, spelling, experts, hidden_size)
            ]
        return []

    def _fits(self, match: _Match, spelling: Spelling, hidden_size: int) -> bool:
        shape, axes = self.tensors[match.name].shape, spelling.axes.split()
        return len(axes) == len(shape) and shape[axes.index("column")] == hidden_size

    def _gates(
        self, match: _Match, spelling: Spelling, experts: int | None, hidden_size: int
    ) -> Iterator[GateMatrix]:
        """The matrices inside one stored tensor."""
        shape, dtype = self.tensors[match.name]
        axes = spelling.axes.split()
        sizes = dict(zip(axes, shape, strict=False))
        parts = 2 if spelling.part != "all" else 1
        if (
            not self._fits(match, spelling, hidden_size)
            or sizes["row"] % parts
            or 0 in shape
            or (spelling.is_fused and sizes["expert"] != experts)
        ):
            raise self._refused(
                f"{match.name} has shape {list(shape)}; expected [{', '.join(axes)}] with "
                f"column = {hidden_size}" + (f", expert = {experts}" if spelling.is_fused else "")
            )
        if dtype not in ROW_DTYPES:
            raise self._refused(
                f"{match.name} is stored as {dtype}; expected {', '.join(ROW_DTYPES)} (edit the "
                "full-precision checkpoint, and either run this model with an adapter of the edit, "
                "`surgery export`, or requantize it to one of these types)"
            )
        values = values_in(dtype)
        if values > 1 and (axes[-1] != "column" or sizes["column"] % values):
            raise self._refused(
                f"{match.name} is stored as {dtype} across its rows; expected rows of whole blocks"
            )
        sizes["column"] //= values
        strides, stride = {}, 1
        for axis in reversed(axes):
            strides[axis] = stride
            stride *= sizes[axis]
        rows = sizes["row"] // parts
        first = {"second half": rows, "odd": 1}.get(spelling.part, 0) * strides["row"]
        step = strides["row"] * (2 if spelling.part in {"even", "odd"} else 1)
        for number in range(sizes["expert"]) if spelling.is_fused else [match.expert]:
            offset = first + number * strides.get("expert", 0)
            view = RowView(
                match.name, dtype, rows, sizes["column"], offset, step, strides["column"]
            )
            yield GateMatrix(view, match.block, match.branch, number)

    def _count(self, keys: ConfigKeys) -> int:
        names = [keys] if isinstance(keys, str) else keys
        found = (self.settings[name] for name in names if self.settings.get(name) is not None)
        value = next(found, None)
        if type(value) is not int or value < 1:
            raise self._refused(
                f"config.json has {' and '.join(names)} {value!r}; expected a whole number from 1"
            )
        return value

    def _refused(self, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.where}: {reason}")


def described_names(tensors: Iterable[str]) -> str:
    """Names of tensors in one line, numbers replaced by `*` and counted; MLPs first."""
    patterns = name_patterns(tensors)
    ordered = sorted(patterns, key=lambda name: (not re.search("mlp|feed|expert", name), name))
    shown = [f"{name} ({patterns[name]})" for name in ordered[:MOST_NAMES_SHOWN]]
    more = len(ordered) - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown) or "no tensors"


def name_patterns(names: Iterable[str]) -> Counter[str]:
    """Names with their numbers replaced by `*`, counted."""
    return Counter(re.sub(r"\d+", "*", name) for name in names)
