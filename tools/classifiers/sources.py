"""What the classifiers are trained on, and what they are measured on: never the same texts."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from modelsurgery.data.corpora import (
    corpora,
    find_corpus,
    load_corpus_prompts,
    load_corpus_scores,
    load_corpus_texts,
)
from modelsurgery.errors import TextsError

VALIDATION_SHARE = 0.1
TOXIC_FROM = 0.5


@dataclass(frozen=True)
class Source:
    """Texts of one origin with their labels.

    Attributes:
        name: corpus and part.
        license: of the corpus.
        texts: the texts.
        labels: 1 shows the behavior, 0 does not.
        groups: a group for each text, where results are told by group.
    """

    name: str
    license: str
    texts: list[str]
    labels: list[int]
    groups: list[str] | None = None

    def part(self, wanted: Iterable[bool]) -> "Source":
        """The texts where `wanted` is true."""
        kept = [number for number, one in enumerate(wanted) if one]
        texts, labels = [self.texts[k] for k in kept], [self.labels[k] for k in kept]
        groups = None if self.groups is None else [self.groups[k] for k in kept]
        return Source(self.name, self.license, texts, labels, groups)

    def split(self) -> tuple["Source", "Source"]:
        """For fitting, and a tenth for validation, by a hash of the text."""
        held = [_share(text, "validation") < VALIDATION_SHARE for text in self.texts]
        return self.part(not one for one in held), self.part(held)


def training_sources(name: str, root: Path) -> list[Source]:
    """What a classifier is fitted, chosen and calibrated on."""
    if name == "toxicity":
        first_half, _ = _halves(_labeled("jigsaw", root))
        return [_labeled("davidson", root), first_half, _labeled("paradetox", root)]
    return [_labeled("goemotions", root, "train"), _labeled("sst2", root, "train")]


def middling_texts(root: Path) -> list[str]:
    """Neutral comments, to find the band in which a text is neither negative nor positive."""
    neutral = load_corpus_texts(
        "goemotions", _path("goemotions", root), split="validation", opposite=["neutral"]
    )
    return [text.text for text in neutral if text.label == 0]


def held_out_sources(name: str, root: Path) -> list[Source]:
    """What a classifier is measured on; nothing of it was seen or chosen by."""
    if name == "toxicity":
        _, second_half = _halves(_labeled("jigsaw", root))
        return [second_half, _continuations(root), _toxigen(root)]
    return [
        _labeled("goemotions", root, "test"),
        _labeled("sst2", root, "test"),
        _labeled("dair_emotion", root, "train"),
    ]


def _labeled(corpus: str, root: Path, split: str | None = None) -> Source:
    found = load_corpus_texts(corpus, _path(corpus, root), split=split)
    name = corpus if split is None else f"{corpus}, {split}"
    texts, labels = [text.text for text in found], [text.label for text in found]
    return Source(name, corpora()[corpus].license or "none given", texts, labels)


def _halves(source: Source) -> tuple[Source, Source]:
    """Two halves by a hash of the text, so that no text is in both."""
    is_first = [_share(text, "half") < 0.5 for text in source.texts]
    first, second = source.part(is_first), source.part(not one for one in is_first)
    return (
        replace(first, name=f"{source.name}, first half"),
        replace(second, name=f"{source.name}, second half"),
    )


def _continuations(root: Path) -> Source:
    """How web texts went on after RealToxicityPrompts' prompts, with Perspective's scores."""
    path = _path("realtoxicityprompts", root)
    scored = [
        one
        for split in ("toxic", "nontoxic")
        for one in load_corpus_scores("realtoxicityprompts", path, split=split)
    ]
    texts, labels = [one.text for one in scored], [int(one.score >= TOXIC_FROM) for one in scored]
    name = "realtoxicityprompts, continuations"
    return Source(name, corpora()["realtoxicityprompts"].license, texts, labels)


def _toxigen(root: Path) -> Source:
    """Lists of sentences about a group, meant as hate or as neutral: weak labels."""
    prompts = load_corpus_prompts("toxigen", _path("toxigen", root), per_file=1000, unique=True)
    return Source(
        "toxigen, prompts",
        corpora()["toxigen"].license,
        [prompt.text for prompt in prompts],
        [int(prompt.category == "hate") for prompt in prompts],
        [prompt.group or "" for prompt in prompts],
    )


def _path(corpus: str, root: Path) -> Path:
    found = find_corpus(corpus, root)
    if found is None:
        raise TextsError(f"{root}: no folder {corpus}; expected {corpora()[corpus].title}")
    return found


def _share(text: str, purpose: str) -> float:
    digest = hashlib.sha256(f"{purpose}\0{text}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32
