"""What a behavior is, as plain values for people: its texts, its prompts, what others measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelsurgery.data.behaviors.format import (
    BehaviorFile,
    CorpusPrompts,
    CorpusTexts,
    Packaged,
    TextFiles,
)
from modelsurgery.data.corpora import corpora


def listed(behavior: BehaviorFile) -> dict[str, Any]:
    """A behavior in a few lines."""
    kinds = ["the demo model"] if behavior.demo else []
    kinds += ["other models"] if behavior.texts is not None else []
    return {
        **behavior.model_dump(include={"title", "shows", "opposite", "direction"}),
        "for": " and ".join(kinds),
    }


def explained(behavior: BehaviorFile) -> dict[str, Any]:
    """A behavior with its protocol."""
    return {
        "name": behavior.name,
        **listed(behavior),
        "judge": behavior.judge or ("demo" if behavior.demo else "texts"),
        "texts": _shown(behavior.texts),
        "prompts": _shown(behavior.prompts),
        **({} if behavior.packaged is None else {"without --data": _packaged(behavior.packaged)}),
    }


def _packaged(packaged: Packaged) -> dict[str, Any]:
    """What ships with the package."""
    return {
        "texts": _shown(packaged.texts),
        "prompts": _shown(packaged.prompts),
        "validation_prompts": _prompts(packaged.validation_prompts),
        "neutral": {"corpus": packaged.neutral, **_origin(packaged.neutral)},
    }


def _shown(source: Path | TextFiles | Sequence[CorpusTexts | CorpusPrompts] | None) -> Any:
    """Where texts or prompts come from."""
    if source is None:
        return None
    if isinstance(source, Path):
        return str(source)
    if isinstance(source, TextFiles):
        return source.model_dump(mode="json")
    return [_texts(one) if isinstance(one, CorpusTexts) else _prompts(one) for one in source]


def _texts(texts: CorpusTexts) -> dict[str, Any]:
    corpus = corpora()[texts.corpus]
    return {
        **texts.model_dump(exclude_none=True),
        "shows": texts.shows or corpus.shows,
        "opposite": texts.opposite or corpus.opposite,
        **_origin(texts.corpus),
    }


def _prompts(prompts: CorpusPrompts) -> dict[str, Any]:
    told = prompts.model_dump(exclude_none=True, exclude_defaults=True)
    return {**told, "max_new_tokens": prompts.max_new_tokens, **_origin(prompts.corpus)}


def _origin(name: str) -> dict[str, str]:
    corpus = corpora()[name]
    if corpus.packaged:
        where = f"{corpus.published}, {corpus.title}; included in the package, from {corpus.home}"
        return {"license": corpus.license, "where to get it": where}
    hub = f", on the Hub as {corpus.hub.id}" if corpus.hub else ""
    return {
        "license": corpus.license or "none given",
        "where to get it": f"{corpus.published}; published at {corpus.home}{hub}",
    }
