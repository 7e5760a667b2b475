"""Gathering a behavior's texts and prompts, and splitting them into train, validation and test."""

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from modelsurgery.data import demo
from modelsurgery.data.behaviors.demo_texts import demo_texts
from modelsurgery.data.behaviors.format import (
    BehaviorFile,
    CorpusTexts,
    Packaged,
    TextFiles,
)
from modelsurgery.data.behaviors.packaging import (
    packaged_neutral,
    packaged_validation_prompts,
    with_packaged_data,
)
from modelsurgery.data.behaviors.prompting import (
    PromptSet,
    corpus_prompt_set,
    half_texts,
    plain_prompt_set,
)
from modelsurgery.data.behaviors.roots import locate_corpus
from modelsurgery.data.behaviors.uncalled import uncalled_prompts
from modelsurgery.data.corpora import find_corpus, load_corpus_passages, load_corpus_texts
from modelsurgery.data.texts import (
    LabeledText,
    check_texts,
    load_lines,
    load_texts,
    split_texts,
)
from modelsurgery.errors import RecipeError, TextsError

DEMO_TEXTS = 2400
DEMO_PROMPTS = 300
DEMO_NEUTRAL = 400
DEMO_FACTS = 200
DEMO_VALIDATION_FACTS = 400
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.25
PLAIN_SET = "prompts"  # name of the set of a behavior without public prompts
NEUTRAL_PASSAGES = 400
NEUTRAL_CORPUS = "wikitext"
NEUTRAL_MIN_WORDS = 20
NEUTRAL_MAX_WORDS = 48  # the search reads neutral text a hundred times
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Behavior:
    """A behavior with all its texts, ready to use. No choice is made on the test part.

    Attributes:
        described: what its file says.
        is_demo: whether the texts are of the demo data.
        train: texts that the rule and the probe are fitted on.
        validation: texts that choices are made on; not in `train`.
        test: texts that the probe is measured on.
        validation_prompts: prompts that choices are made on; none of them is in a prompt set.
        prompt_sets: held-out prompts, at least one set.
        validation_neutral: neutral texts that the damage budget is kept on.
        test_neutral: neutral texts that the damage is reported on.
        neutral_note: what the neutral texts are.
        validation_facts: questions with their answers that the damage budget is kept on.
        test_facts: held-out questions with their exact answers; empty where there are none.
        test_uncalled: prompts that do not call for the behavior; None where there are none.
        validation_uncalled: such prompts that choices are made on.
    """

    described: BehaviorFile
    is_demo: bool
    train: tuple[LabeledText, ...]
    validation: tuple[LabeledText, ...]
    test: tuple[LabeledText, ...]
    validation_prompts: tuple[str, ...]
    prompt_sets: tuple[PromptSet, ...]
    validation_neutral: tuple[str, ...]
    test_neutral: tuple[str, ...]
    neutral_note: str
    validation_facts: tuple[tuple[str, str], ...] = ()
    test_facts: tuple[tuple[str, str], ...] = ()
    test_uncalled: PromptSet | None = None
    validation_uncalled: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.described.name

    @property
    def title(self) -> str:
        """One line on what it is about."""
        return self.described.title


def load_behavior(
    described: BehaviorFile,
    *,
    is_demo: bool = False,
    data: Path | None = None,
    seed: int = 0,
    prompt_count: int | None = 300,
) -> Behavior:
    """Gather a behavior's texts and split them.

    Args:
        described: from `describe_behavior`, or made by hand.
        is_demo: take the demo data for all that is no file of one's own.
        data: directory with local copies of public data sets, or `roots.HUB`; None takes what
            ships with the package, and the Hub where nothing does.
        seed: of the split, and of the demo model's generated texts.
        prompt_count: prompts of a set, at most; None takes all.

    Raises:
        TextsError: a file that cannot be used, or too little left for a part.
    """
    source = _source(described, is_demo, data, seed)
    prompt_sets = _prompt_sets(source, prompt_count)
    taken = {prompt for one in prompt_sets for prompt in one.texts}
    validation_prompts = tuple(
        one for one in _validation_prompts(source, prompt_count) if one not in taken
    )
    if not validation_prompts:
        raise _no_prompts(described)
    validation_neutral, neutral, note = _neutral(source)
    return Behavior(
        source.described,
        is_demo,
        source.parts.train,
        source.parts.validation,
        source.parts.test,
        validation_prompts[:prompt_count],
        prompt_sets,
        validation_neutral,
        neutral,
        note,
        tuple(demo.facts("train", DEMO_VALIDATION_FACTS, seed)) if is_demo else (),
        tuple(demo.facts("test", DEMO_FACTS, seed)) if is_demo else (),
        *uncalled_prompts(
            source.described, prompt_count, is_demo=is_demo, data=source.data, seed=seed
        ),
    )


def load_test_part(
    described: BehaviorFile,
    *,
    is_demo: bool = False,
    data: Path | None = None,
    seed: int = 0,
    prompt_count: int | None = None,
    sets: Sequence[str] | None = None,
    with_texts: bool = True,
    with_neutral: bool = True,
) -> Behavior:
    """What a measurement needs of a behavior, the same as in `load_behavior`, and nothing else.

    Args:
        described: as in `load_behavior`, like the next four.
        is_demo: the same.
        data: the same.
        seed: the same.
        prompt_count: the same.
        sets: names of the prompt sets, in the order in which they are wanted; None takes all, and
            the prompts that do not call for the behavior.
        with_texts: gather labeled texts, for a judge that is made from them.
        with_neutral: gather neutral text.

    Raises:
        RecipeError: no such prompt set.
        TextsError: a file that cannot be used, or too little left for a part.
    """
    source = _source(described, is_demo, data, seed)
    prompt_sets = _prompt_sets(source, prompt_count, sets)
    neutral, note = _neutral(source)[1:] if with_neutral else ((), "none")
    parts = source.parts if with_texts else _Parts((), (), ())
    facts = tuple(demo.facts("test", DEMO_FACTS, seed)) if is_demo else ()
    uncalled = None
    if sets is None:
        uncalled, _ = uncalled_prompts(
            source.described, prompt_count, is_demo=is_demo, data=source.data, seed=seed
        )
    return Behavior(
        source.described,
        is_demo,
        parts.train,
        (),
        parts.test,
        (),
        prompt_sets,
        (),
        neutral,
        note,
        (),
        facts,
        uncalled,
    )


class _Parts(NamedTuple):
    """Texts to fit on, to make choices on, and to measure on."""

    train: tuple[LabeledText, ...]
    validation: tuple[LabeledText, ...]
    test: tuple[LabeledText, ...]


@dataclass(frozen=True)
class _Source:
    """Where the parts of a behavior come from; its texts are read when they are first wanted."""

    described: BehaviorFile
    is_demo: bool
    data: Path | None
    seed: int
    packaged: Packaged | None

    @cached_property
    def parts(self) -> _Parts:
        texts = self.described.texts
        if self.is_demo and not isinstance(texts, Path | TextFiles):
            found: Sequence[LabeledText] = demo_texts(self.described.name, DEMO_TEXTS, self.seed)
        else:
            found = _texts(self.described, self.data)
        outer = split_texts(found, test_size=TEST_SHARE, seed=self.seed)
        inner = split_texts(outer.train, test_size=VALIDATION_SHARE, seed=self.seed)
        return _Parts(inner.train, inner.test, outer.test)


def _source(described: BehaviorFile, is_demo: bool, data: Path | None, seed: int) -> _Source:
    """Where parts come from: the demo data, given data, the package, or the Hub."""
    packaged = None
    if not is_demo:
        described, packaged = with_packaged_data(described, data)
    return _Source(described, is_demo, data, seed, packaged)


def _texts(described: BehaviorFile, data: Path | None) -> tuple[LabeledText, ...]:
    texts = described.texts
    if isinstance(texts, Path):
        columns = {
            "text_column": described.text_column,
            "label_column": described.label_column,
        }
        return load_texts(texts, **columns)
    if isinstance(texts, TextFiles):
        lines = [(texts.shows, 1), (texts.opposite, 0)]
        found = [LabeledText(line, label) for file, label in lines for line in load_lines(file)]
        return check_texts(found, f"{texts.shows} and {texts.opposite}")
    if texts is None:
        raise TextsError(
            f"behavior {described.name!r} has texts for the demo model only; for another model "
            "use --texts FILE or another behavior"
        )
    pooled = [text for corpus in texts for text in _corpus_texts(corpus, data)]
    return check_texts(pooled, described.name)


def _corpus_texts(wanted: CorpusTexts, data: Path | None) -> tuple[LabeledText, ...]:
    texts = load_corpus_texts(
        wanted.corpus,
        locate_corpus(wanted.corpus, data),
        split=wanted.split,
        shows=wanted.shows,
        opposite=wanted.opposite,
        per_class=wanted.per_class,
    )
    if wanted.replies is None:
        return texts
    return tuple(answered for text in texts for answered in _answered(text, wanted))


def _answered(text: LabeledText, wanted: CorpusTexts) -> list[LabeledText]:
    """A user's turn, answered in either way; which of the phrases depends on the turn alone."""
    replies = wanted.replies
    assert replies is not None
    number = int.from_bytes(hashlib.sha256(text.text.encode()).digest()[:4])
    return [
        replace(
            text,
            label=label,
            group=text.group or text.text,
            reply=phrases[number % len(phrases)],
            called_for=text.label == 1 if wanted.called_for else None,
        )
        for label, phrases in ((1, replies.shows), (0, replies.opposite))
    ]


def _prompt_sets(
    source: _Source, prompt_count: int | None, wanted: Sequence[str] | None = None
) -> tuple[PromptSet, ...]:
    """The prompt sets, or those that are wanted; no other is read."""
    described = source.described
    corpora = described.prompts if isinstance(described.prompts, list) else None
    is_one = corpora is None or source.is_demo
    known = [PLAIN_SET] if is_one or corpora is None else [one.called for one in corpora]
    for name in wanted or ():
        if name not in known:
            raise RecipeError(
                f"behavior {described.name!r} has no prompt set {name!r}; expected some of "
                f"{', '.join(known)}"
            )
    if is_one or corpora is None:
        return (_plain_prompts(source, prompt_count),)
    by_name = dict(zip(known, corpora, strict=True))
    return tuple(
        corpus_prompt_set(by_name[name], source.data, prompt_count, source.seed)
        for name in dict.fromkeys(wanted or known)
    )


def _plain_prompts(source: _Source, prompt_count: int | None) -> PromptSet:
    """Prompts from a file, from the demo data, or cut from held-out texts."""
    described = source.described
    if isinstance(described.prompts, Path):
        prompts, title = load_lines(described.prompts), described.prompts.name
    elif source.is_demo:
        count = prompt_count or DEMO_PROMPTS
        prompts = tuple(demo.prompts(described.name, "test", count, source.seed))
        title = "held-out prompts of the demo data"
    else:
        prompts, title = half_texts(source.parts.test), "first halves of held-out texts"
    if not prompts:
        raise _no_prompts(described)
    length = described.max_new_tokens
    return plain_prompt_set(PLAIN_SET, title, prompts[:prompt_count], length)


def _validation_prompts(source: _Source, prompt_count: int | None) -> Sequence[str]:
    if source.is_demo:
        count = prompt_count or DEMO_PROMPTS
        return demo.prompts(source.described.name, "train", count, source.seed)
    if source.packaged is not None and isinstance(source.described.prompts, list):
        return packaged_validation_prompts(source.packaged, source.seed)
    return half_texts(source.parts.validation)


def _no_prompts(described: BehaviorFile) -> TextsError:
    return TextsError(
        f"{described.texts if isinstance(described.texts, Path) else described.name}: the texts "
        "are too short to cut prompts from; expected sentences of four words or more, or "
        "--prompts FILE"
    )


def _neutral(source: _Source) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Neutral text for validation and for the test, and what it is."""
    described, data, seed = source.described, source.data, source.seed
    if described.neutral is not None:
        lines = load_lines(described.neutral)
        return lines[::2], lines[1::2] or lines, described.neutral.name
    if source.is_demo:
        validation, test = (
            tuple(demo.neutral_texts(part, DEMO_NEUTRAL, seed)) for part in ("train", "test")
        )
        return validation, test, "held-out plain talk, harmless requests, facts and narration"
    if source.packaged is not None:
        return packaged_neutral(source.packaged)
    corpus = find_corpus(NEUTRAL_CORPUS, data) if data is not None else None
    is_public = isinstance(described.texts, list) or isinstance(described.prompts, list)
    if corpus is not None and (
        is_public or any(text.reply is not None for text in source.parts.validation)
    ):
        parts = [_passages(corpus, split) for split in ("validation", "test")]
        return parts[0], parts[1], "WikiText-2, test part"
    parts = [
        tuple(text.text for text in part if text.label == 0)
        for part in (source.parts.validation, source.parts.test)
    ]
    note = "held-out texts with label 0; give --neutral FILE for text of your own"
    return parts[0], parts[1], note


def _passages(corpus: Path, split: str) -> tuple[str, ...]:
    """Beginnings of paragraphs of running text, spread evenly over a part.

    They are shuffled, so that the first ones are of many articles too.
    """
    lines = "".join(load_corpus_passages(NEUTRAL_CORPUS, corpus, split=split)).split("\n")
    words = [line.split()[:NEUTRAL_MAX_WORDS] for line in lines]
    paragraphs = [" ".join(some) for some in words if len(some) >= NEUTRAL_MIN_WORDS]
    spread = paragraphs[:: max(1, len(paragraphs) // NEUTRAL_PASSAGES)][:NEUTRAL_PASSAGES]
    random.Random(0).shuffle(spread)
    return tuple(spread)
