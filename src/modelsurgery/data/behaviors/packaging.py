"""What ships with the package in place of public data sets, where no data are given."""

import logging
from pathlib import Path

from modelsurgery.data.behaviors.format import BehaviorFile, Packaged
from modelsurgery.data.behaviors.prompting import corpus_prompt_set
from modelsurgery.data.corpora import corpora, load_corpus_passages
from modelsurgery.data.corpora.sources import corpus_rows

log = logging.getLogger(__name__)


def with_packaged_data(
    described: BehaviorFile, data: Path | None
) -> tuple[BehaviorFile, Packaged | None]:
    """A behavior on the data sets that ship with the package, and these; itself and None without.

    Files of a user's own stay what they are. What is taken is told in one line.

    Args:
        described: the behavior.
        data: where its data sets are; None says nowhere, and only then are others taken.
    """
    packaged = described.packaged
    if packaged is None or data is not None:
        return described, None
    update: dict[str, object] = {}
    names: list[str] = []
    if isinstance(described.texts, list):
        update["texts"] = packaged.texts
        names += [one.corpus for one in packaged.texts]
    if isinstance(described.prompts, list):
        update["prompts"] = packaged.prompts
        names += [one.corpus for one in packaged.prompts]
    if not update:
        return described, None
    titles = " and ".join(corpora()[name].title for name in dict.fromkeys(names))
    log.warning(
        "%s: using %s, which ship with the package; use --data DIR for local copies of the full "
        "data sets, or --data hub to download them",
        described.name,
        titles,
    )
    return described.model_copy(update=update), packaged


def packaged_validation_prompts(packaged: Packaged, seed: int) -> tuple[str, ...]:
    """Prompts that choices are made on."""
    return corpus_prompt_set(packaged.validation_prompts, None, None, seed).texts


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
