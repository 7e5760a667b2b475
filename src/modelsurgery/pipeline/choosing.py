"""How a recipe's edit is chosen: by its rule, at the strength that it says or its budget allows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from modelsurgery.data.behaviors import Behavior
from modelsurgery.data.texts import LabeledText, texts_sha256
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import Probe
from modelsurgery.edit.region import PAPER_ROWS, select_rows
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.evaluation.store import Store
from modelsurgery.evaluation.uncalled import uncalled_of
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.runs import STUDY_FILE, RunDirectory, recorded_for_others
from modelsurgery.rules.natural_gradient import Evidence
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.search import (
    Budget,
    DosePoint,
    FittedStrength,
    Search,
    SearchResult,
    SearchSpace,
    Setting,
    Study,
    default_probe_layers,
    default_space,
    rule_space,
)
from modelsurgery.search.fitting import (
    RULE_STRENGTH,
    RULE_TEXTS,
    FittedRule,
    Make,
    fit_rule,
    refuse_chance,
    some_of_each,
)
from modelsurgery.search.found import DOSES, DOSES_BY_COUNT
from modelsurgery.search.sharing import SharedSearch, is_over
from modelsurgery.search.storages import Location
from modelsurgery.search.strength import UncalledMeasure
from modelsurgery.search.strength_schedule import FIRST_STRENGTH

REPORT_TEXTS = 200  # held-out texts that a probe is measured on


@dataclass(frozen=True)
class Choice:
    """An edit, and where it comes from."""

    # How well hidden states tell the labels apart; gives the paper's rule its direction.
    probe: Probe
    setting: Setting  # rule, rows and window
    edit: Edit  # the edit
    # What the rule says of all rows; None after a search with the paper's rule.
    proposal: RowProposal | None = None
    # Whether the texts agree on the edit; None for rules that can't tell.
    evidence: Evidence | None = None
    # How its strength was found; None when the recipe or a search says it.
    strength: FittedStrength | None = None
    search: SearchResult | None = None  # how it was found; None without one
    # The chosen rows at other strengths, on validation data; empty where the recipe gives the
    # strength.
    curve: tuple[DosePoint, ...] = ()
    milder: "Choice | None" = None  # the best edit inside half of the budget, if there is one
    steps: int = 1  # of the rule


@dataclass(frozen=True)
class Choosing:
    """Chooses the edit of a recipe; the run directory keeps what is computed on the way.

    Edits that the model has in memory are part of it. A search begins no trial after
    `search_minutes`; None does not limit it.
    """

    recipe: Recipe
    run: RunDirectory
    model: LanguageModel
    behavior: Behavior
    judge: Judge
    store: Store
    progress: Progress
    search_minutes: float | None = None

    def choose(self) -> Choice:
        """The edit that the recipe asks for.

        Raises:
            NoSignalError: the texts do not tell the labels apart.
            DamageBudgetError: nothing that was tried stays inside the budget.
        """
        recipe, gates = self.recipe, self.model.gates
        # Refuses a wrong number of rows or window of layers before anything takes time.
        select_rows(
            gates,
            [np.zeros(gate.rows) for gate in gates],
            self._rows,
            mean_row_norm=0.0,
            layers=recipe.layers,
        )
        probes, fitted = self._read()
        if recipe.is_searched:
            return self._searched(probes, fitted)
        assert fitted is not None
        return self._by_rule(probes[0], fitted)

    def join(self, shared: SharedSearch, storage: Location, seed: int) -> int:
        """Make trials of a search that another process began; how many were made here.

        The seed is that of this process's proposals, another one than those of the others.

        Raises:
            RecipeError: something that the trials depend on is not the same here.
        """
        probes, fitted = self._read()
        search = self._search(probes, fitted)
        inputs = self._study_key(probes)
        shared.refuse_others({**inputs, "space": search.space.to_json()})
        with Study(search.space, inputs, storage=storage, seed=seed) as study:
            _, made = search.make_trials(
                study, shared.trials, shared.minutes, is_over=lambda: is_over(study)
            )
        return made

    def _read(self) -> tuple[list[Probe], FittedRule | None]:
        """Probes, and what the rule makes of the texts; None for a search with the paper's."""
        recipe = self.recipe
        probes = self._probes()
        if recipe.chosen_rule != "natural-gradient":  # that one has evidence of its own
            refuse_chance(probes[0])
        if recipe.chosen_rule == "paper" and recipe.is_searched:
            return probes, None
        ledger = Ledger(self.run.path / "statistics")
        return probes, fit_rule(
            Passes(self.model, ledger, progress=self.progress),
            recipe.chosen_rule,
            some_of_each(self.behavior.train, recipe.train_texts or RULE_TEXTS),
            self.behavior.validation_neutral,
            own=self.own_answers(self.behavior.train),
            probe=probes[0],
            direction_source=recipe.direction_source,
            sign=recipe.sign,
            seed=recipe.seed,
        )

    @property
    def budget(self) -> Budget:
        """The recipe's, without what the behavior has no prompts for."""
        given = self.recipe.budget
        return given if self.uncalled is not None else given.without_uncalled()

    @cached_property
    def uncalled(self) -> UncalledMeasure | None:
        """Measures prompts that do not call for the behavior; None where there are none."""
        return uncalled_of(self.model, self.behavior, self.judge, self.store, self.progress)

    def own_answers(self, texts: Sequence[LabeledText]) -> list[LabeledText]:
        """The model's answers to those of the requests that do not call for the behavior."""
        return own_answers(self.model, texts, store=self.store, progress=self.progress)

    @property
    def _doses(self) -> tuple[float, ...]:
        return DOSES_BY_COUNT[self.recipe.doses or len(DOSES)]

    @property
    def _rows(self) -> float | int:
        return PAPER_ROWS if self.recipe.rows is None else self.recipe.rows

    def _by_rule(self, probe: Probe, rule: FittedRule) -> Choice:
        """The best rows that a rule proposes, at the recipe's strength or the budget's."""
        recipe, rows, per_layer = self.recipe, self._rows, self.recipe.per_layer or False
        setting = Setting(None, recipe.chosen_rule, rows, recipe.layers, per_layer)
        if recipe.chosen_rule == "paper":
            source = recipe.direction_source or probe.default_source
            setting = replace(setting, probe_layer=probe.layer, rule=source)

        def make(proposal: RowProposal) -> Edit:
            return proposal.edit(
                rows, layers=recipe.layers, per_layer=per_layer, strength=recipe.sign
            )

        if recipe.alpha is None and recipe.strength is None:
            return self._within_budget(probe, setting, rule, make)
        proposal = rule.propose(None)
        edit = make(proposal)
        factor = recipe.strength
        if recipe.alpha is not None:
            factor = recipe.sign * recipe.alpha / edit.alpha
        assert factor is not None
        steps = recipe.steps or 1
        made = rule.at_strength(make, edit.scaled(factor), steps)
        return Choice(probe, setting, made, proposal, rule.evidence, steps=steps)

    def _within_budget(
        self, probe: Probe, setting: Setting, rule: FittedRule, make: Make
    ) -> Choice:
        """A rule's edit at the strength that the budget allows, in the steps that do most."""
        recipe = self.recipe
        search = self._search([probe], rule)
        found = rule.fit_within(
            self.budget,
            make,
            search.screen,
            setting,
            steps=recipe.tried_steps,
            is_better=None if recipe.steps else partial(self._is_better, search),
            uncalled=self.uncalled,
            progress=self.progress,
        )
        fitted = found.fitted
        choice = Choice(
            probe, setting, fitted.edit, found.proposal, rule.evidence, fitted, steps=found.steps
        )
        milder = replace(choice, edit=fitted.within(self.budget, share=0.5))
        curve = search.dose_response(fitted.edit, self._doses)
        return replace(choice, curve=curve, milder=milder)

    def _is_better(self, search: Search, several: FittedStrength, one: FittedStrength) -> bool:
        """Whether several steps do more on validation prompts than one, beyond chance.

        Selectivity says nothing here: several steps always pull the given texts further apart,
        and prompts need not be like them.
        """
        sides = [search.prompt_rates([found.edit]) for found in (one, several)]
        if not all(len(rates) > 1 for rates in sides):
            return False
        gain = self.recipe.sign * (np.mean(sides[0]) - np.mean(sides[1]))
        error = np.sqrt(sum(np.var(rates, ddof=1) / len(rates) for rates in sides))
        return bool(gain > error)

    def _searched(self, probes: Sequence[Probe], fitted: FittedRule | None) -> Choice:
        """The edit that a search finds."""
        recipe, search = self.recipe, self._search(probes, fitted)
        storage = recipe.storage or recipe.study or self.run.path / STUDY_FILE
        inputs = self._study_key(probes)
        with Study(search.space, inputs, storage=storage, seed=recipe.seed) as study:
            SharedSearch(
                study.name,
                recorded_for_others(recipe, self.run.now),
                {**inputs, "space": search.space.to_json()},
                recipe.trials,
                self.search_minutes,
                str(self.run.path.resolve()),
            ).share(study)
            found = search.run(study, trials=recipe.trials, minutes=self.search_minutes)

        def chosen(setting: Setting, edit: Edit) -> Choice:
            probe = next((one for one in probes if one.layer == setting.probe_layer), probes[0])
            if fitted is None:
                return Choice(probe, setting, edit)
            return Choice(probe, setting, edit, fitted.propose(setting.damping), fitted.evidence)

        milder = None
        if found.milder is not None:
            setting = found.milder.setting
            milder = chosen(setting, search.edit_of(setting, found.milder.strength))
        return replace(
            chosen(found.best.setting, found.edit),
            search=found,
            curve=search.dose_response(found.edit, self._doses),
            milder=milder,
        )

    def _search(self, probes: Sequence[Probe], fitted: FittedRule | None) -> Search:
        return Search(
            self.model,
            self.behavior,
            self.judge,
            probes,
            self._space(probes),
            self.budget,
            sign=self.recipe.sign,
            seed=self.recipe.seed,
            store=self.store,
            proposals={} if fitted is None else {self.recipe.chosen_rule: fitted.propose},
            own=self.own_answers(self.behavior.validation),
            uncalled=self.uncalled,
            first_strength=FIRST_STRENGTH if fitted is None else RULE_STRENGTH,
            neutral_texts=self.recipe.neutral_texts,
            progress=self.progress,
        )

    def _space(self, probes: Sequence[Probe]) -> SearchSpace:
        recipe, count = self.recipe, self.model.layer_count
        if recipe.chosen_rule == "paper":
            space = default_space(count, tuple(probe.layer for probe in probes))
            if recipe.direction_source is not None:
                space = replace(space, rules=(recipe.direction_source,))
        else:
            space = rule_space(count, recipe.chosen_rule)
        return replace(
            space,
            rows=space.rows if recipe.rows is None else recipe.rows,
            windows=space.windows if recipe.layers is None else (recipe.layers,),
            per_layer=space.per_layer if recipe.per_layer is None else (recipe.per_layer,),
        ).fitting(self.model.gates)

    def _probes(self) -> list[Probe]:
        """One probe for each layer that comes into question, from one pass over the texts."""
        recipe, behavior, count = self.recipe, self.behavior, self.model.layer_count
        layers: tuple[int, ...] = (count,)
        train, test = behavior.train, behavior.test
        if recipe.chosen_rule == "paper":
            layers = default_probe_layers(count) if recipe.is_searched else layers
            if recipe.train_texts is not None:
                train = some_of_each(train, recipe.train_texts)
        else:  # nothing but the report reads it
            layers = default_probe_layers(count)[1:2] or layers
            train = some_of_each(train, recipe.train_texts or RULE_TEXTS)
            test = some_of_each(test, REPORT_TEXTS // 2)
        layers = layers if recipe.layer is None else (recipe.layer,)
        texts = [self.model.render(text) for text in (*train, *test)]
        states = self.run.hidden_states(self.model, texts, layers, progress=self.progress)
        probes = []
        with self.progress("fit probes", len(layers)) as advance:
            for layer in layers:
                fitted = fit_probe_on_texts(
                    states.by_layer[layer],
                    train,
                    test,
                    layer=layer,
                    fit=recipe.probe_fit,
                    seed=recipe.seed,
                )
                probes.append(fitted)
                advance(1)
        return probes

    def _study_key(self, probes: Sequence[Probe]) -> dict[str, object]:
        """All that a trial depends on besides its setting."""
        recipe, behavior = self.recipe, self.behavior
        key: dict[str, object] = {
            "model": [self.model.fingerprint(), str(self.model.model.dtype)],
            "texts": texts_sha256([*behavior.train, *behavior.validation]),
            "read": sha256_json(
                self.model.token_ids([self.model.render(text) for text in behavior.validation])
            ),
            "neutral": sha256_json(list(behavior.validation_neutral)),
            "facts": sha256_json(list(behavior.validation_facts)),
            "probes": [[probe.layer, probe.fit] for probe in probes],
            "seed": recipe.seed,
            "direction": recipe.sign,
        }
        if recipe.chosen_rule != "paper":
            key |= {"rule": recipe.chosen_rule, "fit_texts": recipe.train_texts}  # earlier name
        return key
