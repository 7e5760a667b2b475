"""A study: the trials of one search in a file, so that it goes on after an interruption.

The file is Optuna's journal. A study in it is named by the hash of all that its trials depend on,
so two studies never mix, however often a file is given again. Several processes may work on one
study at the same time.
"""

import fcntl
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from modelsurgery.errors import ArtifactError, StorageError
from modelsurgery.evaluation.screening import Effect
from modelsurgery.files.atomic import sha256_json
from modelsurgery.search.space import SearchSpace, Setting

STRENGTH, EFFECT, FAILURE = "strength", "effect", "failure"
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Trial:
    """One edit that was measured.

    Attributes:
        number: in its study, from 0.
        setting: direction, rows and window.
        strength: in portable units, always positive: which way, the search knows.
        effect: what it does to validation texts.
    """

    number: int
    setting: Setting
    strength: float
    effect: Effect


@dataclass(frozen=True)
class Proposal:
    """A trial that is to be made.

    Attributes:
        trial: Optuna's.
        setting: what it says.
        strength: None where it is for the caller to say.
    """

    trial: optuna.Trial
    setting: Setting
    strength: float | None


class Study:
    """Trials of one search; a context manager."""

    def __init__(
        self,
        space: SearchSpace,
        key: Mapping[str, Any],
        *,
        path: Path | None = None,
        seed: int = 0,
        sampler: BaseSampler | None = None,
    ) -> None:
        """Open a study, or make it.

        Args:
            space: what is searched.
            key: plain values that name all that trials depend on besides the space.
            path: journal file; None keeps the trials in memory.
            seed: of the sampler.
            sampler: proposes settings; None takes Optuna's tree-structured Parzen estimator.

        Raises:
            ArtifactError: the file is not a journal of studies.
            StorageError: it cannot be written.
        """
        self.space, self._seed, self._sampler = space, seed, sampler
        self._path, self._lock = path, -1
        with self._failing_well():
            self._is_first = self._locked()
            storage: BaseStorage = InMemoryStorage()
            if path is not None:
                storage = JournalStorage(JournalFileBackend(str(path)))
            name = sha256_json({"space": space.to_json(), **key})[:32]
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
            if self._is_first:
                self._end_what_was_interrupted()

    def __enter__(self) -> Self:
        """The study itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let others know that nobody works on it here."""
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
    def failures(self) -> list[str]:
        """What went wrong with trials that broke the model."""
        failed = self._all(TrialState.FAIL)
        return [one.user_attrs[FAILURE] for one in failed if FAILURE in one.user_attrs]

    def want(self, setting: Setting, strength: float | None = None) -> None:
        """Put a setting before what the sampler would propose, once."""
        parameters = self.space.parameters(setting)
        given = {} if strength is None else {STRENGTH: strength}
        with self._failing_well():
            for one in self._study.get_trials(deepcopy=False):
                if one.state == TrialState.FAIL and FAILURE not in one.user_attrs:
                    continue
                asked = one.params or one.system_attrs.get("fixed_params", {})
                same = one.user_attrs.get(STRENGTH) == strength or strength is None
                if asked == parameters and same:
                    return
            self._study.enqueue_trial(parameters, user_attrs=given)

    def ask(self) -> Proposal:
        """What should be tried next."""
        # With those under way, or several that are asked for in a row would be the same.
        begun = self._all(TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
        self._study.sampler = self._sampler or _parzen_estimator(self._seed + len(begun))
        with self._failing_well():
            trial = self._study.ask(self.space.distributions())
        strength = trial.user_attrs.get(STRENGTH)
        return Proposal(trial, self.space.setting(trial.params), strength)

    def tell(self, proposal: Proposal, strength: float, effect: Effect, value: float) -> None:
        """Keep what came of a proposal; `value`, larger is better, guides the sampler."""
        with self._failing_well():
            proposal.trial.set_user_attr(STRENGTH, strength)
            if effect.is_finite and math.isfinite(value):
                proposal.trial.set_user_attr(EFFECT, asdict(effect))
                self._study.tell(proposal.trial, value)
            else:
                why = f"strength {strength:.3g} gave losses that are not finite"
                proposal.trial.set_user_attr(FAILURE, why)
                self._study.tell(proposal.trial, state=TrialState.FAIL)

    def _all(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        with self._failing_well():
            found = self._study.get_trials(deepcopy=False, states=states)
        ours = TrialState.FAIL
        return [one for one in found if one.state != ours or FAILURE in one.user_attrs]

    def _end_what_was_interrupted(self) -> None:
        """What a process left behind is taken up again."""
        for one in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(one.number, state=TrialState.FAIL)
            if one.params.keys() == self.space.distributions().keys():
                self._study.enqueue_trial(one.params, user_attrs=one.user_attrs)

    def _locked(self) -> bool:
        """Whether nobody else works on the file; the mark goes when this process ends."""
        if self._path is None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(f"{self._path}.users", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def _failing_well(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Optuna's file lock removes a file that is gone when Ctrl-C comes as it lets go.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise StorageError(
                f"{self._path}: {error.strerror}; the trials so far are kept, free some space and "
                "run the same command again"
            ) from error
        except (ValueError, KeyError) as error:
            raise ArtifactError(
                f"{self._path}: not a journal of studies ({error}); delete it to start over, or "
                "use another --study"
            ) from error


def _parzen_estimator(seed: int) -> BaseSampler:
    """Several trials are asked for before one is told: those are taken for bad ones meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True)
