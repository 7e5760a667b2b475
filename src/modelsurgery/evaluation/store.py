"""What was generated and judged, in one SQLite file, so that no work is done twice.

Everything is kept under the hash of all that it depends on: of a continuation the model, the
edits, the prompt and the decoding; of a judgement the judge with its version, the prompt and the
text. So a store can be shared by runs, and by processes at the same time.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self, get_args

from modelsurgery.errors import EvaluationError, StorageError
from modelsurgery.evaluation.decoding import Continuation
from modelsurgery.evaluation.judges.verdicts import Judge, Verdict
from modelsurgery.files.progress import Progress, silent

VERSION = 1
PATIENCE_SECONDS = 60.0
CHUNK = 64  # texts that a judge is asked about between two visits to the store
KEYS_AT_ONCE = 500
TABLES = """
CREATE TABLE IF NOT EXISTS continuations (key TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) STRICT;
"""


class Store:
    """Continuations and verdicts by key. A context manager; made if it does not exist.

    Attributes:
        is_shared: whether another process had the store open first.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the store.

        Raises:
            EvaluationError: the file is damaged, or not a store of this version.
            StorageError: it cannot be written.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
        self.is_shared = False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_shared = True
        with _one_at_a_time(path.parent), self._failing_well():
            self._connection = sqlite3.connect(
                path,
                timeout=PATIENCE_SECONDS,
                isolation_level=None,
                check_same_thread=False,  # answers of servers may come in another one, in turn
            )
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise EvaluationError(
                    f"{path}: a store of version {version}; this version reads version {VERSION}, "
                    "use another --store or update modelsurgery"
                )
            # A journal of writes, where the file system can: readers need not wait for a writer.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(f"{TABLES} PRAGMA user_version = {VERSION};")

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, and take the lock's file away if nobody else has it open."""
        self._connection.close()
        if not self.is_shared:
            with suppress(OSError):
                Path(f"{self._path}.lock").unlink()
        os.close(self._lock)

    def continuations(self, keys: Sequence[str]) -> dict[str, Continuation]:
        """Those of the keys that are there."""
        rows = self._rows("SELECT key, content FROM continuations WHERE key IN", keys)
        try:
            return {key: Continuation(**json.loads(content)) for key, content in rows.items()}
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def keep_continuations(self, made: Mapping[str, Continuation]) -> None:
        """Keep them all or none; what is there already stays."""
        rows = [(key, json.dumps(asdict(one), sort_keys=True)) for key, one in made.items()]
        self._insert("INSERT OR IGNORE INTO continuations VALUES (?, ?)", rows)

    def continuations_or(
        self, keys: Sequence[str], make: Callable[[], Sequence[Continuation]]
    ) -> list[Continuation]:
        """Those of all keys, in order; unless all are there, they are made together and kept."""
        stored = self.continuations(keys)
        if len(stored) < len(set(keys)):
            self.keep_continuations(dict(zip(keys, make(), strict=True)))
            # Read back: of two processes that made it, both shall tell of the first.
            stored = self.continuations(keys)
        return [stored[key] for key in keys]

    def verdicts(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """Those of the keys that are there."""
        rows = self._rows("SELECT key, verdict FROM verdicts WHERE key IN", keys)
        known = {verdict: verdict for verdict in get_args(Verdict)}
        try:
            return {key: known[verdict] for key, verdict in rows.items()}
        except KeyError as error:
            raise self._damaged(error) from error

    def keep_verdicts(self, given: Mapping[str, Verdict]) -> None:
        """Keep them all or none; what is there already stays."""
        self._insert("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", list(given.items()))

    def _rows(self, statement: str, keys: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        with self._failing_well():
            for start in range(0, len(keys), KEYS_AT_ONCE):
                some = list(keys[start : start + KEYS_AT_ONCE])
                marks = ",".join("?" * len(some))
                found |= dict(self._connection.execute(f"{statement} ({marks})", some).fetchall())
        return found

    def _insert(self, statement: str, rows: Sequence[tuple[str, str]]) -> None:
        with self._failing_well(), self._connection:  # which commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)

    @contextmanager
    def _failing_well(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StorageError(
                    f"cannot write {self._path}: no space left on the disk; free some and run the "
                    "same command again"
                ) from error
            raise StorageError(
                f"{self._path}: {error}; check that the disk has space and that no other program "
                "uses the file, then run the same command again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> EvaluationError:
        return EvaluationError(
            f"{self._path}: not a readable store ({error}); delete it to start over, or use "
            "another --store"
        )


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Keep others from opening a store there: SQLite does not wait where it changes the journal."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def judged(
    judge: Judge,
    prompts: Sequence[str],
    texts: Sequence[str],
    store: Store | None = None,
    *,
    progress: Progress = silent,
) -> list[Verdict]:
    """One verdict a text; the judge is asked only about what the store does not hold.

    What a judge could not judge is not kept: it may be able to the next time.
    """
    if store is None:
        return judge(prompts, texts)
    keys = [
        hashlib.sha256(json.dumps([judge.name, judge.version, *pair]).encode()).hexdigest()
        for pair in zip(prompts, texts, strict=True)
    ]
    known = store.verdicts(keys)
    missing = [place for place, key in enumerate(keys) if key not in known]
    with progress(f"judge {judge.name}", len(missing)) as advance:
        for start in range(0, len(missing), CHUNK):
            some = missing[start : start + CHUNK]
            given = judge([prompts[k] for k in some], [texts[k] for k in some])
            fresh = {keys[place]: one for place, one in zip(some, given, strict=True)}
            store.keep_verdicts({k: one for k, one in fresh.items() if one != "unjudged"})
            known |= fresh
            advance(len(some))
    return [known[key] for key in keys]
