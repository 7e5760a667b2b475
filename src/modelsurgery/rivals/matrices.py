"""The natural gradient on other matrices than the gates, in memory only."""

from dataclasses import replace

import numpy as np
import torch

from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.checkpoint.rows import RowView
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.model.activations.sites import GateSite
from modelsurgery.model.activations.texts import texts_up_to, tokenize_plain
from modelsurgery.rivals.adapters import Factors
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.method import Materials
from modelsurgery.rivals.places import block_paths, linear_layers
from modelsurgery.rules.contrast import contrast_of
from modelsurgery.rules.natural_gradient import KEPT_TOKENS, ROW_DAMPING, solve_rows
from modelsurgery.rules.proposing import fit_natural_gradient

FIRST = 0.05  # where the search for a strength begins: norms of rows added, over those of all


def natural_gradient_of(given: Materials, matrix: str) -> Intervention:
    """The rule on the projection `matrix` of each block: gate, up, down, q, k, v or o.

    The same share of all rows of these matrices as of the gates by default, with the same damping;
    what neutral text loses to first order is not counted.

    Raises:
        UnsupportedModelError: the blocks have no linear layer of that name.
    """
    model = given.model
    sites = [_site(given, block, f"{matrix}_proj", n) for n, block in enumerate(block_paths(model))]
    contrast = contrast_of((*given.shows, *given.opposite), sign=given.sign)
    neutral = texts_up_to(tokenize_plain(model, given.neutral)[::-1], KEPT_TOKENS)
    fitted = fit_natural_gradient(given.passes, [contrast], neutral, seed=given.seed, sites=sites)
    slopes = fitted.slopes
    added = ROW_DAMPING * float(np.mean([one.mean_price for one in slopes]))
    solved = [solve_rows(one.whole, one, added)[:, 0] for one in slopes]  # [k, rows] each
    scores = [(c * one.whole[:, 0]).sum(0) for c, one in zip(solved, slopes, strict=True)]
    every = np.concatenate(scores)
    least = np.sort(every)[-max(1, round(PAPER_ROWS * len(every)))]
    found = {}
    for site, coefficients, score in zip(sites, solved, scores, strict=True):
        left = torch.from_numpy(np.where(score >= least, coefficients, 0.0).T.copy()).float()
        found[site.name.removesuffix(".weight")] = (left, fitted.directions[site.name].float())
    return _unit(Factors(found), given)


def _unit(factors: Factors, given: Materials) -> Intervention:
    """Scaled so that strength 1 adds to chosen rows, on average, vectors as long as all rows."""
    total, rows, norms, count = 0.0, 0, 0.0, 0
    for path, (left, right) in factors.by_path.items():
        weight = given.model.model.get_submodule(path).weight
        added = left[left.abs().sum(1) > 0] @ right
        total, rows = total + float(added.square().sum()), rows + len(added)
        norms, count = norms + float(weight.float().norm(dim=1).sum()), count + len(weight)
    scale = norms / count / (total / rows) ** 0.5
    scaled = {path: (scale * left, right) for path, (left, right) in factors.by_path.items()}
    width = next(iter(scaled.values()))[1].shape[1]
    return replace(Factors(scaled).intervention(), touched=rows * width, first=FIRST)


def _site(given: Materials, block: str, name: str, number: int) -> GateSite:
    """A projection of a block, as the statistics of activations take it."""
    model = given.model
    paths = [one for one in linear_layers(model, block) if one.rpartition(".")[2] == name]
    if len(paths) != 1:
        raise UnsupportedModelError(
            f"{block}: {len(paths)} linear layers are called {name}; expected one. Leave this "
            "ablation out with --method"
        )
    module = model.model.get_submodule(paths[0])
    rows, columns = module.weight.shape
    view = RowView(f"{paths[0]}.weight", "F32", rows, columns, 0, columns, 1)
    gate = GateMatrix(view, number)
    return GateSite(view.tensor, module, (gate,), torch.arange(rows))
