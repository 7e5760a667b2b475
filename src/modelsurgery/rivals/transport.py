"""Linear-AcT: activations of one label are carried to where those of the other are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from modelsurgery.model.activations.texts import TokenizedText, text_batches
from modelsurgery.model.hidden_states import mean_over_tokens
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Hooked, Intervention, hooks_on
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths, late_norms

TEXTS = 128  # of each label at most; all of them are read in one pass
FLAT = 1e-12  # variance under which a coordinate says nothing


@dataclass(frozen=True)
class Transport:
    """x ← x + s · ((ω - 1) x + β), for each coordinate."""

    scale: torch.Tensor  # ω, [d] f32
    shift: torch.Tensor  # β, [d] f32

    @classmethod
    def between(cls, source: torch.Tensor, target: torch.Tensor) -> "Transport":
        """The affine map that is nearest to the optimal transport of samples, [n, d] each.

        In one dimension optimal transport pairs the samples by rank; ω and β are the least-squares
        line through these pairs.
        """
        first, second = (one.double().sort(dim=0).values for one in (source, target))
        means = first.mean(0), second.mean(0)
        centered, aims = first - means[0], second - means[1]
        spread = centered.square().sum(0)
        scale = torch.where(spread > FLAT, (centered * aims).sum(0) / spread.clamp(min=FLAT), 1.0)
        return cls(scale.float(), (means[1] - scale * means[0]).float())

    def __call__(self, hidden: torch.Tensor, strength: float) -> torch.Tensor:
        """Carry activations [..., d] a share of the way."""
        scale, shift = (one.to(hidden.device) for one in (self.scale, self.shift))
        return hidden + (strength * ((scale - 1) * hidden.float() + shift)).to(hidden)


class LinearTransport(Method):
    """Optimal transport of each coordinate from one label to the other, block after block.

    The map of a layer is fitted on what it gives when all maps before it are at work. Strength is
    the paper's λ: 1 carries the whole way.
    """

    name = "linear-act"
    title = "Linear-AcT"
    source = (
        "Rodriguez et al., Controlling Language and Diffusion Models by Transporting Activations, "
        "ICLR 2025, arXiv 2410.23054"
    )
    delivery = "hooks"
    settings = f"outputs of layer norms behind the attention, means over tokens, {TEXTS} texts"
    note = "All activations are carried, not those alone that lie in the range seen (Q∞)."

    def fit(self, given: Materials) -> Intervention:
        """Fit all maps in one pass."""
        model = given.model
        paths = [path for block in block_paths(model) for path in late_norms(model, block)]
        count = min(TEXTS, len(given.shows), len(given.opposite))
        shows, opposite = (given.read(texts[:count]) for texts in (given.shows, given.opposite))
        maps = fit_in_turn(model, shows, opposite, paths)
        touched = sum(2 * len(one.scale) for one in maps.values())
        return Hooked(maps, touched, first=0.5, most=1.0)


def fit_in_turn(
    model: LanguageModel,
    shows: Sequence[TokenizedText],
    opposite: Sequence[TokenizedText],
    paths: Sequence[str],
) -> dict[str, Transport]:
    """Maps by path of the module, each fitted with those before it at work.

    All texts are read at once: as soon as a module has run, its map is known, and it is applied
    before anything else runs.
    """
    maps: dict[str, Transport] = {}
    texts = [*shows, *opposite]
    (batch,) = text_batches(model, texts, max(map(len, (one.ids for one in texts))) * len(texts))
    is_shown = torch.tensor([row < len(shows) for row in batch.rows])

    def fit(path: str, _: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        pooled = mean_over_tokens(output, batch.predicted)
        source, target = pooled[is_shown], pooled[~is_shown]
        count = min(len(source), len(target))
        maps[path] = Transport.between(source[:count], target[:count])
        return maps[path](output, 1.0)

    hooks = {path: partial(fit, path) for path in paths}
    with hooks_on(model, hooks), torch.inference_mode():
        model.decoder(**batch.inputs, use_cache=False)
    return maps
