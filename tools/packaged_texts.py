"""Make the texts that ship with the package from local copies of public data sets.

    python tools/packaged_texts.py --data DIR

DIR holds the folders paradetox, realtoxicityprompts, goemotions and gsm8k. The same files give the
same texts: what is taken is decided by a hash of each text and a seed. NOTICE.md beside the files
says whose texts they are and under which licenses; it lists the SHA-256 of the inputs too.
"""

import argparse
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from modelsurgery.data.choosing import evenly
from modelsurgery.data.corpora import (
    corpora,
    find_corpus,
    load_corpus_prompts,
    load_corpus_questions,
    load_corpus_texts,
)
from modelsurgery.data.corpora.sources import PACKAGED_DIRECTORY
from modelsurgery.evaluation.classifiers import load_classifier

SEED = 0
PAIRS = 400
SENTENCE_WORDS = (4, 30)
TEST_PROMPTS, VALIDATION_PROMPTS = 300, 100
STORY_WORDS, STORIES_TOTAL = (20, 70), 6300
REMARK_WORDS, REMARKS_TOTAL = (12, 30), 3100
MOST_TOXIC_REMARK = 0.1  # probability; a remark of a neutral part must not be what is taken away

Record = dict[str, Any]
T = TypeVar("T")


def main() -> None:
    """Read the arguments, write the files, print what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="local copies, a folder each")
    parser.add_argument("--out", type=Path, default=PACKAGED_DIRECTORY)
    options = parser.parse_args()
    test, validation = prompts(options.data)
    plain = plain_text(options.data)
    for name, records in {
        "toxicity_pairs": pairs(options.data, {one["text"] for one in (*test, *validation)}),
        "toxicity_prompts_test": test,
        "toxicity_prompts_validation": validation,
        "plain_text_test": plain[0],
        "plain_text_validation": plain[1],
    }.items():
        path = options.out / f"{name}.jsonl.gz"
        path.write_bytes(compressed(records))
        print(f"{path.name}: {len(records)} records, {path.stat().st_size:,} bytes")


def pairs(data: Path, apart_from: set[str]) -> list[Record]:
    """Toxic sentences of ParaDetox with their first rewrite, no sentence twice."""
    rewrites: dict[str, list[str]] = {}
    for text in load_corpus_texts("paradetox", find_corpus("paradetox", data)):
        if text.label == 0:
            rewrites.setdefault(str(text.group), []).append(text.text)
    taken = {_key(text) for text in apart_from}
    chosen: list[Record] = []
    for toxic in _shuffled(rewrites, str):
        neutral = rewrites[toxic][0]
        sides = {_key(toxic), _key(neutral)}
        long_enough = all(_is_between(text, SENTENCE_WORDS) for text in (toxic, neutral))
        if long_enough and len(sides) == 2 and not sides & taken:
            taken |= sides
            chosen.append({"toxic": toxic, "neutral": neutral})
        if len(chosen) == PAIRS:
            break
    return chosen


def prompts(data: Path) -> tuple[list[Record], list[Record]]:
    """Challenging prompts of RealToxicityPrompts: for the report, and for choices."""
    name = "realtoxicityprompts"
    found = {
        _key(one.text): {"text": one.text, "toxicity": one.toxicity}
        for one in load_corpus_prompts(name, find_corpus(name, data), unique=True)
        if _is_between(one.text, SENTENCE_WORDS)
    }
    order = _shuffled(found.values(), _text)[: TEST_PROMPTS + VALIDATION_PROMPTS]
    return order[:TEST_PROMPTS], order[TEST_PROMPTS:]


def plain_text(data: Path) -> tuple[list[Record], list[Record]]:
    """Everyday English: little stories of GSM8K's training part and neutral remarks of GoEmotions.

    Two parts of the same kind and size, for the report and for choices.
    """
    stories = [
        one.question
        for one in load_corpus_questions("gsm8k", find_corpus("gsm8k", data), split="train")
    ]
    remarks = load_corpus_texts(
        "goemotions",
        find_corpus("goemotions", data),
        split="train",
        shows=["negative"],
        opposite=["neutral"],
    )
    neutral = [one.text.strip() for one in remarks if one.label == 0 and one.text.isascii()]
    unmarked = [text for text in neutral if "[" not in text and "/" not in text]
    scores = load_classifier("toxicity").probabilities(unmarked)
    harmless = [
        text for text, score in zip(unmarked, scores, strict=True) if score < MOST_TOXIC_REMARK
    ]
    parts: tuple[list[Record], list[Record]] = ([], [])
    for origin, texts, words, total in (
        ("gsm8k", stories, STORY_WORDS, STORIES_TOTAL),
        ("goemotions", harmless, REMARK_WORDS, REMARKS_TOTAL),
    ):
        usable = {_key(text): text for text in texts if _is_between(text, words)}
        rest = iter(_shuffled(usable.values(), str))
        for part in parts:
            part += [{"text": text, "from": origin} for text in _up_to(rest, total)]
    return tuple(_shuffled(part, _text) for part in parts)  # type: ignore[return-value]


def compressed(records: list[Record]) -> bytes:
    """JSON lines, compressed without a time."""
    content = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=content, mode="wb", mtime=0) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    return content.getvalue()


def _up_to(texts: Iterator[str], words: int) -> Iterator[str]:
    """Texts until they have so many words together."""
    while words > 0:
        text = next(texts)
        words -= len(text.split())
        yield text


def _shuffled(items: Iterable[T], text_of: Callable[[T], str]) -> list[T]:
    """Items in the order of a hash of their texts."""
    given = list(items)
    return [given[number] for number in evenly([text_of(one) for one in given], seed=SEED)]


def _text(record: Record) -> str:
    return str(record["text"])


def _key(text: str) -> str:
    """What two texts share that differ in case or blanks alone."""
    return " ".join(text.casefold().split())


def _is_between(text: str, words: tuple[int, int]) -> bool:
    return words[0] <= len(text.split()) <= words[1]


if __name__ == "__main__":
    assert {"paradetox", "realtoxicityprompts", "goemotions", "gsm8k"} <= set(corpora())
    main()
