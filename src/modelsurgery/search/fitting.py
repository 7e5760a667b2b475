"""Fitting an edit to labelled texts: by a rule, at the strength that a budget allows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import zip_longest
from typing import Any

from modelsurgery.data.texts import LabelledText, Split, texts_sha256
from modelsurgery.edit.choices import Direction
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.effects import Measurement
from modelsurgery.edit.probe import DirectionRule, Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.errors import NoSignalError, RecipeError
from modelsurgery.evaluation.own_answers import harmless_requests, own_answers
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.statistics import auroc_interval
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.files.provenance import Provenance, provenance
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import (
    TokenizedText,
    texts_up_to,
    tokenize_labelled,
    tokenize_plain,
)
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.rules.contrast import Contrast, contrast_of, pulled_apart
from modelsurgery.rules.natural_gradient import KEPT_TOKENS, KEPT_WEIGHT, Evidence
from modelsurgery.rules.proposal import DEFAULT_RULE, RULES, RowProposal, Rule
from modelsurgery.rules.proposing import (
    fit_natural_gradient,
    least_squares_proposal,
    paper_proposal,
)
from modelsurgery.search import Budget, Setting, fit_strength
from modelsurgery.search.targets import Target, targets_of

RULE_TEXTS = 200  # of each kind that a rule reads, at most: more change little (docs/log.md)
SCREEN_TOKENS = 3000  # of neutral text that strengths are measured on
RULE_STRENGTH = 0.3  # where a search for the strength of an edit begins
SCREEN_TEXTS = 64  # of each label that an edit's effect is measured on
HELD_OUT_SHARE = 0.25

# What a rule proposes at a damping of rows; None is the rule's own.
Propose = Callable[[float | None], RowProposal]


@dataclass(frozen=True)
class FittedRule:
    """What a rule makes of texts.

    Attributes:
        propose: what every row should get.
        evidence: whether the texts agree on it; None for rules that can't tell.
    """

    propose: Propose
    evidence: Evidence | None = None


def fit_rule(
    passes: Passes,
    rule: Rule,
    texts: Sequence[LabelledText],
    neutral: Sequence[str],
    *,
    own: Sequence[LabelledText] = (),
    probe: Probe | None = None,
    direction_source: DirectionRule | None = None,
    sign: int = 1,
    seed: int = 0,
) -> FittedRule:
    """Let a rule read texts.

    Args:
        passes: how texts are read.
        rule: which one.
        texts: labelled texts.
        neutral: texts on which the model should stay as it is; the last of them are read.
        own: requests with the model's own answers, which should stay as they are too.
        probe: gives the paper's rule its direction.
        direction_source: what the paper's rule takes from the probe.
        sign: 1 for an edit away from the behavior, -1 for one toward it.
        seed: of everything random.

    Raises:
        NoSignalError: the texts do not agree on what to change.
        UnsupportedModelError: the rule does not know how to read such a model.
    """
    if rule == "paper":
        assert probe is not None
        paper = paper_proposal(passes, probe, direction_source or probe.default_rule)
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
    own: Sequence[LabelledText] = (),
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
    # Neutral text counts for the edit as it will be, and the proposal is for one away.
    fitted = fit_natural_gradient(passes, contrasts, read, kept=sign * KEPT_WEIGHT, seed=seed)
    for contrast, evidence in zip(contrasts, fitted.evidence_by_behavior(), strict=True):
        if not evidence.is_clear:
            whose = "the texts" if contrast.name is None else f"the texts of {contrast.name}"
            raise NoSignalError(
                f"{whose} do not agree on what to change: parts of them promise "
                f"{evidence.gain:.2g} ± {evidence.error:.2g} nats a token on the others; check "
                "that the labels are right, or give more texts. No edit was made"
            )
    # Kept, because a search asks for each many times.
    return FittedRule(cache(fitted.proposal), fitted.evidence())


def _kept_texts(
    passes: Passes, neutral: Sequence[str], own: Sequence[LabelledText]
) -> list[TokenizedText]:
    """What should stay as it is: the last neutral texts, for strengths take the first ones."""
    plain = texts_up_to(tokenize_plain(passes.model, neutral)[::-1], KEPT_TOKENS)
    answers = texts_up_to(tokenize_labelled(passes.model, own), KEPT_TOKENS)
    # In turn, so that some of either come first.
    pairs = zip_longest(plain, answers)
    return [text for pair in pairs for text in pair if text is not None]


def fit_edit(
    model: LanguageModel,
    texts: Sequence[LabelledText] | Mapping[str, Sequence[LabelledText]],
    neutral: Sequence[str] | None = None,
    *,
    rule: Rule = DEFAULT_RULE,
    direction: Direction | Mapping[str, Direction] = "away",
    weights: Mapping[str, float] | None = None,
    rows: float | int = PAPER_ROWS,
    layers: tuple[int, int] | None = None,
    strength: float | None = None,
    max_divergence: float | None = 0.02,
    max_perplexity_rise: float | None = 0.02,
    seed: int = 0,
    progress: Progress = silent,
) -> Edit:
    """Make an edit from labelled texts, of one behavior or of several at once. Nothing is written.

    Nothing is generated, but for texts with `called_for`: there the model's own answers to requests
    that don't call for the behavior should stay as they are, beside neutral text.

    A quarter of the texts is held out to see what the edit does. Without a strength the edit gets
    the largest one inside the budget on neutral text.

    Args:
        model: the base model.
        texts: 1 shows the behavior, 0 its opposite; a few dozen of each are enough. Or such texts
            by the name of their behavior: one edit moves all of them.
        neutral: texts on which the model should stay as it is, a few thousand tokens; None takes
            the held-out texts with label 0.
        rule: `natural-gradient`, `least-squares` (forward passes only) or `paper`; several
            behaviors need the first.
        direction: `away` from the behavior or `toward` it; of several the same, or by name.
        weights: how much each of several behaviors counts, by name; None counts all alike.
        rows: a share of all gate rows (float) or a count (int).
        layers: first and last layer to edit, 1..L; None is all.
        strength: portable strength; None takes what the budget allows.
        max_divergence: budget: mean KL from the base on neutral text, nats a token; None does not
            limit it.
        max_perplexity_rise: budget: 0.02 is +2 %; None does not limit it.
        seed: of everything random.
        progress: is told what is going on.

    Returns:
        The edit, bound to the model's checkpoint.

    Raises:
        RecipeError: an unknown rule or direction, weights that don't fit, a rule that takes one
            behavior alone, or no such number of rows or window of layers.
        NoSignalError: the texts do not say what to change; of several, those that don't are named.
        DamageBudgetError: nothing inside the budget.

    Example:
        >>> model = load_model("Qwen/Qwen3-0.6B")  # doctest: +SKIP
        >>> edit = fit_edit(model, load_texts("texts.jsonl"))  # doctest: +SKIP
        >>> save_edit(edit, "edit.safetensors")  # doctest: +SKIP
    """
    if rule not in RULES:
        raise RecipeError(f"rule {rule!r}; expected one of {', '.join(RULES)}")
    targets = targets_of(texts, direction, weights)
    if len(targets) > 1 and rule != "natural-gradient":
        raise RecipeError(
            f"rule {rule!r} makes an edit of one behavior; for several at once take "
            "natural-gradient, or make an edit of each"
        )
    given = _Given(model, targets, neutral, seed, progress)
    fitted = given.fitted(rule)
    made = fitted.propose(None).edit(rows, layers=layers, strength=given.sign)
    if strength is None:
        budget = Budget(max_perplexity_rise, max_divergence, None)
        made = given.within(budget, made, Setting(None, rule, rows, layers))
    else:
        made = made.scaled(strength)
    origin = given.origin({"rule": rule, "rows": made.row_count, "layers": layers})
    return replace(made, provenance=origin).bound_to(model.checkpoint, model.gates)


@dataclass(frozen=True)
class _Given:
    """What `fit_edit` was given, split and with the model's own answers."""

    model: LanguageModel
    targets: tuple[Target, ...]
    neutral: Sequence[str] | None
    seed: int
    progress: Progress

    @property
    def sign(self) -> int:
        """Of the strength: -1 where all goes toward the behaviors."""
        return max(target.sign for target in self.targets)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        return tuple(target.split(HELD_OUT_SHARE, self.seed) for target in self.targets)

    @cached_property
    def clean(self) -> Sequence[str]:
        held_out = [text for split in self.splits for text in split.held_out]
        return self.neutral or [text.text for text in held_out if text.label == 0]

    def own_answers(self, texts: Iterable[LabelledText]) -> list[LabelledText]:
        return own_answers(self.model, harmless_requests(texts), progress=self.progress)

    def fitted(self, rule: Rule) -> FittedRule:
        """What the rule makes of the texts."""
        train = [some_of_each(split.train, RULE_TEXTS) for split in self.splits]
        own = self.own_answers(text for split in self.splits for text in split.train)
        passes = Passes(self.model, Ledger(), progress=self.progress)
        if rule == "natural-gradient":
            contrasts = [
                contrast_of(texts, sign=one.sign, weight=self._weight(one), name=one.name)
                for one, texts in zip(self.targets, train, strict=True)
            ]
            return fit_contrasts(
                passes, contrasts, self.clean, own=own, sign=self.sign, seed=self.seed
            )
        (split,) = self.splits
        probe = _probe(self.model, split.train, split.held_out, self.seed, self.progress)
        refuse_chance(probe)
        return fit_rule(
            passes, rule, train[0], self.clean, own=own, probe=probe, sign=self.sign, seed=self.seed
        )

    def within(self, budget: Budget, edit: Edit, setting: Setting) -> Edit:
        """The edit at the largest strength inside a budget, with what it was measured to do."""
        pulled = [
            pulled_apart(some_of_each(split.held_out, SCREEN_TEXTS), target.sign)
            for target, split in zip(self.targets, self.splits, strict=True)
        ]
        own = self.own_answers(text for split in self.splits for text in split.held_out)
        read = first_tokens(self.model, self.clean)
        raised, lowered = pulled[0] if len(pulled) == 1 else ([], [])
        screen = Screen(self.model, raised, lowered, read, own=own, progress=self.progress)
        fitted = fit_strength(
            edit, screen, budget, setting, first=RULE_STRENGTH, progress=self.progress
        )
        if len(pulled) == 1:
            return fitted.edit
        longest = [max(read, key=len)]  # a screen needs some neutral text
        moved: dict[str, float] = {}
        gain = 0.0
        for target, (raised, lowered) in zip(self.targets, pulled, strict=True):
            one = Screen(self.model, raised, lowered, longest, progress=self.progress)
            (effect,) = one.measure([fitted.edit], progress=self.progress)
            moved[str(target.name)] = moves = target.sign * effect.selectivity
            if moves <= 0:
                self.model.warn(
                    f"on held-out texts the edit moves {target.name} the wrong way ({moves:.2g} "
                    "nats a token); give it more weight, or make an edit of it alone"
                )
            gain += self._weight(target) * effect.selectivity
        measured = Measurement(gain, fitted.effect.divergence, moved)
        return replace(fitted.edit, measured=measured)

    def origin(self, settings: dict[str, Any]) -> Provenance:
        """Where the edit comes from."""
        inputs = {"neutral": sha256_json(list(self.clean))}
        for target in self.targets:
            name = "texts" if target.name is None else f"texts.{target.name}"
            inputs[name] = texts_sha256(target.texts)
        if self.targets[0].name is None:
            settings["direction"] = self.targets[0].direction
        else:
            settings["behaviors"] = {
                str(one.name): {"direction": one.direction, "weight": one.weight}
                for one in self.targets
            }
        return provenance(seed=self.seed, inputs=inputs, settings=settings)

    def _weight(self, target: Target) -> float:
        """Of its contrast: negative where it goes the other way than the edit."""
        return target.weight * target.sign * self.sign


def _probe(
    model: LanguageModel,
    train: Sequence[LabelledText],
    held_out: Sequence[LabelledText],
    seed: int,
    progress: Progress,
) -> Probe:
    layer = model.layer_count
    written = [model.written(text) for text in (*train, *held_out)]
    states = extract_hidden_states(model, written, [layer], progress=progress)
    return fit_probe_on_texts(
        states.by_layer[layer], train, held_out, layer=layer, fit="logistic", seed=seed
    )


def refuse_chance(probe: Probe) -> None:
    """Refuse labels that a probe can't tell apart.

    Raises:
        NoSignalError: the interval of its AUROC holds 0.5.
    """
    assert probe.metrics is not None
    metrics = probe.metrics
    low, high = auroc_interval(metrics.auroc, metrics.held_out_texts)
    if low <= 0.5:
        raise NoSignalError(
            f"the probe cannot tell the labels apart on {metrics.held_out_texts} held-out texts: "
            f"AUROC {metrics.auroc:.2f} ({low:.2f}-{high:.2f}); check that the labels are right, "
            "or give more texts. No edit was made"
        )


def some_of_each(texts: Sequence[LabelledText], count: int) -> tuple[LabelledText, ...]:
    """The first `count` texts of each kind (label, and whether it was called for).

    Texts whose group has both labels come first: where the content is the same, what differs is
    the behavior, and the edit spares the rest.
    """
    seen: dict[tuple[int, bool | None], int] = {}
    labels: dict[str, set[int]] = {}
    for text in texts:
        if text.group is not None:
            labels.setdefault(text.group, set()).add(text.label)
    kept = []
    for text in sorted(texts, key=lambda one: len(labels.get(one.group or "", ())) < 2):
        kind = (text.label, text.called_for)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= count:
            kept.append(text)
    return tuple(kept)


def first_tokens(
    model: LanguageModel, texts: Sequence[str], tokens: int = SCREEN_TOKENS
) -> list[str]:
    """Texts from the beginning, with about so many tokens altogether."""
    count = len(texts_up_to(tokenize_plain(model, texts), tokens))
    return list(texts[:count])
