"""A method of steering a model: where it comes from, and what it makes of texts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from modelsurgery.data.behaviors import Behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.evaluation.screening import Screen
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import TokenizedText, tokenize_labeled
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rules.contrast import pulled_apart
from modelsurgery.search.edit_fitting import SCREEN_TEXTS
from modelsurgery.search.fitting import RULE_TEXTS, first_tokens, some_of_each

Made = TypeVar("Made")
# How what a method makes can be shipped.
Delivery = Literal["weights", "weights or adapter", "hooks", "second model", "prompt"]


@dataclass(frozen=True)
class Materials:
    """What every method works from: the same texts, never a test text."""

    model: LanguageModel  # the base model
    behavior: Behavior  # the behavior
    shows: tuple[LabeledText, ...]  # training texts that show what should go
    opposite: tuple[LabeledText, ...]  # training texts that show what should come
    # Texts on which the model should stay as it is; choices are made on others.
    neutral: tuple[str, ...]
    validation: Screen  # measures an effect on validation texts, for methods that choose
    passes: Passes  # how texts are read by the rules of this library
    # 1 away from the behavior, -1 toward it; `shows` and `opposite` are exchanged then.
    sign: int = 1
    seed: int = 0  # of everything random
    progress: Progress = silent  # is told what is going on
    # What methods that differ in one setting make once, by name.
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def pairs(self) -> tuple[tuple[LabeledText, LabeledText], ...]:
        """Texts of the same group, (shows, opposite); in order where there are no groups."""
        by_group = {text.group: text for text in self.opposite if text.group is not None}
        found = tuple((text, by_group[text.group]) for text in self.shows if text.group in by_group)
        return found or tuple(zip(self.shows, self.opposite, strict=False))

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What is shared under a name, made when it is asked for first."""
        if name not in self.shared:
            self.shared[name] = make()
        found: Made = self.shared[name]
        return found

    def read(self, texts: Sequence[LabeledText]) -> list[TokenizedText]:
        """Texts as the model reads them."""
        return tokenize_labeled(self.model, texts)


class Method(ABC):
    """A way to change a model's behavior."""

    name: str  # what it is called on the command line
    title: str  # what it is called in a table
    source: str  # who published it, and where
    delivery: Delivery = "weights"  # how the result can be shipped
    settings: str = ""  # the settings of the reference implementation that are used here
    note: str = ""  # where this differs from the reference

    @abstractmethod
    def fit(self, given: Materials) -> Intervention:
        """Learn from texts; a positive strength of what comes out moves away from `shows`.

        Raises:
            UnsupportedModelError: the method doesn't know such a model.
        """


def gather_materials(
    model: LanguageModel,
    behavior: Behavior,
    *,
    sign: int = 1,
    texts: int = RULE_TEXTS,
    passes: Passes | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Materials:
    """What methods learn from: training texts, neutral text, and what choices are measured on.

    At most so many texts of each kind; of a behavior that depends on the request, those that call
    for it. Without `passes`, nothing is kept on disk; other arguments are as for `Materials`.
    """
    read = some_of_each(behavior.train, texts)
    by_label = [
        tuple(one for one in read if one.label == label and one.called_for is not False)
        for label in (1, 0)
    ]
    shows, opposite = by_label[::sign]
    return Materials(
        model,
        behavior,
        shows,
        opposite,
        behavior.validation_neutral,
        screen_of(model, behavior.validation, behavior.validation_neutral, sign, progress),
        passes or Passes(model),
        sign,
        seed,
        progress,
    )


def screen_of(
    model: LanguageModel,
    texts: Sequence[LabeledText],
    neutral: Sequence[str],
    sign: int,
    progress: Progress = silent,
) -> Screen:
    """Measures how far labels are pulled apart, and what neutral text and own answers suffer."""
    read = some_of_each(texts, SCREEN_TEXTS)
    shows, opposite = pulled_apart(read, sign)
    own = own_answers(model, read, progress=progress)
    return Screen(model, shows, opposite, first_tokens(model, neutral), own=own, progress=progress)
