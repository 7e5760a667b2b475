"""The behavior region: the gate rows that point away from a direction.

The region is the K gate rows with the most negative cosine to the direction, chosen over all
blocks together: the neurons that stay silent while the behavior happens (paper, section 3.2).
Reads blocks of rows, a matrix for each core at a time; loads no model.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.checkpoint.rows import ROW_DTYPES, Rows, Weights, widened
from modelsurgery.errors import CheckpointError, RecipeError
from modelsurgery.files.progress import Progress, silent

PAPER_ROWS = 16_384 / 352_256  # 4.65 % of LLaMA2-7B's gate rows
# Elements scored at a time: some MB, so that a block stays in the cache and Python's share of the
# work is small. A transposed matrix is read in pieces of lines, which should not be too short.
BLOCK = 1 << 21
TRANSPOSED_BLOCK = 1 << 23
Selection = Literal["opposed", "aligned", "random"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


@dataclass(frozen=True)
class RowScores:
    """Cosines of all gate rows of a checkpoint with one or several directions.

    Attributes:
        gates: the G gate matrices, in block order.
        cosines: one array [m directions, rows] float32 per gate matrix.
        mean_row_norm: mean L2 norm of all gate rows, the unit of strength.

    Example:
        >>> score_rows(checkpoint, gates, direction[None]).row_count
        2560
    """

    gates: tuple[GateMatrix, ...]
    cosines: tuple[NDArray[np.float32], ...]
    mean_row_norm: float

    @property
    def row_count(self) -> int:
        """Number of gate rows in the whole model."""
        return sum(gate.rows for gate in self.gates)


@dataclass(frozen=True)
class Region:
    """Gate rows chosen for an edit.

    Attributes:
        gates: matrices with at least one chosen row, in block order.
        rows: chosen row numbers of each matrix, from 0, ascending, int64 [k].
        scores: scores of the chosen rows of each matrix, [k]: cosines, or the scores of a rule.
        candidate_rows: number of gate rows in the whole model.
        mean_row_norm: mean L2 norm of all gate rows, the unit of strength.

    Example:
        >>> select_region(score_rows(checkpoint, gates, direction[None]), 0.05).row_count
        128
    """

    gates: tuple[GateMatrix, ...]
    rows: tuple[NDArray[np.int64], ...]
    scores: tuple[NDArray[np.floating], ...]
    candidate_rows: int
    mean_row_norm: float

    @property
    def row_count(self) -> int:
        """Number of chosen rows."""
        return sum(len(rows) for rows in self.rows)


def score_rows(
    checkpoint: Checkpoint,
    gates: Sequence[GateMatrix],
    directions: ArrayLike,
    *,
    progress: Progress = silent,
) -> RowScores:
    """Compute the cosine of every gate row with each direction, in one pass over the weights.

    Args:
        checkpoint: the model.
        gates: its gate matrices, from `find_gate_matrices`.
        directions: [m, d] float32.
        progress: receives the number of matrices read.

    Returns:
        The cosines.

    Raises:
        RecipeError: a direction is zero, or its length is not that of a row.
        CheckpointError: a row has NaN or infinity.

    Example:
        >>> scores = score_rows(checkpoint, find_gate_matrices(checkpoint), direction[None])
        >>> scores.cosines[0].shape
        (1, 640)
    """
    directions = np.asarray(directions, dtype=np.float32)
    norms = np.linalg.norm(directions, axis=1)
    for gate in gates:
        if gate.hidden_size != directions.shape[1]:
            raise RecipeError(
                f"the direction has {directions.shape[1]} values, rows of "
                f"{gate.tensor} have {gate.hidden_size}; the probe was made for "
                "another model"
            )
    if not (norms > 0).all():
        raise RecipeError("the direction is zero; the texts of both labels have the same features")
    units = directions / norms[:, None]
    cosines: list[NDArray[np.float32]] = []
    norm_sum = 0.0
    # One BLAS thread for each of ours: a block's sums do not depend on how many cores there are.
    with (
        progress("gate rows", len(gates)) as advance,
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for found, total in pool.map(lambda gate: _score_matrix(checkpoint, gate, units), gates):
            cosines.append(found)
            norm_sum += total
            advance(1)
    count = sum(gate.rows for gate in gates)
    return RowScores(tuple(gates), tuple(cosines), norm_sum / count)


def _score_matrix(
    checkpoint: Checkpoint, gate: GateMatrix, units: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """Cosines [m, rows] of one matrix with unit directions [m, d], and the sum of its norms."""
    cosines = np.empty((len(units), gate.rows), dtype=np.float32)
    norm_sum = 0.0
    count = max(1, (TRANSPOSED_BLOCK if gate.view.is_transposed else BLOCK) // gate.hidden_size)
    # The same memory for all blocks: fresh memory costs more than what is done with it.
    memory = np.empty((count, gate.view.columns), dtype=ROW_DTYPES[gate.dtype])
    products = _Products(units, memory)
    with Weights(checkpoint) as weights:
        for start in range(0, gate.rows, count):
            block = slice(start, min(start + count, gate.rows))
            rows = weights.read(gate.view, np.arange(block.start, block.stop), out=memory)
            dots, squares = products(rows)
            norms = np.sqrt(squares)
            if not np.isfinite(norms).all():
                wide = widened(rows)
                finite = np.isfinite(wide).all(axis=1)
                if not finite.all():
                    raise CheckpointError(
                        f"{checkpoint.place}: row {start + int(np.argmin(finite))} of "
                        f"{gate.tensor} holds NaN or infinity; the weights are damaged, fetch "
                        "them again"
                    )
                norms = np.linalg.norm(wide.astype(np.float64), axis=1).astype(np.float32)
            norm_sum += float(norms.sum(dtype=np.float64))
            cosines[:, block] = dots.T / np.maximum(norms, np.finfo(np.float32).tiny)
    return cosines, norm_sum


class _Products:
    """Products of rows with unit directions, and of rows with themselves, in f32.

    Two bf16 values are one 32-bit word: a shift gives the first as f32, a mask the second. That is
    half the work of widening rows as a whole, and the halves of a block stay in the cache.
    """

    def __init__(self, units: NDArray[np.float32], memory: Rows) -> None:
        self._units = np.ascontiguousarray(units.T)
        self._in_pairs = memory.dtype == ROW_DTYPES["BF16"] and memory.shape[1] % 2 == 0
        width = memory.shape[1] // 2 if self._in_pairs else units.shape[1]
        self._wide = np.empty((len(memory), width), dtype=np.float32)
        self._halves = [np.ascontiguousarray(self._units[side::2]) for side in (0, 1)]

    def __call__(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Products [k, m] and squared norms [k] of rows [k, d]."""
        wide = self._wide[: len(rows)]
        if not self._in_pairs:
            widened(rows, out=wide)
            return wide @ self._units, np.vecdot(wide, wide)
        words, bits = rows.view(np.uint32), wide.view(np.uint32)
        np.left_shift(words, 16, out=bits)
        dots, squares = wide @ self._halves[0], np.vecdot(wide, wide)
        np.bitwise_and(words, 0xFFFF0000, out=bits)
        dots += wide @ self._halves[1]
        squares += np.vecdot(wide, wide)
        return dots, squares


def select_region(
    scores: RowScores,
    rows: float | int = PAPER_ROWS,
    *,
    direction_index: int = 0,
    layers: tuple[int, int] | None = None,
    selection: Selection = "opposed",
    per_layer: bool = False,
    seed: int = 0,
) -> Region:
    """Choose gate rows by their cosine with a direction.

    Ties are broken by matrix and row, so the choice is the same on every machine.

    Args:
        scores: cosines from `score_rows`.
        rows: share of all gate rows (float, 0 < rows <= 1), or their number (int).
        direction_index: index of the direction in `scores`.
        layers: first and last layer to choose from, 1..L, both included; all by default.
        selection: `opposed` takes the most negative cosines, as in the paper. `aligned` (the most
            positive) and `random` are control experiments.
        per_layer: take the same share of rows from every matrix, instead of the best rows overall.
        seed: seed of `random`.

    Returns:
        The chosen rows.

    Raises:
        RecipeError: there is no such number of rows or range of layers.

    Example:
        >>> region = select_region(scores, 0.05, layers=(2, 3))
        >>> {gate.block for gate in region.gates}
        {1, 2}
    """
    return select_rows(
        scores.gates,
        [one[direction_index] for one in scores.cosines],
        rows,
        mean_row_norm=scores.mean_row_norm,
        layers=layers,
        per_layer=per_layer,
        key_of=lambda cosines: _selection_key(cosines, selection, seed),
    )


def select_rows(
    gates: Sequence[GateMatrix],
    scores: Sequence[NDArray[np.floating]],
    rows: float | int,
    *,
    mean_row_norm: float,
    layers: tuple[int, int] | None = None,
    per_layer: bool = False,
    key_of: Callable[[NDArray[np.floating]], NDArray[np.floating]] = np.negative,
) -> Region:
    """Choose the K gate rows with the highest scores, whatever a rule scores them by.

    `scores` are [rows] of each matrix, and `key_of` gives what they are sorted by, smallest first.
    The other arguments are those of `select_region`.

    Raises:
        RecipeError: no such number of rows or window of layers.
    """
    layer_count = max(gate.block for gate in gates) + 1
    first, last = layers or (1, layer_count)
    if not 1 <= first <= last <= layer_count:
        raise RecipeError(f"layers {first}-{last}; expected a range within 1-{layer_count}")
    inside = [index for index, gate in enumerate(gates) if first <= gate.block + 1 <= last]
    total = sum(gate.rows for gate in gates)
    available = sum(gates[index].rows for index in inside)
    count = row_count(rows, total, available)
    values = np.concatenate([scores[index] for index in inside])
    key = key_of(values)
    ends = np.cumsum([gates[index].rows for index in inside])
    chosen = _smallest_of_each(key, count, ends) if per_layer else _smallest(key, count)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    used = [
        (index, part, end - gates[index].rows)
        for index, part, end in zip(inside, parts, ends, strict=True)
        if len(part)
    ]
    return Region(
        gates=tuple(gates[index] for index, _, _ in used),
        rows=tuple(part - start for _, part, start in used),
        scores=tuple(values[part] for _, part, _ in used),
        candidate_rows=total,
        mean_row_norm=mean_row_norm,
    )


def _smallest(key: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Places of the `count` smallest keys, ascending; of equal keys those that come first.

    Places stand for matrix and row in their order. No sort of all keys: a 70B has 2.3 million.
    """
    limit = np.partition(key, count - 1)[count - 1]
    below = np.flatnonzero(key < limit)
    equal = np.flatnonzero(key == limit)[: count - len(below)]
    return np.sort(np.concatenate([below, equal]))


def _smallest_of_each(
    key: NDArray[np.floating], count: int, ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places of the smallest keys of each part, `count` altogether, in proportion to its length."""
    starts = np.concatenate([[0], ends[:-1]])
    # Rounded so that the shares add up to the count whatever the lengths.
    upto = np.floor(count * ends / ends[-1] + 0.5).astype(np.int64)
    counts = np.diff(upto, prepend=0)
    parts = [
        start + _smallest(key[start:end], int(number))
        for start, end, number in zip(starts, ends, counts, strict=True)
        if number
    ]
    return np.concatenate(parts)


def row_count(rows: float | int, total: int, available: int) -> int:
    """How many rows a share of `total` (float) or a count (int) means.

    Raises:
        RecipeError: not a share in (0, 1], not a count of at least 1, or over `available`.
    """
    is_share = isinstance(rows, float)
    if is_share and not 0 < rows <= 1:
        raise RecipeError(
            f"rows {rows}; expected a share over 0 and at most 1.0, or a whole number of rows"
        )
    if not is_share and rows < 1:
        raise RecipeError(f"rows {rows}; expected at least 1")
    count = max(1, round(rows * total)) if is_share else int(rows)
    if count > available:
        raise RecipeError(
            f"rows {rows} means {count} rows, but the chosen layers have {available}; choose "
            "fewer rows or more layers"
        )
    return count


def _selection_key(
    cosine: NDArray[np.floating], selection: Selection, seed: int
) -> NDArray[np.floating]:
    """What rows are sorted by, smallest first."""
    if selection == "opposed":
        return cosine
    if selection == "aligned":
        return -cosine
    if selection == "random":
        return np.random.default_rng(seed).random(len(cosine))
    raise RecipeError(f"selection {selection!r}; expected one of {', '.join(SELECTIONS)}")
