"""What a process needs to know of a search to join it: kept among the attributes of its study."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import optuna

from modelsurgery.errors import RecipeError, StorageError
from modelsurgery.files.passwords import without_passwords
from modelsurgery.files.provenance import installed_versions
from modelsurgery.search.storages import (
    Location,
    close_storage,
    is_journal,
    open_storage,
    storage_errors,
)
from modelsurgery.search.study import Study

SEARCH, STATE, ENDED = "search", "search_state", "search_ended"
OPEN, OVER = "open", "over"
SECONDS_BETWEEN_LOOKS = 1.0
# A process that starts together with a search may look for it when it has just ended.
JUST_ENDED_SECONDS = 60.0
# How messages name what trials depend on; what is not here is named by its key.
INPUTS = {
    "model": "model (over 1 GiB of weights: also the place, sizes and times of its files)",
    "dtype": "dtype (float32 on a CPU, as stored on a GPU, unless tune has --dtype)",
    "texts": "labeled texts",
    "read": "chat template or tokenizer",
    "neutral": "neutral texts",
    "probes": "layers of the probes",
    "space": "search space",
}


@dataclass(frozen=True)
class SharedSearch:
    """A search that processes may join."""

    study: str  # name of its study
    recipe: dict[str, Any]  # plain values of its recipe, with absolute paths
    inputs: dict[str, Any]  # what its trials depend on, by name: hashes and plain values
    trials: int | None  # how many are wanted; None is no limit
    minutes: float | None  # how long a process makes trials; None is no limit
    directory: str  # run directory of the process that began it, where the sums over texts are
    is_over: bool = False  # whether no more trials are wanted

    def share(self, study: Study) -> None:
        """Let other processes join from now on."""
        study.set_attribute(SEARCH, asdict(self) | {"version": _version()})
        study.set_attribute(STATE, OPEN)

    @classmethod
    def read(cls, content: Mapping[str, Any], *, is_over: bool = False) -> Self:
        """What was shared.

        Raises:
            RecipeError: another version of this package began the search.
        """
        if content["version"] != _version():
            raise RecipeError(
                f"study {content['study']}: begun by modelsurgery {content['version']}, this is "
                f"{_version()}; use the same version"
            )
        known = {name: value for name, value in content.items() if name != "version"}
        return cls(**{**known, "is_over": is_over})

    def refuse_others(self, inputs: Mapping[str, Any]) -> None:
        """Refuse to join with other inputs.

        Raises:
            RecipeError: something that the trials depend on is not the same here.
        """
        here, there = _by_name(inputs), _by_name(self.inputs)
        differ = [name for name in {**there, **here} if here.get(name) != there.get(name)]
        if differ:
            names = ", ".join(INPUTS.get(name, name) for name in differ)
            raise RecipeError(
                f"study {self.study}: not the same here as in the search: {names}; give the same "
                "files (--model, --texts, --data), or start a search with these"
            )


def end_sharing(study: Study) -> None:
    """Tell the processes that joined that no more trials are wanted."""
    study.set_attribute(ENDED, time.time())
    study.set_attribute(STATE, OVER)


def is_over(study: Study) -> bool:
    """Whether the process that began a search wants no more trials."""
    return bool(study.attribute(STATE) == OVER)


def find_search(
    location: Location, name: str | None = None, *, wait_seconds: float = 0.0
) -> SharedSearch:
    """The search to join in a storage.

    Args:
        location: as for `open_storage`.
        name: of its study, or how it begins; None takes the one that is going on, or that has
            ended since a minute before this call.
        wait_seconds: how long to wait until there is one.

    Raises:
        RecipeError: there are several, or it is of another version of this package.
        StorageError: there is none, or the storage cannot be used.
    """
    end, found = time.monotonic() + wait_seconds, list[SharedSearch]()
    since = time.time() - JUST_ENDED_SECONDS
    while _is_missing(location) and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if not _is_missing(location):
        storage = open_storage(location)
        with storage_errors(location), ExitStack() as stack:
            stack.callback(close_storage, storage)
            while not (found := _searches(storage, name, since)) and time.monotonic() < end:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    place = without_passwords(str(location))
    if not found:
        which = "no search that is going on" if name is None else f"no search {name}"
        raise StorageError(
            f"{place}: {which}; start one there with surgery tune --storage, or wait longer "
            "(--wait)"
        )
    if len(found) > 1:
        names = ", ".join(one.study for one in found)
        raise RecipeError(f"{place} has several searches: {names}; choose one with --study")
    return found[0]


def _is_missing(location: Location) -> bool:
    """Whether a journal is not there yet; Optuna would make an empty one."""
    return is_journal(location) and not Path(str(location)).is_file()


def _searches(
    storage: optuna.storages.BaseStorage, name: str | None, since: float
) -> list[SharedSearch]:
    """The searches of that name; without one those going on, else those that ended since then."""
    said = [
        optuna.load_study(study_name=each, storage=storage).user_attrs
        for each in optuna.get_all_study_names(storage)
        if each.startswith(name or "")
    ]
    shared = [one for one in said if SEARCH in one]
    if name is None:
        going_on = [one for one in shared if one.get(STATE) == OPEN]
        shared = going_on or [one for one in shared if one.get(ENDED, 0.0) >= since]
    return [SharedSearch.read(one[SEARCH], is_over=one.get(STATE) == OVER) for one in shared]


def _by_name(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as JSON keeps them, the model's dtype apart."""
    found: dict[str, Any] = json.loads(json.dumps(dict(inputs)))
    fingerprint, dtype = found["model"]
    return {**found, "model": fingerprint, "dtype": dtype}


def _version() -> str:
    return installed_versions()["modelsurgery"]
