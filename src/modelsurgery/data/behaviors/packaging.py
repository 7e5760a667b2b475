"""What ships with the package in place of public data sets, where no data are given."""

import logging
from collections.abc import Sequence
from pathlib import Path

from modelsurgery.data.behaviors.format import BehaviorFile, CorpusPrompts, CorpusTexts, Packaged
from modelsurgery.data.corpora import corpora, load_corpus_passages
from modelsurgery.data.corpora.sources import corpus_rows

log = logging.getLogger(__name__)


def with_packaged_data(
    described: BehaviorFile, data: Path | None
) -> tuple[BehaviorFile, Packaged | None]:
    """A behavior on the data sets that ship with the package, and these; itself and None without.

    They are taken only where `data`, the place of its own data sets, is None. Files of a user's own
    stay what they are. What is taken is told in one line.
    """
    packaged = described.packaged
    if packaged is None or data is not None:
        return described, None
    update: dict[str, Sequence[CorpusTexts | CorpusPrompts]] = {}
    if isinstance(described.texts, list):
        update["texts"] = packaged.texts
    if isinstance(described.prompts, list):
        update["prompts"] = packaged.prompts
    if not update:
        return described, None
    names = dict.fromkeys(one.corpus for some in update.values() for one in some)
    titles = " and ".join(corpora()[name].title for name in names)
    log.warning(
        "%s: using %s, which ship with the package; use --data DIR for local copies of the full "
        "data sets, or --data hub to download them",
        described.name,
        titles,
    )
    return described.model_copy(update=update), packaged


def packaged_neutral(packaged: Packaged) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Neutral text for choices, held-out neutral text, and what it is."""
    validation, test = (
        load_corpus_passages(packaged.neutral, split=split) for split in ("validation", "test")
    )
    return validation, test, corpora()[packaged.neutral].title


def packaged_problems() -> tuple[str, ...]:
    """Held-out math problems of GSM8K, the part of the packaged plain text that asks for skill."""
    rows = corpus_rows(corpora()["plain_text"], None, "test")
    return tuple(row.text("text") for row in rows if row.text("from") == "gsm8k")
