"""Whether an edit goes up the loss of texts: its rise as the gradient predicts it, and as measured.

Row i of a gate matrix gets cᵢ·v. To first order that raises the mean loss per token by
Σᵢ cᵢ E[γᵢ (v·x)], with x the gate's input and γᵢ = ∂ℓ/∂gᵢ the gradient by its output: the inner
product of the edit and the gradient of the loss. The prediction is of the same texts as the
measurement, so at a small share of the edit's strength both must agree, and where they part at the
whole strength, the loss is no longer linear in the edit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modelsurgery.apply.in_memory import edited
from modelsurgery.checkpoint.layouts import Address
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit, RowUpdate, by_matrix
from modelsurgery.evaluation.language_modelling import sum_over_texts
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import GateSite, find_sites
from modelsurgery.model.activations.statistics import measure_gains
from modelsurgery.model.activations.texts import TokenizedText, tokenize_labeled
from modelsurgery.model.language_model import LanguageModel

SHARES = (0.25, 0.5, 1.0)  # of the edit's strength


@dataclass(frozen=True)
class RisePoint:
    """Rise of the loss at a share of the edit's strength, nats per token."""

    share: float
    predicted: float  # to first order
    measured: float


@dataclass(frozen=True)
class LossRise:
    """What an edit does to the loss of texts of a kind."""

    texts: str
    base: float  # mean loss per token of the base model, nats
    tokens: int  # that are predicted
    points: tuple[RisePoint, ...]  # shares of the edit's strength, weakest first, the whole last

    @property
    def is_finite(self) -> bool:
        """Whether all of its numbers are finite."""
        return all(math.isfinite(one) for point in self.points for one in vars(point).values())


def loss_rises(
    model: LanguageModel,
    edit: Edit,
    texts: Mapping[str, Sequence[LabeledText]],
    *,
    progress: Progress = silent,
) -> tuple[LossRise, ...]:
    """Predicted and measured rises of the loss, by kind of text.

    Kinds without a token to predict are left out. Edits that the base model has in memory are part
    of it; `progress` is told of texts read.
    """
    tokenized = {kind: tokenize_labeled(model, some) for kind, some in texts.items()}
    read = {kind: some for kind, some in tokenized.items() if _is_predicted(model, some)}
    if not read:
        return ()
    kinds = list(read.values())
    slopes = _slopes(model, edit, kinds, progress)
    base = _losses(model, kinds)
    changed = [_losses(model, kinds, edit.scaled(share)) for share in SHARES]
    return tuple(
        LossRise(
            kind,
            loss,
            tokens,
            tuple(
                RisePoint(share, share * slope, side[number][0] - loss)
                for share, side in zip(SHARES, changed, strict=True)
            ),
        )
        for number, (kind, (loss, tokens), slope) in enumerate(zip(read, base, slopes, strict=True))
    )


def _is_predicted(model: LanguageModel, texts: Sequence[TokenizedText]) -> bool:
    return any(min(len(text.ids), model.context_length) > text.start for text in texts)


def _losses(
    model: LanguageModel, kinds: Sequence[Sequence[TokenizedText]], *edits: Edit
) -> list[tuple[float, int]]:
    """Mean loss per token of each kind, and how many tokens."""
    found = []
    with edited(model.model, *edits):
        for some in kinds:
            sums = sum_over_texts(model, some, [()], max_tokens=None)
            found.append((float(sums.mean_losses[0]), int(sums.tokens.sum())))
    return found


def _slopes(
    model: LanguageModel,
    edit: Edit,
    kinds: Sequence[Sequence[TokenizedText]],
    progress: Progress,
) -> list[float]:
    """Slope of each kind's mean loss along the edit, nats per token for its whole strength."""
    updates = by_matrix(edit.updates)
    sites = tuple(
        site
        for site in find_sites(model.model, model.layout)
        if any(gate.address in updates for gate in site.gates)
    )
    unique = {site.name: _directions(site, updates) for site in sites}
    directions = {
        name: torch.from_numpy(np.stack([*some.values()])) for name, some in unique.items()
    }
    passes = Passes(model, progress=progress)
    gains = measure_gains(passes, sites, directions, [[some] for some in kinds])
    totals = np.zeros(len(kinds))
    for site in sites:
        places = {key: number for number, key in enumerate(unique[site.name])}
        found = gains.by_site[site.name][:, 0].cpu().numpy()  # [kinds, k, experts, rows]
        for expert, gate in enumerate(site.gates):
            for update in updates.get(gate.address, ()):
                of_rows = found[:, places[update.direction.tobytes()], expert][:, update.rows]
                totals += of_rows @ update.coefficients.astype(np.float64)
    tokens = gains.tokens[:, 0].cpu().numpy()
    return [float(one) for one in totals / tokens]


def _directions(
    site: GateSite, updates: Mapping[Address, Sequence[RowUpdate]]
) -> dict[bytes, np.ndarray]:
    """The different directions [d] of a site's updates, by their bytes."""
    return {
        update.direction.tobytes(): update.direction
        for gate in site.gates
        for update in updates.get(gate.address, ())
    }
