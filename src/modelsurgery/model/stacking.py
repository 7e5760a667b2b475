"""A model with edits in memory as the base of the next surgery.

Probes, scores of rows and measurements are then those of the edited model, while the next edit
belongs to the same checkpoint: on disk, in memory and as an adapter all edits are summed and
rounded once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modelsurgery.apply.in_memory import edited
from modelsurgery.checkpoint.rows import Weights, widened
from modelsurgery.edit.changes import tensor_changes
from modelsurgery.edit.edit import Edit, rows_reader
from modelsurgery.edit.region import RowScores, score_rows
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel


@contextmanager
def stacked(model: LanguageModel, edits: Sequence[Edit]) -> Iterator[LanguageModel]:
    """A model whose weights have edits for as long as the block lasts; caches tell it apart.

    Raises:
        EditMismatchError: the model has not the rows that an edit was made for.
    """
    if not edits:
        yield model
        return
    contents = [edit.content_sha256 for edit in edits]
    with edited(model.model, *edits):
        yield replace(
            model,
            edits=(*model.edits, *edits),
            _fingerprint=[sha256_json([model.fingerprint(), contents])],
        )


def score_model_rows(
    model: LanguageModel, directions: NDArray[np.float32], *, progress: Progress = silent
) -> RowScores:
    """`score_rows` for directions [m, d], the edits that the model has in memory included."""
    scores = score_rows(model.checkpoint, model.gates, directions, progress=progress)
    if not model.edits:
        return scores
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = {gate.address: one for gate, one in zip(scores.gates, scores.cosines, strict=True)}
    total = scores.mean_row_norm * scores.row_count
    with Weights(model.checkpoint) as weights:
        read, is_dequantized = rows_reader(weights, model.gates), model.checkpoint.is_dequantized
        for change in tensor_changes(model.edits, read, is_dequantized=is_dequantized):
            before, after = widened(change.before), widened(change.after)
            norms = np.linalg.norm(after, axis=1)
            total += float(norms.sum() - np.linalg.norm(before, axis=1).sum())
            products = units @ after.T
            cosines[change.address][:, change.rows] = np.divide(
                products, norms, out=np.zeros_like(products), where=norms > 0
            )
    return replace(scores, mean_row_norm=total / scores.row_count)
