"""Edits of gate rows: the three rules of this library, and a random control."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import DirectionSource, Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.rivals.intervention import EditIntervention, Intervention
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.rules.proposing import paper_proposal
from modelsurgery.rules.rule_names import SEVERAL_STEPS, Rule
from modelsurgery.search import Budget, Setting
from modelsurgery.search.fitting import FittedRule, fit_rule, some_of_each

TEST_SHARE = 0.1  # of the texts, that a probe's accuracy is measured on
STEPS_DIVERGENCE = 0.02  # that the natural gradient is fitted for; other strengths scale it
FIRST = {"paper": 1.0, "least-squares": 0.3, "natural-gradient": 0.4}  # strengths of edits


class NaturalGradient(Method):
    """Natural-gradient surgery, this library's default."""

    name = "natural-gradient"
    title = "model surgery, natural gradient"
    source = "this library, docs/concepts.md"
    delivery = "weights or adapter"
    settings = f"{PAPER_ROWS:.2%} of the gate rows"
    steps = 1

    def fit(self, given: Materials) -> EditIntervention:
        """Let the rule read the texts; rows and coefficients are its defaults."""
        return given.once(f"{self.steps} steps", lambda: stepped(given, self.steps))


class NaturalGradientSteps(NaturalGradient):
    """The same in several steps, with slopes measured again before each."""

    name = "natural-gradient-steps"
    title = f"model surgery, natural gradient, {SEVERAL_STEPS} steps"
    settings = f"{PAPER_ROWS:.2%} of the gate rows in each of {SEVERAL_STEPS} steps"
    steps = SEVERAL_STEPS


class LeastSquares(NaturalGradient):
    """The rule that reads forward passes alone."""

    name = "least-squares"
    title = "model surgery, least squares"

    def fit(self, given: Materials) -> EditIntervention:
        """Let the rule read the texts."""
        return intervention_of(given, proposal_of(given, "least-squares"))


class PaperRule(Method):
    """The Model Surgery paper's rule: a probe of the last layer, bottom cosine, W1 added."""

    name = "paper"
    title = "model surgery, the paper's rule"
    source = "Wang et al., Model Surgery, NAACL 2025, arXiv 2407.08770"
    delivery = "weights or adapter"
    settings = f"{PAPER_ROWS:.2%} of the gate rows, W1 of the last layer, Adam"

    def fit(self, given: Materials) -> Intervention:
        """Train the probe and choose the rows."""
        return intervention_of(given, paper_proposal_of(given, given.model.layer_count))


class RandomEdit(NaturalGradient):
    """A control: the rows and sizes of the natural gradient's edit, in random directions."""

    name = "random"
    title = "control: random edit"
    source = "control"

    def fit(self, given: Materials) -> EditIntervention:
        """Turn each direction to a random one of the same length."""
        return turned(super().fit(given), given.seed)


def proposal_of(
    given: Materials, rule: Rule, texts: int | None = None, damping: float | None = None
) -> RowProposal:
    """What a rule (not the paper's) proposes for every row, from so many texts of each kind or all.

    Without a damping of rows the natural gradient takes its own, and counts what neutral text loses
    to first order.
    """
    fitted = rule_of(given, rule, texts)
    if damping is not None or fitted.keeping is None:
        return fitted.propose(damping)
    return given.once(f"{rule}, {texts} texts, kept", fitted.keeping)


def rule_of(given: Materials, rule: Rule, texts: int | None = None) -> FittedRule:
    """A rule that has read the texts; so many of each kind at most, where a number is given."""
    read: Sequence[LabeledText] = (*given.shows, *given.opposite)
    if texts is not None:
        read = some_of_each(read, texts)

    def fit() -> FittedRule:
        return fit_rule(
            given.passes,
            rule,
            read,
            given.neutral,
            own=own_answers(given.model, read),
            sign=given.sign,
            seed=given.seed,
        )

    return given.once(f"{rule}, {texts} texts", fit)


def stepped(given: Materials, steps: int) -> EditIntervention:
    """The natural gradient in so many steps, fitted for a divergence of `STEPS_DIVERGENCE`."""
    fitted = rule_of(given, "natural-gradient")
    budget = Budget(divergence=STEPS_DIVERGENCE, capability_drop=None)
    setting = Setting(None, "natural-gradient", PAPER_ROWS, None)

    def make(proposal: RowProposal) -> Edit:
        return intervention_of(given, proposal).edit

    found = fitted.fit_within(
        budget, make, given.validation, setting, steps=steps, progress=given.progress
    )
    return EditIntervention(found.fitted.edit)


def probe_of(given: Materials, layer: int) -> Probe:
    """The paper's probe on a layer; the hidden states of all layers are read once."""
    texts = (*given.shows, *given.opposite)
    held = max(1, round(TEST_SHARE * len(given.shows)))
    test = (*given.shows[-held:], *given.opposite[-held:])
    rendered = [given.model.render(text) for text in (*texts, *test)]
    states = given.once("states", lambda: extract_hidden_states(given.model, rendered)).by_layer
    return given.once(
        f"probe of layer {layer}",
        lambda: fit_probe_on_texts(states[layer], texts, test, layer=layer, seed=given.seed),
    )


def paper_proposal_of(given: Materials, layer: int, source: DirectionSource = "W1") -> RowProposal:
    """What the paper's rule proposes, from a probe on a layer."""
    return paper_proposal(given.passes, probe_of(given, layer), source)


def intervention_of(
    given: Materials, proposal: RowProposal, rows: float | int = PAPER_ROWS
) -> EditIntervention:
    """The edit of the best rows."""
    return EditIntervention(proposal.edit(rows, strength=given.sign * FIRST[proposal.rule]))


def turned(found: EditIntervention, seed: int) -> EditIntervention:
    """The same edit in random directions of the same length."""
    random = np.random.default_rng(seed)
    updates = []
    for update in found.edit.updates:
        direction = random.standard_normal(update.direction.shape).astype(np.float32)
        direction *= np.linalg.norm(update.direction) / np.linalg.norm(direction)
        updates.append(replace(update, direction=direction))
    return EditIntervention(replace(found.edit, updates=tuple(updates)))
