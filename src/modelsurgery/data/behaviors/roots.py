"""Where public data sets are: in a directory with local copies, in the package, or on the Hub."""

import os
from pathlib import Path

from modelsurgery.data.corpora import corpora, find_corpus
from modelsurgery.errors import TextsError

ROOT_VARIABLE = "SURGERY_DATA"
HUB = Path("hub")  # what to give in place of a directory for data sets of the Hub


def data_root(given: Path | None) -> Path | None:
    """The directory with local copies: the given one, else that of SURGERY_DATA, else None.

    `hub`, unless there is such a directory, stands for the Hub.

    Raises:
        TextsError: it is no directory.
    """
    variable = os.environ.get(ROOT_VARIABLE)
    root = given or (Path(variable) if variable else None)
    if root is not None and root != HUB and not root.is_dir():
        raise TextsError(
            f"no directory at {root}; expected a directory with one folder per data set, or {HUB} "
            f"(set by --data or {ROOT_VARIABLE})"
        )
    return root


def local_root(root: Path | None) -> Path | None:
    """A root, unless it stands for the Hub."""
    return None if root == HUB and not HUB.is_dir() else root


def locate_corpus(corpus: str, root: Path | None) -> Path | None:
    """Path of a data set's local copy; None for the package's own, and without a root for the Hub.

    Raises:
        TextsError: the root has no folder of that data set.
    """
    root = local_root(root)
    if root is None or corpora()[corpus].packaged:
        return None
    found = find_corpus(corpus, root)
    if found is None:
        known = corpora()[corpus]
        raise TextsError(
            f"{root}: no folder {corpus}; expected a copy of {known.title}, published at "
            f"{known.home}"
        )
    return found
