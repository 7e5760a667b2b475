"""Directional ablation whose weight differs from block to block, found by a search."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.trial import BaseTrial

from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.choosing import Chooser
from modelsurgery.rivals.directional_ablation import ablated, unit
from modelsurgery.rivals.intervention import Intervention, Reweighted, parameters_in
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import attention_out, block_paths, mlp_out
from modelsurgery.rivals.states import label_states

TRIALS = 40
RANDOM_SHARE = 60 / 200  # of the trials, before the estimator proposes; the reference's defaults
CANDIDATES = 128  # that the estimator compares for each trial
WRITERS = {"attention": attention_out, "mlp": mlp_out}
Loss = tuple[torch.Tensor, float]  # a direction, and which share of it a matrix loses


@dataclass(frozen=True)
class Kernel:
    """Weights over blocks: a peak that falls linearly to both sides, and nothing beyond."""

    highest: float  # weight at the peak
    peak: float  # where it is; the first block is 0
    lowest: float  # weight at the border
    reach: float  # blocks from the peak to the border

    def weight(self, block: int) -> float:
        """Weight of a block, from 0."""
        away = abs(block - self.peak) / self.reach
        return 0.0 if away > 1 else self.highest + away * (self.lowest - self.highest)


@dataclass(frozen=True)
class Setting:
    """What a trial tries."""

    # Block that all directions come from, between two of them interpolated; None gives each block
    # its own.
    direction: float | None
    kernels: Mapping[str, Kernel]  # by `attention` and `mlp`

    def direction_for(self, directions: torch.Tensor, block: int) -> torch.Tensor:
        """Direction that a block's matrices lose, [d], of directions [L, d] of length 1."""
        if self.direction is None:
            return directions[block]
        below = min(int(self.direction), len(directions) - 2) if len(directions) > 1 else 0
        above = min(below + 1, len(directions) - 1)
        return unit(torch.lerp(directions[below], directions[above], self.direction - below))

    def intervention(self, model: LanguageModel, directions: torch.Tensor) -> Reweighted[Loss]:
        """Take directions out of the matrices whose weight is not 0; strength multiplies it."""
        lost: dict[str, Loss] = {}
        for number, block in enumerate(block_paths(model)):
            direction = self.direction_for(directions, number)
            for name, kernel in self.kernels.items():
                if weight := kernel.weight(number):
                    lost[WRITERS[name](model, block)] = (direction, weight)

        def change(matrix: torch.Tensor, loss: Loss, strength: float) -> torch.Tensor:
            direction, weight = loss
            return ablated(matrix, direction, strength * weight)

        return Reweighted(lost, change, parameters_in(model, lost), first=0.3, most=1.0)


def suggest(trial: BaseTrial, last: int) -> Setting:
    """A setting for a model whose last block is `last`, from 0."""
    is_global = trial.suggest_categorical("direction_scope", ["global", "per block"]) == "global"
    # Always asked for: a multivariate estimator knows no conditions.
    direction = trial.suggest_float("direction", 0.4 * last, 0.9 * last)
    kernels = {}
    for name in WRITERS:
        highest = trial.suggest_float(f"{name}.highest", 0.8, 1.5)
        kernels[name] = Kernel(
            highest,
            trial.suggest_float(f"{name}.peak", 0.6 * last, 1.0 * last),
            highest * trial.suggest_float(f"{name}.lowest", 0.0, 1.0),
            trial.suggest_float(f"{name}.reach", 1.0, max(1.0, 0.6 * last)),
        )
    return Setting(direction if is_global else None, kernels)


class Heretic(Method):
    """W ← W - s·w(block)·r rᵀ W, with a kernel w for attention and one for MLPs."""

    name = "heretic"
    title = "heretic's ablation kernel"
    source = "P. E. Weidmann, Heretic, 2025, github.com/p-e-w/heretic"
    settings = (
        f"{TRIALS} trials of Optuna's multivariate TPE; direction 0.4 to 0.9 of the last block or "
        "per block, highest weight 0.8 to 1.5, peak 0.6 to 1, lowest 0 to 1 of the highest, reach "
        "1 block to 0.6"
    )
    note = (
        "The reference makes 200 trials with two objectives, refusals and KL of the first token, "
        "and a person chooses among the best; here one objective, selectivity at a small KL, "
        "chooses. It reads the state at the first token of an answer, here it is the mean over the "
        "tokens of a text."
    )

    def fit(self, given: Materials) -> Intervention:
        """Search for the setting that serves best."""
        model = given.model
        layers = range(1, model.layer_count + 1)
        states = label_states(given, layers)
        directions = torch.stack([unit(states.difference(layer)) for layer in layers])
        chooser, last = Chooser(given), model.layer_count - 1
        with warnings.catch_warnings(), given.progress("trials", TRIALS) as advance:
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=round(RANDOM_SHARE * TRIALS),
                n_ei_candidates=CANDIDATES,
                multivariate=True,
                seed=given.seed,
            )
            study = optuna.create_study(direction="maximize", sampler=sampler)

            def objective(trial: optuna.Trial) -> float:
                setting = suggest(trial, last)
                advance(1)
                return chooser.score(setting.intervention(model, directions))

            study.optimize(objective, n_trials=TRIALS)
        best = suggest(study.best_trial, last)
        return best.intervention(model, directions)
