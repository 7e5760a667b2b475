"""A study: the trials of one search in a file or database, so that it goes on when interrupted.

A study is named by the hash of all that its trials depend on, so two studies never mix, however
often a storage is given again. Several processes may work on one study at the same time, on several
machines too. No trial is made twice and none is lost: what a dead process left is made again, by
Optuna's heartbeats in a database, or by the next process that is alone with a file.
"""

import fcntl
import math
import os
import socket
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from modelsurgery.evaluation.screening import Effect
from modelsurgery.files.atomic import sha256_json
from modelsurgery.search.heartbeats import Heartbeats
from modelsurgery.search.space import SearchSpace, Setting
from modelsurgery.search.storages import (
    Location,
    close_storage,
    is_journal,
    open_storage,
    storage_errors,
)

STRENGTH, EFFECT, FAILURE, PROCESS = "strength", "effect", "failure", "process"
# Optuna's names for what was enqueued, and for what is tried again after its process died.
FIXED, RETRIED, RETRIES = "fixed_params", "failed_trial", "retry_history"
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Trial:
    """One edit that was measured."""

    number: int  # in its study, from 0
    setting: Setting  # direction, rows and window
    strength: float  # in portable units, always positive: which way, the search knows
    effect: Effect  # what it does to validation texts


@dataclass(frozen=True)
class Proposal:
    """A trial that is to be made."""

    trial: optuna.Trial  # Optuna's
    setting: Setting  # what it says
    strength: float | None  # None where it is for the caller to say


class Study:
    """Trials of one search; a context manager."""

    def __init__(
        self,
        space: SearchSpace,
        key: Mapping[str, Any],
        *,
        storage: Location = None,
        seed: int = 0,
        sampler: BaseSampler | None = None,
    ) -> None:
        """Open a study, or make it.

        Args:
            space: what is searched.
            key: plain values that name all that trials depend on besides the space.
            storage: journal file, or URL of a database or proxy (`open_storage`); None keeps the
                trials in memory.
            seed: of the sampler.
            sampler: proposes settings; None takes Optuna's tree-structured Parzen estimator.

        Raises:
            ArtifactError: the file is not a journal of studies.
            RecipeError: the URL is of no storage.
            StorageError: it cannot be written, does not answer or refuses.
        """
        self.space, self._seed, self._sampler = space, seed, sampler
        self._location, self._lock = storage, -1
        with storage_errors(self._location):
            is_alone = self._is_alone()
            self._storage = open_storage(storage)
            self.name = sha256_json({"space": space.to_json(), **key})[:32]
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=self.name,
                direction="maximize",
                load_if_exists=True,
            )
            if is_alone:
                self._end_what_was_interrupted()
            if self._lock >= 0:  # in use from now on, and others may come
                fcntl.flock(self._lock, fcntl.LOCK_SH)
            self._heartbeats = Heartbeats(self._study, self._storage)

    def __enter__(self) -> Self:
        """The study itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let others know that nobody works on it here."""
        self._heartbeats.close()
        close_storage(self._storage)
        if self._lock >= 0:
            os.close(self._lock)

    def trials(self) -> list[Trial]:
        """All trials that gave an effect, in the order of their numbers."""
        found = []
        for one in self._all(TrialState.COMPLETE):
            effect = Effect(**one.user_attrs[EFFECT])
            setting = self.space.setting(one.params)
            found.append(Trial(one.number, setting, one.user_attrs[STRENGTH], effect))
        return found

    @property
    def ended(self) -> int:
        """How many trials were made, those included whose edit broke the model."""
        return len(self._all(TrialState.COMPLETE, TrialState.FAIL))

    @property
    def elsewhere(self) -> int:
        """Trials that other living processes work on; 0 where the storage does not know them."""
        with storage_errors(self._location):
            self._heartbeats.revive()
            return self._heartbeats.elsewhere()

    @property
    def failures(self) -> list[str]:
        """What went wrong with trials that broke the model."""
        failed = self._all(TrialState.FAIL)
        return [one.user_attrs[FAILURE] for one in failed if FAILURE in one.user_attrs]

    def set_attribute(self, name: str, value: Any) -> None:
        """Say something of the study to all processes that work on it; a plain value."""
        with storage_errors(self._location):
            self._study.set_user_attr(name, value)

    def attribute(self, name: str) -> Any:
        """What was said last, by any process; None if nothing was."""
        with storage_errors(self._location):
            return self._study.user_attrs.get(name)

    def want(self, setting: Setting, strength: float | None = None) -> None:
        """Put a setting before what the sampler would propose, once."""
        parameters = self.space.parameters(setting)
        given = {} if strength is None else {STRENGTH: strength}
        with storage_errors(self._location):
            if not self._is_there(self._study.get_trials(deepcopy=False), parameters, strength):
                self._study.enqueue_trial(parameters, user_attrs=given)

    def ask(self) -> Proposal:
        """What should be tried next."""
        while True:
            # With those under way, or several that are asked for in a row would be the same.
            begun = self._all(TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
            seed = (self._seed + len(begun)) % 2**32
            self._study.sampler = self._sampler or _parzen_estimator(seed)
            with storage_errors(self._location), warnings.catch_warnings():
                # Optuna doesn't know that heartbeats are sent here.
                warnings.filterwarnings("ignore", "Heartbeat of storage")
                trial = self._study.ask(self.space.distributions())
                self._heartbeats.start(trial.number)
                strength = trial.user_attrs.get(STRENGTH)
                proposal = Proposal(trial, self.space.setting(trial.params), strength)
                if not self._is_double(trial):
                    if self._location is not None:
                        trial.set_user_attr(PROCESS, f"{socket.gethostname()} {os.getpid()}")
                    return proposal
                self.drop(proposal)

    def tell(self, proposal: Proposal, strength: float, effect: Effect, value: float) -> None:
        """Keep what came of a proposal; `value`, larger is better, guides the sampler.

        What this process took too long for is another's by now, and left to it.
        """
        trial = proposal.trial
        with storage_errors(self._location), suppress(UpdateFinishedTrialError):
            trial.set_user_attr(STRENGTH, strength)
            if effect.is_finite and math.isfinite(value):
                trial.set_user_attr(EFFECT, asdict(effect))
                self._study.tell(trial, value, skip_if_finished=True)
            else:
                why = f"strength {strength:.3g} gave losses that are not finite"
                trial.set_user_attr(FAILURE, why)
                self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self._heartbeats.stop(trial.number)

    def drop(self, proposal: Proposal) -> None:
        """Do not make a trial after all; it does not count."""
        with storage_errors(self._location):
            self._study.tell(proposal.trial, state=TrialState.FAIL, skip_if_finished=True)
        self._heartbeats.stop(proposal.trial.number)

    def _is_double(self, trial: optuna.Trial) -> bool:
        """Whether two processes wanted the same, at the same moment."""
        trials = {one.number: one for one in self._study.get_trials(deepcopy=False)}
        if not {FIXED, RETRIED} & trials[trial.number].system_attrs.keys():
            return False
        earlier = [one for number, one in trials.items() if number < trial.number]
        return self._is_there(earlier, trial.params, trial.user_attrs.get(STRENGTH))

    def _is_there(
        self, trials: Iterable[FrozenTrial], parameters: Mapping[str, Any], strength: float | None
    ) -> bool:
        """Whether parameters are among trials, at a strength or, without one, at any."""
        return any(
            (one.params or one.system_attrs.get(FIXED, {})) == parameters
            and (strength is None or one.user_attrs.get(STRENGTH) == strength)
            for one in trials
            if one.state != TrialState.FAIL or FAILURE in one.user_attrs
        )

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        with storage_errors(self._location):
            found = self._study.get_trials(deepcopy=False)
        # A process may have died between what it said of a trial and its end.
        again = {number for one in found for number in one.system_attrs.get(RETRIES, ())}
        return [
            one
            for one in found
            if one.state in states
            and (one.state != TrialState.FAIL or FAILURE in one.user_attrs)
            and one.number not in again
        ]

    def _end_what_was_interrupted(self) -> None:
        """What a process left behind is taken up again."""
        for one in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(one.number, state=TrialState.FAIL)
            if one.params.keys() == self.space.distributions().keys():
                self._study.enqueue_trial(one.params, user_attrs=one.user_attrs)

    def _is_alone(self) -> bool:
        """Whether nobody else works on the file; others wait until the lock is shared."""
        if self._location is None:
            return True
        if not is_journal(self._location):
            return False
        path = Path(self._location)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(f"{path}.users", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return False
        return True


def _parzen_estimator(seed: int) -> BaseSampler:
    """Several trials are asked for before one is told: those are taken for bad ones meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True)
