"""Ctrl-C while Optuna lets go of its lock is Ctrl-C, not a fault of storage."""

from pathlib import Path

import optuna
import pytest

from modelsurgery.errors import StorageError
from modelsurgery.search import Study, default_space


def interrupted(path: Path) -> None:
    """What Optuna's lock does when it is interrupted after it renamed and removed its file."""
    try:
        raise KeyboardInterrupt
    except BaseException:
        (path / "gone").unlink()
        raise


def test_an_interrupt_behind_a_missing_lock_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Study(default_space(4, (3,)), {}, storage=tmp_path / "study.journal") as study:
        monkeypatch.setattr(optuna.Study, "get_trials", lambda *_, **__: interrupted(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            study.trials()


def test_a_file_that_is_missing_for_another_reason_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Study(default_space(4, (3,)), {}, storage=tmp_path / "study.journal") as study:
        monkeypatch.setattr(
            optuna.Study, "get_trials", lambda *_, **__: (tmp_path / "gone").unlink()
        )
        with pytest.raises(StorageError, match="trials so far are kept"):
            study.trials()
