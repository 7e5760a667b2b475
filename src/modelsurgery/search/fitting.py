"""Fitting an edit to labelled texts: by a rule, at the strength that a budget allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import Literal

from modelsurgery.data.texts import LabelledText, split_texts, texts_sha256
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import DirectionRule, Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.errors import NoSignalError, RecipeError
from modelsurgery.evaluation.own_answers import harmless_requests, own_answers
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.statistics import auroc_interval
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.files.provenance import provenance
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import texts_up_to, tokenize_labelled, tokenize_plain
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.rules.contrast import contrast_of, pulled_apart
from modelsurgery.rules.natural_gradient import KEPT_TOKENS, Evidence
from modelsurgery.rules.proposal import DEFAULT_RULE, RULES, RowProposal, Rule
from modelsurgery.rules.proposing import (
    fit_natural_gradient,
    least_squares_proposal,
    paper_proposal,
)
from modelsurgery.search import Budget, Setting, fit_strength

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
    # The last ones: strengths are measured on the first.
    plain = texts_up_to(tokenize_plain(passes.model, neutral)[::-1], KEPT_TOKENS)
    answers = texts_up_to(tokenize_labelled(passes.model, own), KEPT_TOKENS)
    # In turn, so that some of either come first.
    pairs = zip_longest(plain, answers)
    read = [text for pair in pairs for text in pair if text is not None]
    if rule == "least-squares":
        solved = least_squares_proposal(passes, contrast, read)
        return FittedRule(lambda _: solved)
    fitted = fit_natural_gradient(passes, [contrast], read, seed=seed)
    evidence = fitted.evidence()
    if not evidence.is_clear:
        raise NoSignalError(
            "the texts do not agree on what to change: parts of them promise "
            f"{evidence.gain:.2g} ± {evidence.error:.2g} nats a token on the others; check that "
            "the labels are right, or give more texts. No edit was made"
        )
    return FittedRule(cache(fitted.proposal), evidence)  # a search asks for each many times


def fit_edit(
    model: LanguageModel,
    texts: Sequence[LabelledText],
    neutral: Sequence[str] | None = None,
    *,
    rule: Rule = DEFAULT_RULE,
    direction: Literal["away", "toward"] = "away",
    rows: float | int = PAPER_ROWS,
    layers: tuple[int, int] | None = None,
    strength: float | None = None,
    max_divergence: float | None = 0.02,
    max_perplexity_rise: float | None = 0.02,
    seed: int = 0,
    progress: Progress = silent,
) -> Edit:
    """Make an edit from labelled texts. Nothing is written.

    Nothing is generated, but for texts with `called_for`: there the model's own answers to requests
    that don't call for the behavior should stay as they are, beside neutral text.

    A quarter of the texts is held out to see what the edit does. Without a strength the edit gets
    the largest one inside the budget on neutral text.

    Args:
        model: the base model.
        texts: 1 shows the behavior, 0 its opposite; a few dozen of each are enough.
        neutral: texts on which the model should stay as it is, a few thousand tokens; None takes
            the held-out texts with label 0.
        rule: `natural-gradient`, `least-squares` (forward passes only) or `paper`.
        direction: `away` from the behavior or `toward` it.
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
        RecipeError: an unknown rule or direction, or no such number of rows or window of layers.
        NoSignalError: the texts do not say what to change.
        DamageBudgetError: nothing inside the budget.

    Example:
        >>> model = load_model("Qwen/Qwen3-0.6B")  # doctest: +SKIP
        >>> edit = fit_edit(model, load_texts("texts.jsonl"))  # doctest: +SKIP
        >>> save_edit(edit, "edit.safetensors")  # doctest: +SKIP
    """
    if rule not in RULES:
        raise RecipeError(f"rule {rule!r}; expected one of {', '.join(RULES)}")
    if direction not in ("away", "toward"):
        raise RecipeError(f"direction {direction!r}; expected away or toward")
    sign = -1 if direction == "toward" else 1
    split = split_texts(texts, held_out=HELD_OUT_SHARE, seed=seed)
    clean = neutral or [text.text for text in split.held_out if text.label == 0]
    probe = None
    if rule != "natural-gradient":
        probe = _probe(model, split.train, split.held_out, seed, progress)
        refuse_chance(probe)
    requests = [harmless_requests(part) for part in (split.train, split.held_out)]
    own, held_own = (own_answers(model, some, progress=progress) for some in requests)
    fitted = fit_rule(
        Passes(model, Ledger(), progress=progress),
        rule,
        some_of_each(split.train, RULE_TEXTS),
        clean,
        own=own,
        probe=probe,
        sign=sign,
        seed=seed,
    )
    made = fitted.propose(None).edit(rows, layers=layers, strength=sign)
    if strength is None:
        raised, lowered = pulled_apart(some_of_each(split.held_out, SCREEN_TEXTS), sign)
        read = first_tokens(model, clean)
        screen = Screen(model, raised, lowered, read, own=held_own, progress=progress)
        budget = Budget(max_perplexity_rise, max_divergence, None)
        setting = Setting(None, rule, rows, layers)
        made = fit_strength(
            made, screen, budget, setting, first=RULE_STRENGTH, progress=progress
        ).edit
    else:
        made = made.scaled(strength)
    origin = provenance(
        seed=seed,
        inputs={"texts": texts_sha256(texts), "neutral": sha256_json(list(clean))},
        settings={"rule": rule, "direction": direction, "rows": made.row_count, "layers": layers},
    )
    return replace(made, provenance=origin).bound_to(model.checkpoint, model.gates)


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
