"""`fit_edit`: labeled texts of one behavior or several → an edit, without a run directory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from modelsurgery.data.texts import LabeledText, Split, texts_sha256
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.effects import Measurement
from modelsurgery.edit.option_names import Direction
from modelsurgery.edit.probe import Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.evaluation.screening import Screen
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.files.provenance import Provenance
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.rules.contrast import contrast_of, pulled_apart
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.rules.rule_names import DEFAULT_RULE, RULES, Rule
from modelsurgery.search import Budget, Setting
from modelsurgery.search.fitting import (
    RULE_TEXTS,
    FittedRule,
    Make,
    first_tokens,
    fit_contrasts,
    fit_rule,
    refuse_chance,
    some_of_each,
)
from modelsurgery.search.targets import Target, targets_of

TEST_SHARE = 0.25
SCREEN_TEXTS = 64  # of each label that an edit's effect is measured on


def fit_edit(
    model: LanguageModel,
    texts: Sequence[LabeledText] | Mapping[str, Sequence[LabeledText]],
    neutral: Sequence[str] | None = None,
    *,
    rule: Rule = DEFAULT_RULE,
    direction: Direction | Mapping[str, Direction] = "away",
    weights: Mapping[str, float] | None = None,
    rows: float | int = PAPER_ROWS,
    layers: tuple[int, int] | None = None,
    steps: int = 1,
    strength: float | None = None,
    max_divergence: float | None = 0.02,
    max_perplexity_rise: float | None = 0.02,
    seed: int = 0,
    progress: Progress = silent,
) -> Edit:
    """Make an edit from labeled texts of one or several behaviors. Writes no files.

    A quarter of the texts is used to measure the effect of the edit. Unless `strength` is given, it
    is the largest one that stays within the damage budget on neutral text. No text is generated,
    except for texts with `called_for`: the model's own answers to requests that do not call for
    the behavior should stay as they are, and are measured together with neutral text.

    Args:
        model: the base model.
        texts: labeled texts; label 1 shows the behavior, 0 its opposite. A few dozen of each are
            enough. Or a mapping from behavior names to labeled texts, for one edit of all of them.
        neutral: text on which the model should not change, a few thousand tokens; by default the
            texts with label 0 that are not fitted to.
        rule: `natural-gradient`, `least-squares` (forward passes only) or `paper`. Several
            behaviors need `natural-gradient`.
        direction: `away` from the behavior or `toward` it; for several behaviors, one direction or
            one per name.
        weights: weight of each of several behaviors, by name; equal by default.
        rows: share of all gate rows (float), or their number (int).
        layers: first and last layer to edit, 1..L; all by default.
        steps: number of steps of the natural gradient; its slopes are measured again before each,
            which can pull labels apart much further at the same price. Each step chooses its own
            rows. Other rules take one step.
        strength: edit strength; 1 adds vectors as long as the average gate row.
        max_divergence: damage budget: mean KL divergence from the base model on neutral text, in
            nats per token; None for no limit.
        max_perplexity_rise: damage budget: 0.02 means +2 %; None for no limit.
        seed: seed of everything random.
        progress: receives the progress of the fit.

    Returns:
        The edit, bound to the model's checkpoint.

    Raises:
        RecipeError: the rule or direction is unknown, the weights do not match the behaviors, the
            rule supports one behavior only, or there is no such number of rows or range of layers.
        NoSignalError: the texts do not agree on what to change. The behavior is named.
        DamageBudgetError: no strength stays within the budget.

    Example:
        >>> model = load_model("Qwen/Qwen3-0.6B")  # doctest: +SKIP
        >>> edit = fit_edit(model, load_texts("texts.jsonl"))  # doctest: +SKIP
        >>> edit.save("edit.safetensors")  # doctest: +SKIP
    """
    budget = Budget(max_perplexity_rise, max_divergence, None)
    targets = targets_of(texts, direction, weights)
    given = Given(model, targets, neutral, seed=seed, progress=progress)
    return given.fit(rule, budget, rows=rows, layers=layers, steps=steps, strength=strength)


@dataclass(frozen=True)
class Given:
    """What an edit is made from: its behaviors' texts, split, and the model's own answers."""

    model: LanguageModel  # the base model
    targets: tuple[Target, ...]  # what is to be moved, and which way
    # Texts on which the model should stay as it is; None takes the held-out texts with label 0.
    neutral: Sequence[str] | None = None
    # Prompts with the answers that greedy decoding should give, for a budget of those.
    facts: Sequence[tuple[str, str]] = ()
    seed: int = 0  # of everything random
    progress: Progress = silent  # is told what is going on

    def fit(
        self,
        rule: Rule,
        budget: Budget,
        *,
        rows: float | int = PAPER_ROWS,
        layers: tuple[int, int] | None = None,
        steps: int = 1,
        strength: float | None = None,
    ) -> Edit:
        """Make the edit, inside a budget where no strength is given; see `fit_edit`."""
        if rule not in RULES:
            raise RecipeError(f"rule {rule!r}; expected one of {', '.join(RULES)}")
        if len(self.targets) > 1 and rule != "natural-gradient":
            raise RecipeError(
                f"rule {rule!r} supports one behavior only; use natural-gradient for several, or "
                "make one edit per behavior"
            )
        if steps < 1:
            raise RecipeError(f"steps {steps}; expected 1 or more")
        if steps > 1 and rule != "natural-gradient":
            raise RecipeError(f"steps {steps}: rule {rule!r} takes one step; use natural-gradient")
        fitted = self._fitted(rule)

        def make(proposal: RowProposal) -> Edit:
            return proposal.edit(rows, layers=layers, strength=self._sign)

        if strength is None:
            made = self._within(budget, fitted, make, Setting(None, rule, rows, layers), steps)
        else:
            whole = make(fitted.propose(None)).scaled(strength)
            made = fitted.at_strength(make, whole, steps)
        origin = self._origin(
            {"rule": rule, "rows": made.row_count, "layers": layers, "steps": steps}
        )
        return replace(made, provenance=origin).bound_to(self.model.checkpoint, self.model.gates)

    @property
    def _sign(self) -> int:
        """Of the strength: -1 where all goes toward the behaviors."""
        return max(target.sign for target in self.targets)

    @cached_property
    def _splits(self) -> tuple[Split, ...]:
        return tuple(target.split(TEST_SHARE, self.seed) for target in self.targets)

    @cached_property
    def _clean(self) -> Sequence[str]:
        test = [text for split in self._splits for text in split.test]
        return self.neutral or [text.text for text in test if text.label == 0]

    def _own_answers(self, texts: Iterable[LabeledText]) -> list[LabeledText]:
        return own_answers(self.model, texts, progress=self.progress)

    def _fitted(self, rule: Rule) -> FittedRule:
        """What the rule makes of the texts."""
        sign, seed = self._sign, self.seed
        train = [some_of_each(split.train, RULE_TEXTS) for split in self._splits]
        own = self._own_answers(text for split in self._splits for text in split.train)
        passes = Passes(self.model, Ledger(), progress=self.progress)
        if rule == "natural-gradient":
            contrasts = [
                contrast_of(texts, sign=one.sign, weight=self._weight(one), name=one.name)
                for one, texts in zip(self.targets, train, strict=True)
            ]
            return fit_contrasts(passes, contrasts, self._clean, own=own, sign=sign, seed=seed)
        (split,) = self._splits
        probe = self._probe(split)
        refuse_chance(probe)
        return fit_rule(
            passes, rule, train[0], self._clean, own=own, probe=probe, sign=sign, seed=seed
        )

    def _probe(self, split: Split) -> Probe:
        """A probe of the last layer."""
        train, test, layer = split.train, split.test, self.model.layer_count
        written = [self.model.render(text) for text in (*train, *test)]
        states = extract_hidden_states(self.model, written, [layer], progress=self.progress)
        found = states.by_layer[layer]
        return fit_probe_on_texts(found, train, test, layer=layer, fit="logistic", seed=self.seed)

    def _within(
        self, budget: Budget, rule: FittedRule, make: Make, setting: Setting, steps: int
    ) -> Edit:
        """The edit at the largest strength inside a budget, with what it was measured to do."""
        pulled = [
            pulled_apart(some_of_each(split.test, SCREEN_TEXTS), target.sign)
            for target, split in zip(self.targets, self._splits, strict=True)
        ]
        own = self._own_answers(text for split in self._splits for text in split.test)
        read = first_tokens(self.model, self._clean)
        raised, lowered = pulled[0] if len(pulled) == 1 else ([], [])
        screen = Screen(
            self.model, raised, lowered, read, self.facts, own=own, progress=self.progress
        )
        found = rule.fit_within(budget, make, screen, setting, steps=steps, progress=self.progress)
        fitted = found.fitted
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
                    f"on held-out texts the edit moves {target.name} in the wrong direction "
                    f"({moves:.2g} nats per token); give it more weight, or make a separate edit"
                )
            gain += self._weight(target) * effect.selectivity
        measured = Measurement(gain, fitted.effect.divergence, moved)
        return replace(fitted.edit, measured=measured)

    def _origin(self, settings: dict[str, Any]) -> Provenance:
        """Where the edit comes from."""
        inputs = {"neutral": sha256_json(list(self._clean))}
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
        return Provenance(seed=self.seed, inputs=inputs, settings=settings)

    def _weight(self, target: Target) -> float:
        """Of its contrast: negative where it goes the other way than the edit."""
        return target.weight * target.sign * self._sign
