"""Which trials living processes work on, for storages of Optuna that keep heartbeats.

`Study.optimize` of Optuna beats for one trial at a time; here several are measured in the same
forward passes, so a thread beats for all that are open.
"""

import threading
import warnings
from contextlib import suppress

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials
from optuna.trial import TrialState
from sqlalchemy.exc import DBAPIError


class Heartbeats:
    """Heartbeats of the trials of one process; does nothing for storages that keep none."""

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        """Begin to beat for trials of a study; the storage is the one that it was opened with."""
        self._study, self._own, self._seen = study, set[int](), set[int]()
        self._storage = storage if isinstance(storage, RDBStorage) else None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if self._storage is not None:
            self._of_study = self._storage.get_study_id_from_name(study.study_name)
            self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
            self._thread.start()

    def start(self, number: int) -> None:
        """Beat for a trial from now on."""
        if self._storage is not None:
            self._record(number)
            self._own.add(number)

    def stop(self, number: int) -> None:
        """A trial has ended."""
        self._own.discard(number)

    def revive(self) -> None:
        """Put what dead processes left back into the queue."""
        if self._storage is None:
            return
        for number in self._running():
            # Its process may have died between the trial and its first heartbeat, and a trial
            # without any never counts as left behind.
            if number not in self._seen | self._own:
                self._record(number)
            self._seen.add(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)

    def elsewhere(self) -> int:
        """How many trials living processes work on besides this one; 0 if that is not known."""
        if self._storage is None:
            return 0
        return len(set(self._running()) - self._own)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _running(self) -> list[int]:
        found = self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [one.number for one in found]

    def _beat(self) -> None:
        assert self._storage is not None
        interval = self._storage.get_heartbeat_interval()
        while not self._ended.wait(interval):
            for number in tuple(self._own):
                # The database may be back before the next one; whoever tells a trial will say so.
                with suppress(DBAPIError, StorageInternalError):
                    self._record(number)
        self._storage.remove_session()  # this thread's

    def _record(self, number: int) -> None:
        assert self._storage is not None
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._of_study, number)
        self._storage.record_heartbeat(trial)
