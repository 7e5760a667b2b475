"""Gathering a behavior's texts and prompts, and splitting them: nothing held out is tuned on."""

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from modelsurgery.data import demo
from modelsurgery.data.behaviors.format import (
    BehaviorFile,
    CorpusTexts,
    Packaged,
    TextFiles,
)
from modelsurgery.data.behaviors.packaging import (
    packaged_neutral,
    packaged_tuning_prompts,
    with_packaged_data,
)
from modelsurgery.data.behaviors.prompting import (
    PromptSet,
    corpus_prompt_set,
    half_texts,
    plain_prompt_set,
)
from modelsurgery.data.behaviors.roots import located
from modelsurgery.data.behaviors.uncalled import uncalled_prompts
from modelsurgery.data.behaviors.world import lab_texts
from modelsurgery.data.corpora import find_corpus, load_corpus_passages, load_corpus_texts
from modelsurgery.data.texts import (
    LabeledText,
    check_texts,
    load_lines,
    load_texts,
    split_texts,
)
from modelsurgery.errors import RecipeError, TextsError

LAB_TEXTS = 2400
LAB_PROMPTS = 300
LAB_NEUTRAL = 400
LAB_FACTS = 200
LAB_TUNING_FACTS = 400
HELD_OUT_SHARE = 0.2
TUNING_SHARE = 0.25
PLAIN_SET = "prompts"  # name of the set of a behavior without public prompts
NEUTRAL_PASSAGES = 400
NEUTRAL_CORPUS = "wikitext"
NEUTRAL_MIN_WORDS = 20
NEUTRAL_MAX_WORDS = 48  # the search reads neutral text a hundred times
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Behavior:
    """A behavior with all its texts, ready to use. Nothing held out is used for any choice.

    Attributes:
        described: what its file says.
        is_lab: whether the texts are of the embedded model's world.
        fit: texts that the probe is fitted on.
        tuning: texts that choices are made on; not in `fit`.
        held_out: texts that the probe is measured on.
        tuning_prompts: prompts that choices are made on; none of them is in a prompt set.
        prompt_sets: held-out prompts, at least one set.
        tuning_neutral: neutral texts that the damage budget is kept on.
        neutral: held-out neutral texts.
        neutral_note: what the neutral texts are.
        tuning_facts: questions with their answers that the damage budget is kept on.
        facts: held-out questions with their exact answers; empty where there are none.
        uncalled: held-out prompts that do not call for the behavior; None where there are none.
        tuning_uncalled: such prompts that choices are made on.
    """

    described: BehaviorFile
    is_lab: bool
    fit: tuple[LabeledText, ...]
    tuning: tuple[LabeledText, ...]
    held_out: tuple[LabeledText, ...]
    tuning_prompts: tuple[str, ...]
    prompt_sets: tuple[PromptSet, ...]
    tuning_neutral: tuple[str, ...]
    neutral: tuple[str, ...]
    neutral_note: str
    tuning_facts: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    uncalled: PromptSet | None = None
    tuning_uncalled: tuple[str, ...] = ()

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
    is_lab: bool = False,
    data: Path | None = None,
    seed: int = 0,
    prompt_count: int | None = 300,
) -> Behavior:
    """Gather a behavior's texts and split them.

    Args:
        described: from `describe_behavior`, or made by hand.
        is_lab: take the embedded model's world for all that is no file of one's own.
        data: directory with local copies of public data sets, or `roots.HUB`; None takes what
            ships with the package, and the Hub where nothing does.
        seed: of the split, and of the embedded model's generated texts.
        prompt_count: prompts of a set, at most; None takes all.

    Raises:
        TextsError: a file that cannot be used, or too little left for a part.
    """
    source = _source(described, is_lab, data, seed)
    prompt_sets = _prompt_sets(source, prompt_count)
    taken = {prompt for one in prompt_sets for prompt in one.texts}
    tuning_prompts = tuple(one for one in _tuning_prompts(source, prompt_count) if one not in taken)
    if not tuning_prompts:
        raise _no_prompts(described)
    tuning_neutral, neutral, note = _neutral(source)
    return Behavior(
        source.described,
        is_lab,
        source.parts.fit,
        source.parts.tuning,
        source.parts.held_out,
        tuning_prompts[:prompt_count],
        prompt_sets,
        tuning_neutral,
        neutral,
        note,
        tuple(demo.facts("train", LAB_TUNING_FACTS, seed)) if is_lab else (),
        tuple(demo.facts("held_out", LAB_FACTS, seed)) if is_lab else (),
        *uncalled_prompts(
            source.described, prompt_count, is_lab=is_lab, data=source.data, seed=seed
        ),
    )


def load_held_out(
    described: BehaviorFile,
    *,
    is_lab: bool = False,
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
        is_lab: the same.
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
    source = _source(described, is_lab, data, seed)
    prompt_sets = _prompt_sets(source, prompt_count, sets)
    neutral, note = _neutral(source)[1:] if with_neutral else ((), "none")
    parts = source.parts if with_texts else _Parts((), (), ())
    facts = tuple(demo.facts("held_out", LAB_FACTS, seed)) if is_lab else ()
    uncalled = None
    if sets is None:
        uncalled, _ = uncalled_prompts(
            source.described, prompt_count, is_lab=is_lab, data=source.data, seed=seed
        )
    return Behavior(
        source.described,
        is_lab,
        parts.fit,
        (),
        parts.held_out,
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

    fit: tuple[LabeledText, ...]
    tuning: tuple[LabeledText, ...]
    held_out: tuple[LabeledText, ...]


@dataclass(frozen=True)
class _Source:
    """Where the parts of a behavior come from; its texts are read when they are first wanted."""

    described: BehaviorFile
    is_lab: bool
    data: Path | None
    seed: int
    packaged: Packaged | None

    @cached_property
    def parts(self) -> _Parts:
        texts = self.described.texts
        if self.is_lab and not isinstance(texts, Path | TextFiles):
            found: Sequence[LabeledText] = lab_texts(self.described.name, LAB_TEXTS, self.seed)
        else:
            found = _texts(self.described, self.data)
        outer = split_texts(found, held_out=HELD_OUT_SHARE, seed=self.seed)
        inner = split_texts(outer.train, held_out=TUNING_SHARE, seed=self.seed)
        return _Parts(inner.train, inner.held_out, outer.held_out)


def _source(described: BehaviorFile, is_lab: bool, data: Path | None, seed: int) -> _Source:
    """Where parts come from: the embedded model's world, given data, the package, or the Hub."""
    packaged = None
    if not is_lab:
        described, packaged = with_packaged_data(described, data)
    return _Source(described, is_lab, data, seed, packaged)


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
        located(wanted.corpus, data),
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
    is_one = corpora is None or source.is_lab
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
    """Prompts from a file, from the embedded model's world, or cut from held-out texts."""
    described = source.described
    if isinstance(described.prompts, Path):
        prompts, title = load_lines(described.prompts), described.prompts.name
    elif source.is_lab:
        count = prompt_count or LAB_PROMPTS
        prompts = tuple(demo.prompts(described.name, "held_out", count, source.seed))
        title = "held-out prompts of the demo model"
    else:
        prompts, title = half_texts(source.parts.held_out), "first halves of held-out texts"
    if not prompts:
        raise _no_prompts(described)
    length = described.max_new_tokens
    return plain_prompt_set(PLAIN_SET, title, prompts[:prompt_count], length)


def _tuning_prompts(source: _Source, prompt_count: int | None) -> Sequence[str]:
    if source.is_lab:
        count = prompt_count or LAB_PROMPTS
        return demo.prompts(source.described.name, "train", count, source.seed)
    if source.packaged is not None and isinstance(source.described.prompts, list):
        return packaged_tuning_prompts(source.packaged, source.seed)
    return half_texts(source.parts.tuning)


def _no_prompts(described: BehaviorFile) -> TextsError:
    return TextsError(
        f"{described.texts if isinstance(described.texts, Path) else described.name}: the texts "
        "are too short to cut prompts from; expected sentences of four words or more, or "
        "--prompts FILE"
    )


def _neutral(source: _Source) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Neutral text for choices, held-out neutral text, and what it is."""
    described, data, seed = source.described, source.data, source.seed
    if described.neutral is not None:
        lines = load_lines(described.neutral)
        return lines[::2], lines[1::2] or lines, described.neutral.name
    if source.is_lab:
        tuning, held_out = (
            tuple(demo.neutral_texts(part, LAB_NEUTRAL, seed)) for part in ("train", "held_out")
        )
        return tuning, held_out, "held-out plain talk, harmless requests, facts and narration"
    if source.packaged is not None:
        return packaged_neutral(source.packaged)
    corpus = find_corpus(NEUTRAL_CORPUS, data) if data is not None else None
    is_public = isinstance(described.texts, list) or isinstance(described.prompts, list)
    if corpus is not None and (
        is_public or any(text.reply is not None for text in source.parts.tuning)
    ):
        parts = [_passages(corpus, split) for split in ("validation", "test")]
        return parts[0], parts[1], "WikiText-2, test part"
    parts = [
        tuple(text.text for text in part if text.label == 0)
        for part in (source.parts.tuning, source.parts.held_out)
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
