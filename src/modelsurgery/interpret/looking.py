"""Looking inside: one function that gathers all that is to be seen of an edit, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelsurgery.apply.in_memory import edited
from modelsurgery.checkpoint.layouts import Address
from modelsurgery.data.behaviors import Behavior
from modelsurgery.edit.changes import TensorChange
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import Probe
from modelsurgery.edit.region import RowScores
from modelsurgery.errors import NothingChangedError, UnsupportedModelError
from modelsurgery.files.progress import Progress, silent
from modelsurgery.interpret.activity import Activity, Neuron, watch
from modelsurgery.interpret.distributions import (
    Chosen,
    Cosines,
    LayerRows,
    cosine_histogram,
    rows_by_layer,
)
from modelsurgery.interpret.lens import Ends
from modelsurgery.interpret.loss_rise import LossRise, loss_rises
from modelsurgery.interpret.neurons import (
    UNREAD,
    NeuronView,
    Reading,
    most_opposed,
    read_neurons,
    view_neurons,
)
from modelsurgery.interpret.reactions import (
    SHOWS,
    Activation,
    ProbeLoss,
    Roc,
    Similarity,
    activations_of,
    labeled_by_kind,
    mean_outputs_of,
    probe_losses,
    probe_roc,
    similarity_of,
    texts_by_kind,
)
from modelsurgery.model.activations.neurons import Neurons, find_neurons
from modelsurgery.model.chat_template import Text
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.stacking import score_model_rows

MOST_NEURONS = 12
DIGITS = 6  # of a number that are kept: more than a figure shows
NO_TEXTS = "no texts were given; `surgery run` measures it on held-out texts"
NO_PROBE = "no probe was given"
NO_DOWN = "in experts, or in an MLP whose down projection cannot be identified by its shape"
NO_LOSS = "the labeled texts have no token to predict, or their loss is not finite"
NOT_FINITE = "the hidden states of the edited model are not finite"
# Names of parts, as in `Inside` and `NeuronView`.
OF_BOTH_MODELS = ("activations", "probe_loss", "loss_rise", "mean_output")
OF_PROBES = ("similarity", "roc", "probe_loss")
OF_TEXTS = ("activations", "similarity", "roc", "probe_loss", "loss_rise", "mean_output")
OF_TOKENS = ("tokens", "gate_reads", "gate_reads_edited", "writes")


@dataclass(frozen=True)
class Tokens:
    """What the direction says."""

    direction: Ends  # its tokens at both ends
    layer_note: str  # where it comes from, and how it is read


@dataclass(frozen=True)
class Inside:
    """What is to be seen of an edit inside a model; None for a part that could not be had."""

    rows_by_layer: tuple[LayerRows, ...]
    cosines: Cosines
    activations: tuple[Activation, ...] | None
    similarity: tuple[Similarity, ...] | None
    roc: Roc | None
    probe_loss: tuple[ProbeLoss, ...] | None
    loss_rise: tuple[LossRise, ...] | None  # on labeled texts
    tokens: Tokens | None
    neurons: tuple[NeuronView, ...]  # the chosen ones with the most negative cosines, those first
    missing: dict[str, str]  # why a part, or a share of it, could not be had, by its name

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, numbers to six digits."""
        return dict(plain(asdict(self)))


def look_inside(
    model: LanguageModel,
    edit: Edit,
    probe: Probe | None = None,
    behavior: Behavior | None = None,
    *,
    direction: ArrayLike,
    direction_note: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Inside:
    """All that is to be seen of an edit inside its model, from a few forward passes.

    At most 64 held-out texts of each kind are read, and 12 neurons shown.

    Args:
        model: the base model; edits that it has in memory are part of it.
        edit: the edit.
        probe: gives ROC, losses and the layer of hidden states; None leaves them out.
        behavior: gives the held-out texts; None leaves out all that needs texts.
        direction: [d], goes with the behavior.
        direction_note: where it comes from; None says the layer of the probe.
        seed: of the random rows that the chosen ones are compared with.
        progress: is told what is going on.

    Raises:
        EditMismatchError: the edit is for another model.
        RecipeError: the direction is for another model.
        NothingChangedError: the edit changes no row.
    """
    direction = np.asarray(direction, dtype=np.float32)
    scores = score_model_rows(model, direction[None], progress=progress)
    texts = {} if behavior is None else texts_by_kind(model, behavior)
    layer = (None if probe is None else probe.layer) or model.layer_count
    with edited(model.model, edit) as changes:
        watched = _watched(model, layer, scores, changes)
        after = watched.read(texts, progress)
    before = watched.read(texts, progress)
    is_finite = all(one.is_finite for one in after.values())
    has_both = bool(texts) and is_finite  # texts that base and edited model can be compared on
    read_by = probe if texts else None
    rises = _loss_rises(model, edit, behavior, progress) if is_finite else None
    said, readings, no_norm = _reading(model, direction, watched, changes)
    outputs = mean_outputs_of(before[SHOWS], after[SHOWS]) if has_both else {}
    return Inside(
        rows_by_layer=rows_by_layer(watched.chosen, model.gates),
        cosines=cosine_histogram(scores, watched.chosen, seed),
        activations=activations_of(before, after, watched.counted) if has_both else None,
        similarity=None if read_by is None else similarity_of(before, direction),
        roc=None if read_by is None else probe_roc(before, read_by),
        probe_loss=probe_losses(before, after, read_by) if read_by and has_both else None,
        loss_rise=rises,
        tokens=None if said is None else Tokens(said, direction_note or layer_note(model, probe)),
        neurons=view_neurons(watched.shown, scores, readings, outputs),
        missing={
            **_missing(bool(texts), probe, is_finite, rises),
            **watched.missing(bool(texts)),
            **no_norm,
        },
    )


def _loss_rises(
    model: LanguageModel, edit: Edit, behavior: Behavior | None, progress: Progress
) -> tuple[LossRise, ...] | None:
    """What the edit does to the loss of labeled texts; None where that is no number."""
    if behavior is None:
        return None
    found = loss_rises(model, edit, labeled_by_kind(behavior), progress=progress)
    return found if found and all(one.is_finite for one in found) else None


def _missing(
    has_texts: bool, probe: Probe | None, is_finite: bool, rises: tuple[LossRise, ...] | None
) -> dict[str, str]:
    """Why parts that need texts could not be had."""
    if not has_texts:
        return dict.fromkeys(OF_TEXTS, NO_TEXTS)
    return {
        **({} if rises else {"loss_rise": NO_LOSS}),
        **({} if probe else dict.fromkeys(OF_PROBES, NO_PROBE)),
        **({} if is_finite else dict.fromkeys(OF_BOTH_MODELS, NOT_FINITE)),
    }


def layer_note(model: LanguageModel, probe: Probe | None) -> str:
    """Where a probe's direction comes from, and how it is turned into tokens."""
    layer, last = None if probe is None else probe.layer, model.layer_count
    if layer is None:
        return "a direction of an unknown layer, read as a state before the final norm"
    if layer == last:
        return (
            f"the direction of layer {last} of {last}, taken after the final norm; it passes "
            "through the norm as the rows do"
        )
    return f"the direction of layer {layer} of {last}, read as a state before the final norm"


def plain(value: Any) -> Any:
    """Plain values for JSON: tuples as lists, numbers to six digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Watched:
    """What is watched while a model reads."""

    model: LanguageModel
    layer: int  # whose hidden states are taken
    found: Mapping[Address, Neurons]  # where the neurons of the edited matrices are
    chosen: Chosen  # the edited rows
    shown: Sequence[Neuron]  # the neurons whose activations are measured

    @property
    def counted(self) -> int:
        """How many of the chosen neurons see every token."""
        return sum(
            len(rows)
            for address, rows in self.chosen.items()
            if self.found[address].projection is not None
        )

    def read(self, texts: Mapping[str, list[Text]], progress: Progress) -> dict[str, Activity]:
        """What is seen on each kind of text."""
        seen = {}
        with progress("looking inside", len(texts)) as advance:
            for kind, some in texts.items():
                seen[kind] = watch(
                    self.model,
                    some,
                    layer=self.layer,
                    found=self.found,
                    chosen=self.chosen,
                    measured=self.shown if kind == SHOWS else (),
                )
                advance(1)
        return seen

    def missing(self, has_texts: bool) -> dict[str, str]:
        """What cannot be had of some of the neurons, and why."""
        total = sum(map(len, self.chosen.values()))
        lost = {
            "activations": (total - self.counted, total, "in experts, which don't see every token"),
            "mean_output": (self._without("down"), len(self.shown), NO_DOWN),
            "writes": (self._without("writes"), len(self.shown), NO_DOWN),
        }
        return {
            name: f"{count} of {whole} neurons are {why}"
            for name, (count, whole, why) in lost.items()
            if count and (has_texts or name == "writes")
        }

    def _without(self, part: str) -> int:
        return sum(getattr(self.found[address], part) is None for address, _ in self.shown)


def _watched(
    model: LanguageModel, layer: int, scores: RowScores, changes: Sequence[TensorChange]
) -> _Watched:
    chosen = {change.address: change.rows for change in changes if len(change.rows)}
    if not chosen:
        raise NothingChangedError("the edit changes no row; make one with a larger strength")
    shown = most_opposed(scores, chosen, MOST_NEURONS)
    return _Watched(model, layer, find_neurons(model, chosen), chosen, shown)


def _reading(
    model: LanguageModel,
    direction: NDArray[np.float32],
    watched: _Watched,
    changes: Sequence[TensorChange],
) -> tuple[Ends | None, list[Reading], dict[str, str]]:
    """What the direction and each neuron say, and why that can't be told."""
    try:
        return *read_neurons(model, direction, watched.shown, changes, watched.found), {}
    except UnsupportedModelError as error:
        nothing = [UNREAD] * len(watched.shown)
        return None, nothing, dict.fromkeys(OF_TOKENS, str(error))
