"""Gathering a behavior's texts and prompts, and splitting them: nothing held out is tuned on."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelsurgery import lab
from modelsurgery.behaviors.format import BehaviorFile, CorpusTexts, Replies, TextFiles
from modelsurgery.behaviors.prompting import (
    PromptSet,
    corpus_prompt_set,
    half_texts,
    plain_prompt_set,
)
from modelsurgery.behaviors.roots import located
from modelsurgery.corpora import find_corpus, load_corpus_passages, load_corpus_texts
from modelsurgery.errors import TextsError
from modelsurgery.texts import (
    LabelledText,
    Split,
    check_texts,
    load_lines,
    load_texts,
    split_texts,
)

LAB_TEXTS = 2400
LAB_NEUTRAL = 400
LAB_FACTS = 200
LAB_TUNING_FACTS = 400
HELD_OUT_SHARE = 0.2
TUNING_SHARE = 0.25
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
    """

    described: BehaviorFile
    is_lab: bool
    fit: tuple[LabelledText, ...]
    tuning: tuple[LabelledText, ...]
    held_out: tuple[LabelledText, ...]
    tuning_prompts: tuple[str, ...]
    prompt_sets: tuple[PromptSet, ...]
    tuning_neutral: tuple[str, ...]
    neutral: tuple[str, ...]
    neutral_note: str
    tuning_facts: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

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
        is_lab: take the texts of the embedded model's world.
        data: directory with local copies of public data sets; None takes the Hub.
        seed: of the split, and of the embedded model's generated texts.
        prompt_count: prompts of a set, at most; None takes all.

    Raises:
        TextsError: a file that cannot be used, or too little left for a part.
    """
    if is_lab:
        return _lab_behavior(described, seed, prompt_count)
    outer, inner = _three_parts(_texts(described, data), seed)
    fit, tuning, held_out = inner.train, inner.held_out, outer.held_out
    prompt_sets = _prompt_sets(described, held_out, data, seed, prompt_count)
    taken = {prompt for one in prompt_sets for prompt in one.texts}
    tuning_prompts = tuple(one for one in half_texts(tuning) if one not in taken)
    if not tuning_prompts:
        raise _no_prompts(described)
    tuning_neutral, neutral, note = _neutral(described, tuning, held_out, data)
    return Behavior(
        described,
        False,
        fit,
        tuning,
        held_out,
        tuning_prompts[:prompt_count],
        prompt_sets,
        tuning_neutral,
        neutral,
        note,
    )


def load_prompt_sets(
    described: BehaviorFile,
    *,
    is_lab: bool = False,
    data: Path | None = None,
    seed: int = 0,
    prompt_count: int | None = None,
) -> tuple[PromptSet, ...]:
    """The held-out prompts alone, the same as in `load_behavior`, which explains the arguments."""
    if is_lab:
        return (_lab_prompts(described, seed, prompt_count),)
    cut = described.prompts is None
    held_out = _three_parts(_texts(described, data), seed)[0].held_out if cut else ()
    return _prompt_sets(described, held_out, data, seed, prompt_count)


def _texts(described: BehaviorFile, data: Path | None) -> tuple[LabelledText, ...]:
    texts = described.texts
    if isinstance(texts, Path):
        columns = {
            "text_column": described.text_column,
            "label_column": described.label_column,
        }
        return load_texts(texts, **columns)
    if isinstance(texts, TextFiles):
        lines = [(texts.shows, 1), (texts.opposite, 0)]
        found = [LabelledText(line, label) for file, label in lines for line in load_lines(file)]
        return check_texts(found, f"{texts.shows} and {texts.opposite}")
    if texts is None:
        raise TextsError(
            f"behavior {described.name!r} has texts of the embedded model's world only; for "
            "another model give --texts FILE, or another behavior"
        )
    pooled = [text for corpus in texts for text in _corpus_texts(corpus, data)]
    return check_texts(pooled, described.name)


def _corpus_texts(wanted: CorpusTexts, data: Path | None) -> tuple[LabelledText, ...]:
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
    return tuple(answered for text in texts for answered in _answered(text, wanted.replies))


def _answered(text: LabelledText, replies: Replies) -> list[LabelledText]:
    """A user's turn, answered in either way; which of the phrases depends on the turn alone."""
    number = int.from_bytes(hashlib.sha256(text.text.encode()).digest()[:4])
    return [
        replace(
            text,
            label=label,
            group=text.group or text.text,
            reply=phrases[number % len(phrases)],
        )
        for label, phrases in ((1, replies.shows), (0, replies.opposite))
    ]


def _prompt_sets(
    described: BehaviorFile,
    held_out: Sequence[LabelledText],
    data: Path | None,
    seed: int,
    prompt_count: int | None,
) -> tuple[PromptSet, ...]:
    if isinstance(described.prompts, list):
        return tuple(corpus_prompt_set(one, data, prompt_count, seed) for one in described.prompts)
    if described.prompts is not None:
        prompts, title = load_lines(described.prompts), described.prompts.name
    else:
        prompts, title = half_texts(held_out), "first halves of held-out texts"
    if not prompts:
        raise _no_prompts(described)
    length = described.max_new_tokens
    return (plain_prompt_set("prompts", title, prompts[:prompt_count], length),)


def _no_prompts(described: BehaviorFile) -> TextsError:
    return TextsError(
        f"{described.texts if isinstance(described.texts, Path) else described.name}: the texts "
        "are too short to cut prompts from; expected sentences of four words or more, or "
        "--prompts FILE"
    )


def _neutral(
    described: BehaviorFile,
    tuning: Sequence[LabelledText],
    held_out: Sequence[LabelledText],
    data: Path | None,
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Neutral text for choices, held-out neutral text, and what it is."""
    if described.neutral is not None:
        lines = load_lines(described.neutral)
        return lines[::2], lines[1::2] or lines, described.neutral.name
    has_replies = any(text.reply is not None for text in tuning)
    corpus = find_corpus(NEUTRAL_CORPUS, data) if data is not None else None
    if corpus is not None and (has_replies or isinstance(described.texts, list)):
        parts = [_passages(corpus, split) for split in ("validation", "test")]
        return parts[0], parts[1], "WikiText-2, test part"
    parts = [tuple(text.text for text in part if text.label == 0) for part in (tuning, held_out)]
    note = "held-out texts with label 0; give --neutral FILE for text of your own"
    return parts[0], parts[1], note


def _passages(corpus: Path, split: str) -> tuple[str, ...]:
    """Beginnings of paragraphs of running text, spread evenly over a part."""
    lines = "".join(load_corpus_passages(NEUTRAL_CORPUS, corpus, split=split)).split("\n")
    words = [line.split()[:NEUTRAL_MAX_WORDS] for line in lines]
    paragraphs = [" ".join(some) for some in words if len(some) >= NEUTRAL_MIN_WORDS]
    return tuple(paragraphs[:: max(1, len(paragraphs) // NEUTRAL_PASSAGES)][:NEUTRAL_PASSAGES])


def _lab_prompts(described: BehaviorFile, seed: int, prompt_count: int | None) -> PromptSet:
    prompts = lab.prompts(described.name, "held_out", prompt_count or 300, seed)
    title = "held-out prompts of the embedded model's world"
    return plain_prompt_set("prompts", title, prompts, described.max_new_tokens)


def _lab_behavior(described: BehaviorFile, seed: int, prompt_count: int | None) -> Behavior:
    name = described.name
    texts = [
        LabelledText(text, label, group=str(number // 2))
        for number, (text, label) in enumerate(lab.labelled_texts(name, LAB_TEXTS, seed))
    ]
    outer, inner = _three_parts(texts, seed)
    return Behavior(
        described,
        True,
        inner.train,
        inner.held_out,
        outer.held_out,
        tuning_prompts=tuple(lab.prompts(name, "train", prompt_count or 300, seed)),
        prompt_sets=(_lab_prompts(described, seed, prompt_count),),
        tuning_neutral=tuple(lab.neutral_texts("train", LAB_NEUTRAL, seed)),
        neutral=tuple(lab.neutral_texts("held_out", LAB_NEUTRAL, seed)),
        neutral_note="held-out plain talk, harmless requests, facts and narration",
        tuning_facts=tuple(lab.facts("train", LAB_TUNING_FACTS, seed)),
        facts=tuple(lab.facts("held_out", LAB_FACTS, seed)),
    )


def _three_parts(texts: Sequence[LabelledText], seed: int) -> tuple[Split, Split]:
    outer = split_texts(texts, held_out=HELD_OUT_SHARE, seed=seed)
    return outer, split_texts(outer.train, held_out=TUNING_SHARE, seed=seed)
