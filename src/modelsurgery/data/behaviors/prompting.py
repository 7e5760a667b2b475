"""Sets of prompts that a behavior is measured on, and keeping them apart from what was tuned on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsurgery.data.behaviors.format import Category, CorpusPrompts, PublishedRate
from modelsurgery.data.behaviors.roots import locate_corpus
from modelsurgery.data.choosing import evenly
from modelsurgery.data.corpora import Prompt, load_corpus_prompts
from modelsurgery.data.texts import LabeledText

MIN_PROMPT_WORDS = 2


@dataclass(frozen=True)
class PromptSet:
    """Held-out prompts that are continued in one way and reported together."""

    name: str  # what the set is called in results
    title: str  # one line on what it is
    prompts: tuple[Prompt, ...]  # the prompts, different from each other
    max_new_tokens: int  # length of a continuation
    stop: str | None = None  # text at which a continuation ends
    by: tuple[Category, ...] = ()  # what the result is also reported by
    published: tuple[PublishedRate, ...] = ()  # measurements of others on the same prompts

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts without what is known about them."""
        return tuple(prompt.text for prompt in self.prompts)

    @property
    def is_chat(self) -> bool:
        """Whether the prompts are users' turns."""
        return all(prompt.chat for prompt in self.prompts)


def corpus_prompt_set(
    described: CorpusPrompts, root: Path | None, limit: int | None, seed: int
) -> PromptSet:
    """The prompts of a public data set, at most `limit`, evenly of all kinds that they are told by.

    The root is a directory with local copies; None takes the package's, else the Hub.

    Raises:
        TextsError: not there, or not in the published form.
    """
    prompts = load_corpus_prompts(
        described.corpus,
        locate_corpus(described.corpus, root),
        split=described.split,
        where=described.where,
        per_file=described.per_file,
        unique=True,
    )
    return PromptSet(
        described.called,
        described.title,
        evenly_by(prompts, limit, described.by, seed),
        described.max_new_tokens,
        described.stop,
        tuple(described.by),
        tuple(described.published),
    )


def plain_prompt_set(
    name: str, title: str, prompts: Iterable[str], max_new_tokens: int
) -> PromptSet:
    """Prompts of which nothing but their text is known."""
    unique = dict.fromkeys(prompts)
    return PromptSet(name, title, tuple(Prompt(text) for text in unique), max_new_tokens)


def half_texts(texts: Sequence[LabeledText]) -> tuple[str, ...]:
    """First halves, in words, of the texts that show the behavior; users' turns stay whole."""
    showing = [text for text in texts if text.label == 1]
    whole = [text.text for text in showing if text.reply is not None]
    words = [text.text.split() for text in showing if text.reply is None]
    halves = [
        " ".join(word[: len(word) // 2]) for word in words if len(word) // 2 >= MIN_PROMPT_WORDS
    ]
    return tuple(dict.fromkeys([*whole, *halves]))


def evenly_by(
    prompts: Sequence[Prompt], limit: int | None, by: Sequence[Category], seed: int
) -> tuple[Prompt, ...]:
    """At most `limit` prompts, in their order, as many of each kind as can be: see `evenly`."""
    kinds = [tuple(getattr(prompt, name) for name in by) for prompt in prompts]
    chosen = evenly([prompt.text for prompt in prompts], limit, kinds=kinds, seed=seed)
    return tuple(prompts[number] for number in sorted(chosen))
