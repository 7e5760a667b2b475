"""Fitting a rule to labeled texts, and its edit at the strength that a budget allows."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest

from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import DirectionSource, Probe
from modelsurgery.edit.steps import join_steps
from modelsurgery.errors import DamageBudgetError, NoSignalError
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.statistics import auroc_interval
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import (
    TokenizedText,
    texts_up_to,
    tokenize_labeled,
    tokenize_plain,
)
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.stacking import stacked
from modelsurgery.rules.contrast import Contrast, contrast_of
from modelsurgery.rules.natural_gradient import KEPT_TOKENS, KEPT_WEIGHT, Evidence
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.rules.proposing import (
    fit_natural_gradient,
    least_squares_proposal,
    paper_proposal,
)
from modelsurgery.rules.rule_names import Rule
from modelsurgery.search import Budget, FittedStrength, Setting, fit_strength
from modelsurgery.search.strength import UncalledMeasure

RULE_TEXTS = 200  # of each kind that a rule reads, at most: more change little (docs/log.md)
SCREEN_TOKENS = 3000  # of neutral text that strengths are measured on
PLAIN_SHARE = 0.5  # of the perplexity budget, above which the loss of neutral text counts
LEAST_KEPT = 0.8  # of what a plain edit pulls apart
RULE_STRENGTH = 0.3  # where a search for the strength of an edit begins

# What a rule proposes at a damping of rows; None is the rule's own.
Propose = Callable[[float | None], RowProposal]
Make = Callable[[RowProposal], Edit]  # an edit of a proposal
# Scales an edit to a budget; the strength to begin with comes second.
Strengthen = Callable[[Edit, float], FittedStrength]


@dataclass(frozen=True)
class FittedEdit:
    """A rule's edit, as strong as a budget allows."""

    proposal: RowProposal  # what its first step was made from
    fitted: FittedStrength  # the edit, at its strength
    is_kept: bool = False  # whether what neutral text loses to first order was counted
    steps: int = 1  # how many it took


@dataclass(frozen=True)
class FittedRule:
    """What a rule makes of texts."""

    propose: Propose  # what every row should get
    # Whether the texts agree on it; None for rules that can't tell.
    evidence: Evidence | None = None
    # The same with the slope of neutral text's own loss counted; None for rules that don't know it.
    keeping: Callable[[], RowProposal] | None = None
    # What the rule proposes on the model that has an edit, with that slope counted or not; None for
    # rules that take one step.
    again: Callable[[Edit, bool], RowProposal] | None = None

    def fit_within(
        self,
        budget: Budget,
        make: Make,
        screen: Screen,
        setting: Setting,
        *,
        steps: int = 1,
        is_better: Callable[[FittedStrength, FittedStrength], bool] | None = None,
        uncalled: UncalledMeasure | None = None,
        progress: Progress = silent,
    ) -> FittedEdit:
        """The rule's edit at the strength that a budget allows, in one step or in several.

        More than one are tried of a rule that has `again`. `is_better` says whether several steps,
        which come first, do more than one; without it they are taken wherever they are inside the
        budget. All else is as for `fit_strength`.

        Raises:
            DamageBudgetError: nothing inside the budget.
        """

        def strengthen(edit: Edit, first: float) -> FittedStrength:
            return fit_strength(
                edit, screen, budget, setting, first=first, uncalled=uncalled, progress=progress
            )

        one = self.fit(make, strengthen, budget)
        if steps == 1:
            return one
        climbed = self.climb(make, one.fitted.edit, steps, is_kept=one.is_kept)
        try:
            several = strengthen(climbed, abs(climbed.strength))
        except DamageBudgetError:
            return one
        if is_better is not None and not is_better(several, one.fitted):
            return one
        return replace(one, fitted=several, steps=steps)

    def fit(self, make: Make, strengthen: Strengthen, budget: Budget) -> FittedEdit:
        """The proposal that serves, and its edit in one step at the strength that a budget allows.

        Where the plain edit takes more than half of what perplexity may rise by, the one that
        counts neutral text's own loss is tried: it keeps perplexity down and pulls labels apart
        nearly as far. Where nothing is lost, it would only add the noise of a few thousand tokens.

        Raises:
            DamageBudgetError: nothing inside the budget.
        """
        plain = self.propose(None)
        found = strengthen(make(plain), RULE_STRENGTH)
        limit = budget.perplexity_rise
        rise = math.expm1(found.effect.clean)
        if self.keeping is None or limit is None or rise <= PLAIN_SHARE * limit:
            return FittedEdit(plain, found)
        kept = self.keeping()
        other = strengthen(make(kept), abs(found.edit.strength))
        if other.effect.selectivity < LEAST_KEPT * found.effect.selectivity:
            return FittedEdit(plain, found)
        return FittedEdit(kept, other, is_kept=True)

    def at_strength(self, make: Make, edit: Edit, steps: int) -> Edit:
        """The way of an edit in several steps, at the strength that it has itself."""
        made = self.climb(make, edit, steps)
        return made.scaled(edit.strength / made.strength)

    def climb(self, make: Make, edit: Edit, steps: int, *, is_kept: bool = False) -> Edit:
        """The way of an edit in several steps of the same strength.

        The slopes are measured again before each step: they change long before the budget is used
        up. Where `is_kept`, what neutral text loses to first order counts. `edit` is of the whole
        strength, as the base model's slopes have it.
        """
        part = abs(edit.strength) / steps
        made = edit.scaled(1 / steps)
        for _ in range(1, steps):
            assert self.again is not None  # other rules are asked for one step
            step = make(self.again(made, is_kept))
            made = join_steps(made, step.scaled(part / abs(step.strength)))
        return made


def fit_rule(
    passes: Passes,
    rule: Rule,
    texts: Sequence[LabeledText],
    neutral: Sequence[str],
    *,
    own: Sequence[LabeledText] = (),
    probe: Probe | None = None,
    direction_source: DirectionSource | None = None,
    sign: int = 1,
    seed: int = 0,
) -> FittedRule:
    """Let a rule read texts.

    The paper's takes a direction from the probe (`direction_source`, or the probe's default), and
    reads none. `sign` is 1 for an edit away from the behavior, -1 for one toward it; other
    arguments are as for `fit_contrasts`.

    Raises:
        NoSignalError: the texts do not agree on what to change.
        UnsupportedModelError: the rule does not know how to read such a model.
    """
    if rule == "paper":
        assert probe is not None
        paper = paper_proposal(passes, probe, direction_source or probe.default_source)
        return FittedRule(lambda _: paper)
    contrast = contrast_of(texts, sign=sign)
    if rule == "least-squares":
        solved = least_squares_proposal(passes, contrast, _kept_texts(passes, neutral, own))
        return FittedRule(lambda _: solved)
    return fit_contrasts(passes, [contrast], neutral, own=own, sign=sign, seed=seed)


def fit_contrasts(
    passes: Passes,
    contrasts: Sequence[Contrast],
    neutral: Sequence[str],
    *,
    own: Sequence[LabeledText] = (),
    sign: int = 1,
    seed: int = 0,
) -> FittedRule:
    """Let the natural gradient read texts of one behavior, or of several for one edit.

    Args:
        passes: how texts are read.
        contrasts: of each behavior, with its weight.
        neutral: texts on which the model should stay as it is; the last of them are read.
        own: requests with the model's own answers, which should stay as they are too.
        sign: -1 for contrasts whose edit will be turned round, toward the behaviors.
        seed: of everything random.

    Raises:
        NoSignalError: the texts of a behavior do not agree on what to change; it is named.
    """
    read = _kept_texts(passes, neutral, own)
    fitted = fit_natural_gradient(passes, contrasts, read, seed=seed)
    for contrast, evidence in zip(contrasts, fitted.evidence_by_behavior(), strict=True):
        if not evidence.is_clear:
            whose = "the texts" if contrast.name is None else f"the texts of {contrast.name}"
            raise NoSignalError(
                f"{whose} do not agree on what to change: the cross-validated gain is "
                f"{evidence.gain:.2g} ± {evidence.error:.2g} nats per token; check that the "
                "labels are correct, or use more texts. No edit was made"
            )

    def again(edit: Edit, is_kept: bool) -> RowProposal:
        with stacked(passes.model, [edit]) as model:
            moved = fitted.moved(replace(passes, model=model))
            return moved.proposal(kept=sign * KEPT_WEIGHT if is_kept else 0.0)

    return FittedRule(
        cache(fitted.proposal),  # a search asks for each many times
        fitted.evidence(),
        # Neutral text counts for the edit as it will be, and a proposal is for one away.
        lambda: fitted.proposal(kept=sign * KEPT_WEIGHT),
        again,
    )


def _kept_texts(
    passes: Passes, neutral: Sequence[str], own: Sequence[LabeledText]
) -> list[TokenizedText]:
    """What should stay as it is: the last neutral texts, for strengths take the first ones."""
    plain = texts_up_to(tokenize_plain(passes.model, neutral)[::-1], KEPT_TOKENS)
    answers = texts_up_to(tokenize_labeled(passes.model, own), KEPT_TOKENS)
    # In turn, so that some of either come first.
    pairs = zip_longest(plain, answers)
    return [text for pair in pairs for text in pair if text is not None]


def refuse_chance(probe: Probe) -> None:
    """Refuse labels that a probe can't tell apart.

    Raises:
        NoSignalError: the interval of its AUROC holds 0.5.
    """
    assert probe.metrics is not None
    metrics = probe.metrics
    low, high = auroc_interval(metrics.auroc, metrics.test_texts)
    if low <= 0.5:
        raise NoSignalError(
            f"the probe cannot tell the labels apart on {metrics.test_texts} held-out texts: "
            f"AUROC {metrics.auroc:.2f} ({low:.2f}-{high:.2f}); check that the labels are "
            "correct, or use more texts. No edit was made"
        )


def some_of_each(texts: Sequence[LabeledText], count: int) -> tuple[LabeledText, ...]:
    """The first `count` texts of each kind (label, and whether it was called for).

    Texts whose group has both labels come first: where the content is the same, what differs is
    the behavior, and the edit spares the rest.
    """
    labels: defaultdict[str | None, set[int]] = defaultdict(set)
    for text in texts:
        labels[text.group].add(text.label)
    seen: Counter[tuple[int, bool | None]] = Counter()
    kept = []
    for text in sorted(texts, key=lambda one: one.group is None or len(labels[one.group]) < 2):
        kind = (text.label, text.called_for)
        seen[kind] += 1
        if seen[kind] <= count:
            kept.append(text)
    return tuple(kept)


def first_tokens(
    model: LanguageModel, texts: Sequence[str], tokens: int = SCREEN_TOKENS
) -> list[str]:
    """Texts from the beginning, with about so many tokens altogether."""
    count = len(texts_up_to(tokenize_plain(model, texts), tokens))
    return list(texts[:count])
