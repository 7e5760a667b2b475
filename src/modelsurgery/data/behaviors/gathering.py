"""Gathering a behavior's texts and prompts, and splitting them into train, validation and test."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from modelsurgery.data import demo
from modelsurgery.data.behaviors.format import BehaviorFile, Packaged, TextFiles
from modelsurgery.data.behaviors.labeled_texts import demo_texts, texts_of
from modelsurgery.data.behaviors.packaging import packaged_neutral, with_packaged_data
from modelsurgery.data.behaviors.prompting import (
    PromptSet,
    corpus_prompt_set,
    evenly_by,
    half_texts,
    plain_prompt_set,
)
from modelsurgery.data.corpora import find_corpus, load_corpus_passages
from modelsurgery.data.texts import LabeledText, load_lines, split_texts
from modelsurgery.errors import RecipeError, TextsError

DEMO_TEXTS = 2400
DEMO_PROMPTS = 300
DEMO_NEUTRAL = 400
DEMO_FACTS = 200
DEMO_VALIDATION_FACTS = 400
DEMO_UNCALLED = 300
DEMO_VALIDATION_UNCALLED = 100
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.25
PLAIN_SET = "prompts"  # name of the set of a behavior without public prompts
NEUTRAL_PASSAGES = 400
NEUTRAL_CORPUS = "wikitext"
NEUTRAL_MIN_WORDS = 20
NEUTRAL_MAX_WORDS = 48  # the search reads neutral text a hundred times


@dataclass(frozen=True)
class Behavior:
    """A behavior with its texts, ready to use; parts that were not asked for are empty.

    No choice is made on the test part.
    """

    described: BehaviorFile  # what its file says
    is_demo: bool  # whether the texts are of the demo data
    train: tuple[LabeledText, ...] = ()  # texts that the rule and the probe are fitted on
    validation: tuple[LabeledText, ...] = ()  # texts that choices are made on; not in `train`
    test: tuple[LabeledText, ...] = ()  # texts that the probe is measured on
    # Prompts that choices are made on; none of them is in a prompt set.
    validation_prompts: tuple[str, ...] = ()
    prompt_sets: tuple[PromptSet, ...] = ()  # held-out prompts, at least one set
    validation_neutral: tuple[str, ...] = ()  # neutral texts that the damage budget is kept on
    test_neutral: tuple[str, ...] = ()  # neutral texts that the damage is reported on
    neutral_note: str = "none"  # what the neutral texts are
    # Questions with their answers that the damage budget is kept on.
    validation_facts: tuple[tuple[str, str], ...] = ()
    # Held-out questions with their exact answers; empty where there are none.
    test_facts: tuple[tuple[str, str], ...] = ()
    # Prompts that do not call for the behavior; None where there are none.
    test_uncalled: PromptSet | None = None
    validation_uncalled: tuple[str, ...] = ()  # such prompts that choices are made on

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
    train, validation, test = source.parts
    uncalled, validation_uncalled = _uncalled(source, prompt_count)
    return Behavior(
        source.described,
        is_demo,
        train=train,
        validation=validation,
        test=test,
        validation_prompts=validation_prompts[:prompt_count],
        prompt_sets=prompt_sets,
        validation_neutral=validation_neutral,
        test_neutral=neutral,
        neutral_note=note,
        validation_facts=demo.facts("train", DEMO_VALIDATION_FACTS, seed) if is_demo else (),
        test_facts=demo.facts("test", DEMO_FACTS, seed) if is_demo else (),
        test_uncalled=uncalled,
        validation_uncalled=validation_uncalled,
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

    `sets` are names of prompt sets, in the order in which they are wanted; None takes all, and the
    prompts that do not call for the behavior. Labeled texts are for a judge that is made from them.

    Raises:
        RecipeError: no such prompt set.
        TextsError: a file that cannot be used, or too little left for a part.
    """
    source = _source(described, is_demo, data, seed)
    prompt_sets = _prompt_sets(source, prompt_count, sets)
    _, neutral, note = _neutral(source) if with_neutral else ((), (), "none")
    return Behavior(
        source.described,
        is_demo,
        train=source.parts.train if with_texts else (),
        test=source.parts.test if with_texts else (),
        prompt_sets=prompt_sets,
        test_neutral=neutral,
        neutral_note=note,
        test_facts=demo.facts("test", DEMO_FACTS, seed) if is_demo else (),
        test_uncalled=_uncalled(source, prompt_count)[0] if sets is None else None,
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
            found = demo_texts(self.described.name, DEMO_TEXTS, self.seed)
        else:
            found = texts_of(self.described, self.data)
        outer = split_texts(found, test_size=TEST_SHARE, seed=self.seed)
        inner = split_texts(outer.train, test_size=VALIDATION_SHARE, seed=self.seed)
        return _Parts(inner.train, inner.test, outer.test)


def _source(described: BehaviorFile, is_demo: bool, data: Path | None, seed: int) -> _Source:
    """Where parts come from: the demo data, given data, the package, or the Hub."""
    packaged = None
    if not is_demo:
        described, packaged = with_packaged_data(described, data)
    return _Source(described, is_demo, data, seed, packaged)


def _prompt_sets(
    source: _Source, prompt_count: int | None, wanted: Sequence[str] | None = None
) -> tuple[PromptSet, ...]:
    """The prompt sets, or those that are wanted; no other is read."""
    described = source.described
    prompts = described.prompts
    corpora = prompts if isinstance(prompts, list) and not source.is_demo else None
    known = [PLAIN_SET] if corpora is None else [one.called for one in corpora]
    for name in wanted or ():
        if name not in known:
            raise RecipeError(
                f"behavior {described.name!r} has no prompt set {name!r}; expected some of "
                f"{', '.join(known)}"
            )
    if corpora is None:
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
        wanted = source.packaged.validation_prompts
        return corpus_prompt_set(wanted, None, None, source.seed).texts
    return half_texts(source.parts.validation)


def _uncalled(source: _Source, limit: int | None) -> tuple[PromptSet | None, tuple[str, ...]]:
    """Held-out prompts that do not call for the behavior, and those that choices are made on.

    None and nothing where the behavior has no such prompts, or prompts of the user's own. For
    refusal these are harmless requests, and showing the behavior there is over-refusal.
    """
    described, data, seed = source.described, source.data, source.seed
    wanted = described.uncalled_for
    if wanted is None or isinstance(described.prompts, Path):
        return None, ()
    if source.is_demo:
        test = demo.harmless_requests("test", limit or DEMO_UNCALLED, seed)
        title = "harmless requests of the demo data"
        validation = demo.harmless_requests("train", DEMO_VALIDATION_UNCALLED, seed)
        test_set = plain_prompt_set(wanted.name, title, test, described.max_new_tokens)
        return test_set, tuple(validation)
    if wanted.validation is None:
        return None, ()
    sets = [corpus_prompt_set(one, data, None, seed) for one in wanted.prompts]
    pooled = {prompt.text: prompt for one in sets for prompt in one.prompts}
    chosen = evenly_by(tuple(pooled.values()), limit, ("group",), seed)
    title = " and ".join(one.title or one.name for one in sets)
    held = replace(sets[0], name=wanted.name, title=title, prompts=chosen, by=("group",))
    tuned = corpus_prompt_set(wanted.validation, data, None, seed).texts
    return held, tuple(text for text in tuned if text not in pooled)


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
            demo.neutral_texts(part, DEMO_NEUTRAL, seed) for part in ("train", "test")
        )
        return validation, test, "held-out plain talk, harmless requests, facts and narration"
    if source.packaged is not None:
        return packaged_neutral(source.packaged)
    corpus = find_corpus(NEUTRAL_CORPUS, data) if data is not None else None
    is_public = isinstance(described.texts, list) or isinstance(described.prompts, list)
    if corpus is not None and (
        is_public or any(text.reply is not None for text in source.parts.validation)
    ):
        validation, test = (_passages(corpus, split) for split in ("validation", "test"))
        return validation, test, "WikiText-2, test part"
    validation, test = (
        tuple(text.text for text in part if text.label == 0)
        for part in (source.parts.validation, source.parts.test)
    )
    note = "held-out texts with label 0; give --neutral FILE for text of your own"
    return validation, test, note


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
