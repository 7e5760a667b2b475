"""Where the trials of a search are kept: a journal file, a database, or a gRPC proxy of one.

All are Optuna's own. A database also knows which trials are being worked on: processes send
heartbeats, and what a dead one left is tried again.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    InMemoryStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
)
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from modelsurgery.errors import ArtifactError, RecipeError, StorageError
from modelsurgery.files.passwords import without_passwords

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # without a heartbeat, after which a trial counts as left behind
MOST_RETRIES = 3  # of a trial: one that kills its process would kill all of them
CONNECT_SECONDS = 10
GRPC_PORT = 13000  # Optuna's
# SQLAlchemy would take psycopg2, which the extra does not bring.
POSTGRES = "postgresql+psycopg"
DRIVERS = {"postgres": POSTGRES, "postgresql": POSTGRES}

Location = Path | str | None


def is_journal(location: Location) -> bool:
    """Whether trials are kept in a journal file."""
    return location is not None and "://" not in str(location)


def open_storage(location: Location) -> BaseStorage:
    """Optuna's storage at a location.

    Args:
        location: a journal file, `postgresql://…` or another URL of SQLAlchemy, or
            `grpc://HOST:PORT`; None keeps trials in memory.

    Raises:
        RecipeError: not a storage, or its driver is not installed.
        StorageError: it does not answer, or refuses.
    """
    if location is None:
        return InMemoryStorage()
    if is_journal(location):
        return JournalStorage(JournalFileBackend(str(location)))
    address = _address(str(location))
    with storage_errors(location), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _proxy(address) if address.drivername == "grpc" else _database(address)


def close_storage(storage: BaseStorage) -> None:
    """Close connections of a storage that `open_storage` opened."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
    elif isinstance(storage, GrpcStorageProxy):
        storage.close()


def _address(url: str) -> URL:
    """The parts of a URL. What is no URL is not repeated: parts of it may be a password."""
    scheme, _, rest = url.partition("://")
    try:
        if rest.partition("?")[0].count("@") > 1:
            raise ValueError
        return make_url(url)
    except (ArgumentError, ValueError):
        raise RecipeError(
            f"storage {scheme}://…: not a URL; expected postgresql://USER:PASSWORD@HOST:PORT/NAME "
            "with @ in a password written %40, grpc://HOST:PORT, or a file"
        ) from None


def _proxy(address: URL) -> BaseStorage:
    proxy = GrpcStorageProxy(host=address.host or "localhost", port=address.port or GRPC_PORT)
    proxy.wait_server_ready(timeout=CONNECT_SECONDS)
    return proxy


# Processes that start together make the tables together.
@retry(
    retry=retry_if_exception_type((IntegrityError, ProgrammingError)),
    stop=stop_after_attempt(4),
    wait=wait_random(0.1, 0.6),
    reraise=True,
)
def _database(address: URL) -> BaseStorage:
    address = address.set(drivername=DRIVERS.get(address.drivername, address.drivername))
    if address.drivername == POSTGRES and "connect_timeout" not in address.query:
        address = address.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
    with _loggers_kept():
        return RDBStorage(
            address.render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES),
        )


@contextmanager
def _loggers_kept() -> Iterator[None]:
    """Leave logging as it is: Optuna's migrations configure it for the whole process."""
    root, known = logging.getLogger(), logging.root.manager.loggerDict.values()
    handlers, level = root.handlers[:], root.level
    enabled = [one for one in known if isinstance(one, logging.Logger) and not one.disabled]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for one in enabled:
            one.disabled = False


@contextmanager
def storage_errors(location: Location) -> Iterator[None]:
    """Turn what a storage raises into an error of ours, without its password."""
    name = without_passwords(str(location))
    try:
        yield
    except (ImportError, NoSuchModuleError) as error:
        raise RecipeError(
            f"storage {name}: {_reason(error)}; expected postgresql://… or grpc://HOST:PORT, which "
            "pip install 'modelsurgery[storage]' brings, another URL whose driver is installed, "
            "or a file"
        ) from error
    # RuntimeError: the tables are of another version of Optuna.
    except (ConnectionError, SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise StorageError(_unusable(name, error)) from error
    except OSError as error:
        # Optuna's file lock removes a file that is gone when Ctrl-C comes as it lets go.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise StorageError(
            f"{name}: {error.strerror}; the trials so far are kept, free some space and "
            "run the same command again"
        ) from error
    except (ValueError, KeyError) as error:
        if not is_journal(location):
            raise StorageError(_unusable(name, error)) from error
        raise ArtifactError(
            f"{name}: not a journal of studies ({error}); delete it to start over, or "
            "use another --study"
        ) from error
    except _grpc_errors() as error:
        raise StorageError(_unusable(name, error)) from error


def _unusable(name: str, error: Exception) -> str:
    return (
        f"storage {name}: {_reason(error)}; check that it runs, its address, user and password, "
        "and run the same command again (trials are kept)"
    )


def _reason(error: Exception) -> str:
    """The first line of what a library of the storage says."""
    is_wrapped = isinstance(error, StorageInternalError | ImportError)
    said: Any = (error.__cause__ if is_wrapped else None) or error
    said = getattr(said, "orig", None) or getattr(said, "details", lambda: said)()
    line = (str(said).strip().splitlines() or [type(error).__name__])[0]
    return without_passwords(line).rstrip(".")


def _grpc_errors() -> tuple[type[Exception], ...]:
    """What a proxy raises; its library is loaded only where one was opened."""
    grpc = sys.modules.get("grpc")
    return () if grpc is None else (grpc.RpcError,)
