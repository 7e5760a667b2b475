"""The three rules behind one interface: from texts to what each gate row should get."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from modelsurgery.edit.probe import DirectionSource, Probe
from modelsurgery.model.activations.moments import Moment
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.responses import (
    measure_outputs,
    measure_responses,
    site_neurons,
)
from modelsurgery.model.activations.sites import GateSite, find_sites, mean_row_norm
from modelsurgery.model.activations.statistics import (
    Gains,
    measure_gains,
    measure_inputs,
    measure_moments,
    measure_prices,
)
from modelsurgery.model.activations.texts import TokenizedText, texts_up_to, tokenize_labeled
from modelsurgery.model.stacking import score_model_rows
from modelsurgery.rules.contrast import Contrast
from modelsurgery.rules.least_squares import SiteResponses
from modelsurgery.rules.natural_gradient import (
    KEPT_TOKENS,
    ROW_DAMPING,
    Array,
    Evidence,
    SiteSlopes,
    agreement_of_folds,
    priced,
    site_slopes,
    solve_rows,
    whitened_directions,
)
from modelsurgery.rules.proposal import RowProposal

FOLDS = 5
PRICED_TOKENS = 1000  # of neutral text whose gradients are squared: more change nothing


@dataclass(frozen=True)
class NaturalGradient:
    """What the natural-gradient rule measured on texts."""

    passes: Passes  # how texts are read, and by which model
    # What is to be pulled apart, one for each behavior, with their weights.
    contrasts: Sequence[Contrast]
    texts: Sequence[Sequence[Sequence[TokenizedText]]]  # of all kinds of all contrasts, in folds
    neutral: Sequence[TokenizedText]  # texts on which the model should stay as it is
    sites: tuple[GateSite, ...]  # its gate sites
    moments: Mapping[str, Moment]  # second moments of their inputs on neutral text, by name
    squares: Mapping[str, torch.Tensor]  # E[γ²] of their rows on neutral text, by name
    directions: dict[str, torch.Tensor]  # [k, d] of each site, by name
    gains: Gains  # how the losses of texts depend on each row along the directions

    def moved(self, passes: Passes) -> "NaturalGradient":
        """The same directions and prices, with the gains of a model that has an edit in memory."""
        gains = measure_gains(passes, self.sites, self.directions, self.texts)
        return replace(self, passes=passes, gains=gains)

    @cached_property
    def slopes(self) -> tuple[SiteSlopes, ...]:
        """Slopes of what is wanted of all behaviors, site by site."""
        return self._slopes(self._weights)

    @cached_property
    def alone(self) -> tuple[tuple[SiteSlopes, ...], ...]:
        """For each behavior, slopes of its own texts along its own directions, site by site."""
        found, start = [], 0
        for contrast in self.contrasts:
            own = slice(start, start + len(contrast.senses))
            weights = [
                kind.gain * (one is contrast) for one in self.contrasts for kind in one.kinds
            ]
            found.append(tuple(site.along(own) for site in self._slopes(weights)))
            start = own.stop
        return tuple(found)

    @property
    def _weights(self) -> list[float]:
        return [one.weight * kind.gain for one in self.contrasts for kind in one.kinds]

    def _slopes(self, weights: Sequence[float]) -> tuple[SiteSlopes, ...]:
        return tuple(
            site_slopes(
                self.gains, name, self.moments[name], self.squares[name], directions, weights
            )
            for name, directions in self.directions.items()
        )

    @cached_property
    def kept_slopes(self) -> tuple[Array, ...]:
        """Rise of the loss on neutral text, of each site [k, experts, rows]; read when asked for.

        A nat counts as much as one of all behaviors together, and less with few tokens: most of
        their slopes is noise.
        """
        found = measure_gains(self.passes, self.sites, self.directions, [[self.neutral]])
        tokens = float(found.tokens.sum())
        unit = sum(map(abs, self._weights)) / 2 * min(1.0, tokens / KEPT_TOKENS)
        sums = (found.by_site[site.name][0, 0].cpu().numpy() for site in self.sites)
        return tuple(unit * one / max(tokens, 1.0) for one in sums)

    def evidence(self) -> Evidence:
        """Whether the texts agree on what to change."""
        return agreement_of_folds(self.slopes)

    def evidence_by_behavior(self) -> tuple[Evidence, ...]:
        """Whether each behavior's texts agree, as if it were the only one."""
        return tuple(agreement_of_folds(slopes) for slopes in self.alone)

    def proposal(self, damping: float | None = None, *, kept: float = 0.0) -> RowProposal:
        """What each gate row should get.

        Args:
            damping: λ of rows; None takes the rule's own.
            kept: w, what a rise of the loss on neutral text counts for, against that of each
                behavior; negative for an edit that will be turned round, toward the behaviors.
        """
        share = ROW_DAMPING if damping is None else damping
        added = share * float(np.mean([site.mean_price for site in self.slopes]))
        lost: Sequence[Array | float] = self.kept_slopes if kept else [0.0] * len(self.sites)
        found = {}
        for site, known, of_neutral in zip(self.sites, self.slopes, lost, strict=True):
            net = known.whole - kept * of_neutral
            solved = solve_rows(net, known, added)
            parts = (solved * net, solved, solved * known.whole, priced(solved, known))
            for number, gate in enumerate(site.gates):
                found[gate.address] = site.name, *(part[:, number] for part in parts)
        model = self.passes.model
        names, scores, coefficients, gains, divergences = zip(
            *(found[gate.address] for gate in model.gates), strict=True
        )
        return RowProposal(
            "natural-gradient",
            model.gates,
            tuple(self.directions[name].numpy() for name in names),
            tuple(one.sum(0) for one in scores),
            coefficients,
            mean_row_norm(self.sites),
            gains,
            divergences,
            model.layout,
        )


def paper_proposal(
    passes: Passes, probe: Probe, direction_source: DirectionSource = "mean-difference"
) -> RowProposal:
    """The paper's rule: the same amount of the probe's direction on rows that point away from it.

    Rows are chosen by the cosine of their weights with the direction, the most negative first.
    """
    model = passes.model
    direction = probe.direction(direction_source)
    scored = score_model_rows(model, direction[None], progress=passes.progress)
    return RowProposal(
        "paper",
        scored.gates,
        tuple(direction[None] for _ in scored.gates),
        tuple(-cosines[0].astype(np.float64) for cosines in scored.cosines),
        tuple(np.ones((1, gate.rows)) for gate in scored.gates),
        scored.mean_row_norm,
        layout=model.layout,
    )


def fit_natural_gradient(
    passes: Passes,
    contrasts: Sequence[Contrast],
    neutral: Sequence[TokenizedText],
    *,
    seed: int = 0,
    sites: Sequence[GateSite] | None = None,
) -> NaturalGradient:
    """The natural-gradient rule, for one behavior or several at once.

    Args:
        passes: how texts are read.
        contrasts: what is to be pulled apart, one for each behavior, with their weights.
        neutral: texts on which the model should stay as it is; prices are measured on the first
            `PRICED_TOKENS` tokens.
        seed: of folds and of the labels that the model draws.
        sites: where; None takes the model's gates. What is measured elsewhere makes no proposal.
    """
    model = passes.model
    if sites is None:
        sites = find_sites(model.model, model.layout)
    folds = [
        [tokenize_labeled(model, fold) for fold in kind]
        for contrast in contrasts
        for kind in contrast.folds(FOLDS, seed)
    ]
    means = measure_inputs(
        passes, sites, [[one for fold in kind for one in fold] for kind in folds]
    )
    moments = measure_moments(passes, sites, neutral)
    squares = measure_prices(passes, sites, texts_up_to(neutral, PRICED_TOKENS), seed=seed)
    rows = direction_weights(contrasts)
    directions = {
        name: whitened_directions(moments[name], mean, rows) for name, mean in means.items()
    }
    gains = measure_gains(passes, sites, directions, folds)
    return NaturalGradient(
        passes, contrasts, folds, neutral, tuple(sites), moments, squares, directions, gains
    )


def direction_weights(contrasts: Sequence[Contrast]) -> list[list[float]]:
    """What each kind's mean input counts for in each direction, [k, n].

    A behavior that depends on the request has two directions: what was asked, and what was said.
    """
    counts = [len(contrast.kinds) for contrast in contrasts]
    rows: list[list[float]] = []
    for number, contrast in enumerate(contrasts):
        before, after = [0.0] * sum(counts[:number]), [0.0] * sum(counts[number + 1 :])
        for sense in contrast.senses:
            rows.append([*before, *(one / sense.count(one) for one in sense), *after])
    return rows


def least_squares_proposal(
    passes: Passes, contrast: Contrast, neutral: Sequence[TokenizedText]
) -> RowProposal:
    """The least-squares rule, for one behavior.

    Raises:
        UnsupportedModelError: a mixture of experts, or an MLP whose down projection can't be told.
    """
    model = passes.model
    sites = find_sites(model.model, model.layout)
    neurons = site_neurons(model, sites)
    kinds = [tokenize_labeled(model, kind.texts) for kind in contrast.kinds]
    senses = direction_weights([contrast])[-1]
    behavior = [one for kind, sense in zip(kinds, senses, strict=True) if sense > 0 for one in kind]
    means = measure_inputs(passes, sites, kinds)
    outputs = measure_outputs(passes, [*kinds, neutral])
    moments = measure_moments(passes, sites, neutral)
    directions = {
        name: whitened_directions(moments[name], mean, [senses])[0] for name, mean in means.items()
    }
    responses = measure_responses(passes, sites, directions, [behavior, neutral])
    known = {}
    for site in sites:
        block = site.gates[0].block
        outward = torch.tensor(senses) @ outputs.means[block][:-1]
        writes = neurons[site.name].writes
        assert writes is not None  # `site_neurons` refuses what has none
        known[site.name] = SiteResponses(
            responses.means[site.name][0],
            responses.squares[site.name][1],
            writes().cpu(),
            outward / outward.norm(),
            float(outputs.norms[block][-1]),
        )
    chosen = {name: one.candidates() for name, one in known.items()}
    products = measure_responses(passes, sites, directions, [neutral], chosen).products
    found = {}
    for site in sites:
        solved = known[site.name].solve(chosen[site.name], products[site.name])
        found[site.gates[0].address] = directions[site.name].numpy(), *solved
    ways, coefficients, scores = zip(*(found[gate.address] for gate in model.gates), strict=True)
    return RowProposal(
        "least-squares",
        model.gates,
        tuple(way[None] for way in ways),
        scores,
        tuple(one[None] for one in coefficients),
        mean_row_norm(sites),
        layout=model.layout,
    )
