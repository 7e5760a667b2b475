"""AurA: neurons are turned down as far as they tell texts of one label from the other."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from modelsurgery.model.activations.texts import TextBatch, TokenizedText
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Intervention, matrix_of, overwritten
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths, mlp_layers
from modelsurgery.rivals.states import watch_modules


class Aura(Method):
    """Each output of the MLPs' linear layers, scaled by 1 - 2 (AUROC - 1/2) where that is over 1/2.

    A neuron is a classifier of the label by its largest output over the tokens of a text. Strength
    1 is the paper's; below it, the factor lies between that and 1.
    """

    name = "aura"
    title = "AurA"
    source = (
        "Suau et al., Whispering Experts: Neural Interventions for Toxicity Mitigation in Language "
        "Models, ICML 2024, arXiv 2407.12824"
    )
    settings = "all linear layers of MLPs, maximum over the tokens of a text; no parameter"
    note = "The first token of a text never counts: many models keep a huge state there."

    def fit(self, given: Materials) -> Intervention:
        """Read both labels."""
        model = given.model
        paths = [path for block in block_paths(model) for path in mlp_layers(model, block)]
        shows, opposite = (
            largest_outputs(model, given.read(texts), paths)
            for texts in (given.shows, given.opposite)
        )
        loss = {path: damping(shows[path], opposite[path]) for path in paths}
        return Dampened(loss, first=0.5, most=1.0)


@dataclass(frozen=True)
class Dampened(Intervention):
    """Outputs of linear layers, scaled in their weights and biases."""

    loss: Mapping[str, torch.Tensor]  # share taken off each output at strength 1, [out] by path

    @property
    def touched(self) -> int:
        """One factor a neuron that is turned down."""
        return sum(int((one > 0).sum()) for one in self.loss.values())

    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Scale them."""

        def scaled() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for path, loss in self.loss.items():
                module = model.model.get_submodule(path)
                factor = 1 - strength * loss.to(module.weight.device)
                matrix = matrix_of(module)
                yield matrix, matrix.float() * factor.unsqueeze(1)
                if module.bias is not None:
                    yield module.bias.data, module.bias.data.float() * factor

        return overwritten(scaled())


def largest_outputs(
    model: LanguageModel, texts: Sequence[TokenizedText], paths: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Largest output over the tokens of each text that count, [n, width] f32 on the CPU by path."""
    found: dict[str, list[torch.Tensor]] = {path: [] for path in paths}

    def look(batch: TextBatch, path: str, _: torch.Tensor, written: torch.Tensor) -> None:
        left_out = ~batch.predicted.unsqueeze(-1).to(written.device)
        largest = written.float().masked_fill(left_out, -torch.inf).amax(1)
        found[path].append(largest.cpu())

    watch_modules(model, texts, paths, look)
    return {path: torch.cat(parts) for path, parts in found.items()}


def damping(shows: torch.Tensor, opposite: torch.Tensor) -> torch.Tensor:
    """2 (AUROC - 1/2) of each neuron where it is positive, else 0, [width], of [n, width] each."""
    return (2 * auroc(shows, opposite) - 1).clamp(min=0)


def auroc(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """How often a positive is above a negative, equal ones counting half: [width] f32.

    Of [n, width] and [m, width].
    """
    ordered = negative.T.contiguous().sort(dim=1).values
    asked = positive.T.contiguous()
    below = torch.searchsorted(ordered, asked)
    not_above = torch.searchsorted(ordered, asked, right=True)
    return (below + not_above).float().mean(1) / (2 * negative.shape[0])
