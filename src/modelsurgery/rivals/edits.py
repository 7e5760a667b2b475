"""Edits of gate rows: the three rules of this library, and a random control."""

from dataclasses import replace

import numpy as np

from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.own_answers import own_answers, uncalled_requests
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.rivals.intervention import EditIntervention, Intervention
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rules.choices import Rule
from modelsurgery.search.fitting import fit_rule

TEST_SHARE = 0.1  # of the texts, that a probe's accuracy is measured on


class NaturalGradient(Method):
    """Natural-gradient surgery, this library's default."""

    name = "natural-gradient"
    title = "model surgery, natural gradient"
    source = "this library, docs/concepts.md"
    delivery = "weights or adapter"
    settings = f"{PAPER_ROWS:.2%} of the gate rows"
    rule: Rule = "natural-gradient"
    first = 0.4  # strength in the units of edits that strength 1 stands for

    def fit(self, given: Materials) -> Intervention:
        """Let the rule read the texts; rows and coefficients are its defaults."""
        texts = (*given.shows, *given.opposite)
        fitted = fit_rule(
            given.passes,
            self.rule,
            texts,
            given.neutral,
            own=own_answers(given.model, uncalled_requests(texts)),
            sign=given.sign,
            seed=given.seed,
        )
        proposal = fitted.propose(None) if fitted.keeping is None else fitted.keeping()
        edit = proposal.edit(PAPER_ROWS, strength=given.sign * self.first)
        return EditIntervention(edit)


class LeastSquares(NaturalGradient):
    """The rule that reads forward passes alone."""

    name = "least-squares"
    title = "model surgery, least squares"
    rule = "least-squares"
    first = 0.3


class PaperRule(Method):
    """The Model Surgery paper's rule: a probe of the last layer, bottom cosine, W1 added."""

    name = "paper"
    title = "model surgery, the paper's rule"
    source = "Wang et al., Model Surgery, NAACL 2025, arXiv 2407.08770"
    delivery = "weights or adapter"
    settings = f"{PAPER_ROWS:.2%} of the gate rows, W1 of the last layer, Adam"

    def fit(self, given: Materials) -> Intervention:
        """Train the probe and choose the rows."""
        model, texts = given.model, (*given.shows, *given.opposite)
        held = max(1, round(TEST_SHARE * len(given.shows)))
        test = (*given.shows[-held:], *given.opposite[-held:])
        layer = model.layer_count
        rendered = [model.render(text) for text in (*texts, *test)]
        states = extract_hidden_states(model, rendered, [layer]).by_layer[layer]
        probe = fit_probe_on_texts(states, texts, test, layer=layer, seed=given.seed)
        proposal = fit_rule(
            given.passes,
            "paper",
            texts,
            given.neutral,
            probe=probe,
            direction_source="W1",
            sign=given.sign,
            seed=given.seed,
        ).propose(None)
        return EditIntervention(proposal.edit(PAPER_ROWS, strength=float(given.sign)))


class RandomEdit(NaturalGradient):
    """A control: the rows and sizes of the natural gradient's edit, in random directions."""

    name = "random"
    title = "control: random edit"
    source = "control"

    def fit(self, given: Materials) -> Intervention:
        """Turn each direction to a random one of the same length."""
        found = super().fit(given)
        assert isinstance(found, EditIntervention)
        random = np.random.default_rng(given.seed)
        edit = found.edit
        updates = []
        for update in edit.updates:
            direction = random.standard_normal(update.direction.shape).astype(np.float32)
            direction *= np.linalg.norm(update.direction) / np.linalg.norm(direction)
            updates.append(replace(update, direction=direction))
        return EditIntervention(replace(edit, updates=tuple(updates)))
