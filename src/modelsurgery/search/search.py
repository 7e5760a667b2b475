"""The search: trials on texts, then generation with the best, then one edit.

Trials are cheap: forward passes over validation texts, several edits in each. A trial that shows a
setting to be worth it and does not use the budget, or breaks it, is followed by one with a
corrected strength. The last trials bring the best settings of different kinds to the edge of the
budget; these continue validation prompts, and the judge decides.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from modelsurgery.data.behaviors import Behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit, make_edit
from modelsurgery.edit.probe import DIRECTION_SOURCES, Probe
from modelsurgery.edit.region import RowScores, select_region
from modelsurgery.errors import DamageBudgetError, EvaluationError
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.protocol import decodings_of, prompt_rates
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.statistics import rate_of
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.stacking import score_model_rows
from modelsurgery.rules.contrast import pulled_apart
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.search.budget import SAFETY, Budget
from modelsurgery.search.found import DOSES, DosePoint, SearchResult, Survivor
from modelsurgery.search.sharing import end_sharing
from modelsurgery.search.space import SearchSpace, Setting
from modelsurgery.search.strength import UncalledMeasure
from modelsurgery.search.strength_schedule import (
    FIRST_STRENGTH,
    corrected_strength,
    expected_strength,
    value_at_budget,
)
from modelsurgery.search.study import Proposal, Study, Trial

TRIALS = 40
AT_A_TIME = 8
FOLLOW_UPS = 4  # of these, at most
FINISHING = 0.4  # of the trials, or of the time, for the strengths of what will be judged
TRIALS_OF_A_SETTING = 6
SURVIVORS = 8
CONTINUATIONS = 100  # of each survivor, at least: few prompts are continued several times
TEXTS_PER_KIND = 64
NEUTRAL_TEXTS = 128
SECONDS_TO_WAIT = 0.5  # for trials of other processes


class Search:
    """A search on one model: holds its texts, probes and scored rows."""

    def __init__(
        self,
        model: LanguageModel,
        behavior: Behavior,
        judge: Judge,
        probes: Sequence[Probe],
        space: SearchSpace,
        budget: Budget,
        *,
        sign: int = 1,
        seed: int = 0,
        store: Store | None = None,
        proposals: Mapping[str, Callable[[float | None], RowProposal]] | None = None,
        own: Sequence[LabeledText] = (),
        uncalled: UncalledMeasure | None = None,
        first_strength: float = FIRST_STRENGTH,
        neutral_texts: int | None = None,
        progress: Progress = silent,
    ) -> None:
        """Score the gate rows and measure the base model.

        Args:
            model: the base model.
            behavior: its validation texts, prompts and neutral texts are used.
            judge: decides between survivors.
            probes: give the directions, one probe for each probe layer of the space.
            space: what to try.
            budget: what must not break.
            sign: 1 away from the behavior, -1 toward it.
            seed: of proposals and of sampling.
            store: where continuations and judgements are looked up and kept.
            proposals: by name of a rule other than the paper's, what it proposes at a damping.
            own: requests with the model's own answers, which should stay as they are.
            uncalled: measures prompts that do not call for the behavior; only what would be chosen
                is measured, since it generates.
            first_strength: of the first trials, before any says how strong an edit may be.
            neutral_texts: neutral texts that edits are screened on, at most; None takes 128.
            progress: is told of trials made.
        """
        self._proposals, self._first_strength = dict(proposals or {}), first_strength
        self.budget, self.space = budget, space
        self._model, self._judge, self._store = model, judge, store
        self._sign, self._uncalled, self._progress = sign, uncalled, progress
        self._directions: dict[tuple[int | None, str], np.ndarray] = {
            (probe.layer, rule): probe.direction(rule)
            for probe in probes
            for rule in space.rules
            if rule in DIRECTION_SOURCES
        }
        self._scores: RowScores | None = None
        if self._directions:
            directions = np.stack(list(self._directions.values()))
            self._scores = score_model_rows(model, directions, progress=progress)
        self._prompts = behavior.validation_prompts
        rounds = math.ceil(CONTINUATIONS / len(self._prompts)) if self._prompts else 1
        self._decodings = decodings_of(behavior.prompt_sets[0], rounds, seed)
        raised, lowered = (one[:TEXTS_PER_KIND] for one in pulled_apart(behavior.validation, sign))
        most = min(NEUTRAL_TEXTS, neutral_texts or NEUTRAL_TEXTS)
        neutral, facts = behavior.validation_neutral[:most], behavior.validation_facts
        with progress("base model", 0):
            self.screen = Screen(model, raised, lowered, neutral, facts, own=own, progress=progress)

    def run(
        self, study: Study, *, trials: int | None = TRIALS, minutes: float | None = None
    ) -> SearchResult:
        """Make trials as `make_trials` does, then let the judge decide.

        What the study holds already, from an earlier session, counts too.

        Raises:
            DamageBudgetError: no trial stays inside the budget.
        """
        seconds = self.make_trials(study, trials, minutes)
        end_sharing(study)
        found = study.trials()
        survivors, base_rate = self.judged(self.most_promising(found))
        survivors = self.sparing(survivors)
        if not survivors:
            raise DamageBudgetError(self._why_none(found, study.failures))
        best = survivors[0].trial
        return SearchResult(
            best,
            replace(self.edit_of(best.setting, best.strength), measured=best.effect.measurement),
            next(iter(self.most_promising(found, share=0.5)), None),
            tuple(survivors),
            tuple(found),
            self._front(found),
            len(study.failures),
            base_rate,
            self._rank_correlation(survivors),
            seconds,
        )

    def make_trials(
        self,
        study: Study,
        trials: int | None,
        minutes: float | None = None,
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> tuple[float, int]:
        """Trials, several at a time; the seconds that they took, and their number.

        No more than `trials`, those of other processes included, no new ones after so many minutes,
        or once nobody wants more of them (`is_over`).
        """
        started, made = time.monotonic(), 0
        end = math.inf if minutes is None else started + 60 * minutes
        goal = math.inf if trials is None else trials
        for setting in self.space.first_settings():
            study.want(setting)
        left = max(0, goal - study.ended)
        with self._progress("trials", AT_A_TIME if math.isinf(left) else int(left)) as advance:
            while time.monotonic() <= end and (ended := study.ended) < goal and not is_over():
                room = int(min(AT_A_TIME, goal - ended - study.elsewhere))
                if room > 0:
                    is_late = goal - ended <= FINISHING * goal < math.inf
                    if minutes is not None:
                        is_late |= end - time.monotonic() <= FINISHING * 60 * minutes
                    self._follow_up(study, room if is_late else min(room, FOLLOW_UPS), is_late)
                    room = self._try(study, room, goal)
                    made += room
                if room <= 0:  # others have the last trials, and may yet die
                    time.sleep(SECONDS_TO_WAIT)
                advance(study.ended - ended)
        return time.monotonic() - started, made

    def _try(self, study: Study, count: int, goal: float) -> int:
        """Several trials in the same forward passes; how many these were."""
        asked: list[tuple[Proposal, float]] = []
        for _ in range(count):
            proposal = study.ask()
            others = study.elsewhere
            if study.ended + others + len(asked) >= goal:  # others made or began some meanwhile
                study.drop(proposal)
                break
            strength = proposal.strength
            if strength is None:
                known, first = study.trials(), self._first_strength
                strength = expected_strength(
                    self.space, self.budget, known, proposal.setting, first=first
                )
            asked.append((proposal, strength))
        edits = [self.edit_of(one.setting, strength) for one, strength in asked]
        effects = self.screen.measure(edits, progress=self._progress) if edits else []
        for (one, strength), effect in zip(asked, effects, strict=True):
            trial = Trial(one.trial.number, one.setting, strength, effect)
            study.tell(one, strength, effect, self._value(trial))
        return len(asked)

    def most_promising(self, trials: Sequence[Trial], share: float = SAFETY) -> list[Trial]:
        """Trials inside a share of the budget that change the behavior most, of different kinds."""
        inside = [one for one in trials if self.budget.allows(one.effect, share)]
        moving = [one for one in inside if self._change(one) > 0]
        ordered = sorted(moving, key=lambda one: (-self._change(one), one.number))
        # The best of each kind come before all others.
        firsts = {one.setting.kind: one for one in reversed(ordered)}.values()
        return sorted(ordered, key=lambda one: one not in firsts)[:SURVIVORS]

    def judged(self, trials: Sequence[Trial]) -> tuple[list[Survivor], float | None]:
        """Trials with their rates on validation prompts, best first, and the base model's rate.

        Raises:
            EvaluationError: the judge could judge nothing.
        """
        if not trials:
            return [], None
        found = []
        with self._progress("survivors", 1 + len(trials)) as advance:
            base = self._rate()
            advance(1)
            for one in trials:
                found.append(Survivor(one, self._rate([self.edit_of(one.setting, one.strength)])))
                advance(1)
        if base is None and all(one.rate is None for one in found):
            raise EvaluationError(
                f"judge {self._judge.name} could not judge any continuation of "
                f"{len(self._prompts)} prompts; the trials are kept: fix the judge or choose "
                "another with --judge, and run the same command again"
            )
        found.sort(key=lambda one: math.inf if one.rate is None else self._sign * one.rate)
        return found, base

    def sparing(self, survivors: Sequence[Survivor]) -> list[Survivor]:
        """Survivors from the first on that spares prompts which do not call for the behavior."""
        if self._uncalled is None or self.budget.uncalled_rise is None:
            return list(survivors)
        for place, one in enumerate(survivors):
            trial = one.trial
            effect = self._uncalled(trial.effect, self.edit_of(trial.setting, trial.strength))
            if self.budget.allows(effect):
                best = replace(one, trial=replace(trial, effect=effect))
                return [best, *survivors[place + 1 :]]
        return []

    def edit_of(self, setting: Setting, strength: float) -> Edit:
        """The edit of a setting, strengths being positive."""
        if setting.rule in self._proposals:
            return self._proposals[setting.rule](setting.damping).edit(
                setting.rows,
                layers=setting.window,
                per_layer=setting.per_layer,
                strength=self._sign * strength,
            )
        assert self._scores is not None  # rules of the space are either in proposals or directions
        key = (setting.probe_layer, setting.rule)
        region = select_region(
            self._scores,
            setting.rows,
            direction_index=list(self._directions).index(key),
            layers=setting.window,
            per_layer=setting.per_layer,
        )
        return make_edit(
            region,
            self._directions[key],
            strength=self._sign * strength,
            layout=self._model.layout,
        )

    def _follow_up(self, study: Study, most: int, is_late: bool) -> None:
        """Want settings again, with strengths that fit the budget better.

        First those that promise more than the best trial shows; late, all that would be judged.
        """
        by_setting: dict[Setting, list[Trial]] = {}
        for trial in study.trials():
            by_setting.setdefault(trial.setting, []).append(trial)
        inside = self.most_promising([one for some in by_setting.values() for one in some])
        reached = self._change(inside[0]) if inside else 0.0
        finalists = {trial.setting for trial in inside} if is_late else set()
        promised = {
            setting: max(self._value(trial) for trial in some)
            for setting, some in by_setting.items()
            if len(some) < TRIALS_OF_A_SETTING
        }
        for setting in sorted(promised, key=lambda one: -promised[one]):
            if most == 0:
                break
            if promised[setting] <= reached and setting not in finalists:
                continue
            strength = corrected_strength(self.budget, by_setting[setting])
            if strength is not None:
                study.want(setting, strength)
                most -= 1

    def _change(self, trial: Trial) -> float:
        """How far a trial goes in the wanted direction, nats per token."""
        return self._sign * trial.effect.selectivity

    def _value(self, trial: Trial) -> float:
        return self._sign * value_at_budget(self.budget, trial)

    def prompt_rates(self, edits: Sequence[Edit]) -> list[float]:
        """How often each validation prompt shows the behavior under edits, 0 to 1."""
        measured = self._model, self._prompts, self._judge, self._decodings, self._store
        return prompt_rates(*measured, edits, progress=self._progress)

    def dose_response(self, edit: Edit, doses: Sequence[float] = DOSES) -> tuple[DosePoint, ...]:
        """What the rows of an edit do at other strengths, on validation data, weakest first.

        Every strength continues the same prompts with the same random numbers; one at which the
        model is broken is left out. The curve explains a choice and is no part of it: the strength
        is chosen before.
        """
        scaled = [edit.scaled(dose) for dose in doses]
        points = []
        with self._progress("dose-response", len(doses)) as advance:
            effects = self.screen.measure(scaled, progress=self._progress)
            for dose, one, effect in zip(doses, scaled, effects, strict=True):
                if effect.is_finite:
                    rates = self.prompt_rates([one] if dose else [])
                    rate = rate_of(rates) if rates else None
                    told = self._uncalled(effect, one) if self._uncalled and dose else effect
                    used = self.budget.used(told)
                    points.append(DosePoint(one.strength, rate, told, used, dose == 1.0))
                advance(1)
        return tuple(points)

    def _rate(self, edits: Sequence[Edit] = ()) -> float | None:
        rates = self.prompt_rates(edits)
        return sum(rates) / len(rates) if rates else None

    def _front(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        ordered = sorted(
            trials, key=lambda one: (self.budget.use(one.effect), -self._change(one), one.number)
        )
        found: list[Trial] = []
        for trial in ordered:
            if self._change(trial) > (self._change(found[-1]) if found else 0.0):
                found.append(trial)
        return tuple(found)

    def _rank_correlation(self, survivors: Sequence[Survivor]) -> float | None:
        judged = [one for one in survivors if one.rate is not None]
        changes = [self._change(one.trial) for one in judged]
        rates = [-self._sign * one.rate for one in judged if one.rate is not None]
        if len(judged) < 3 or len(set(rates)) < 2 or len(set(changes)) < 2:
            return None
        return float(spearmanr(changes, rates).statistic)

    def _why_none(self, trials: Sequence[Trial], failures: Sequence[str]) -> str:
        if not trials:
            return f"no edit: every trial broke the model ({failures[0]}); check its weights"
        mildest = min(trials, key=lambda one: max([*self.budget.used(one.effect).values(), 0]))
        if self.budget.allows(mildest.effect):
            return (
                "no edit: no trial within the budget moves the behavior in the requested "
                "direction; use a larger budget, more --trials or more texts"
            )
        binding, share = self.budget.binding(mildest.effect)
        return (
            f"no edit: the weakest of {len(trials)} trials (strength {mildest.strength:.2g}) uses "
            f"{share:.1f} times the budget of {binding}, and at most {SAFETY:.0%} of it may be "
            "used on validation texts; use a larger budget or more --trials"
        )
