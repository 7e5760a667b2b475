"""What is to be pulled apart: kinds of texts, and what each one counts for.

Texts with a label alone make two kinds: those that show the behavior and their opposites. Where a
behavior depends on what was asked (refuse a harmful request, help with a harmless one), texts also
say whether the request calls for it, and make four kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from modelsurgery.data.texts import LabeledText
from modelsurgery.files.atomic import sha256_json


@dataclass(frozen=True)
class TextKind:
    """Texts of one kind."""

    name: str  # of the kind, for people
    texts: tuple[LabeledText, ...]  # the texts
    gain: float  # what a rise of their mean loss counts for, for an edit away from the behavior
    request: float  # what their mean inputs count for in the direction of what was asked
    reply: float  # what they count for in the direction of what was said


@dataclass(frozen=True)
class Contrast:
    """Kinds of texts that an edit pulls apart."""

    kinds: tuple[TextKind, ...]  # each with at least one text
    # Of this behavior among several at once; negative for one that goes the other way than the edit
    # does.
    weight: float = 1.0
    name: str | None = None  # of the behavior; None of one alone

    @property
    def senses(self) -> list[list[float]]:
        """What each kind's mean inputs count for in each direction of a site, [k, kinds].

        What was said; before it what was asked, where what is right depends on that.
        """
        asked = [kind.request for kind in self.kinds]
        said = [kind.reply for kind in self.kinds]
        return [asked, said] if any(asked) else [said]

    def folds(self, count: int, seed: int) -> list[list[list[LabeledText]]]:
        """Each kind's texts in `count` parts, about as many in each; a group stays in one part."""
        places: dict[str, int] = {}
        found = []
        for kind in self.kinds:
            groups = {text.group or text.text for text in kind.texts}
            fresh = sorted(groups - set(places), key=lambda group: sha256_json([seed, group]))
            places |= {group: number % count for number, group in enumerate(fresh)}
            parts: list[list[LabeledText]] = [[] for _ in range(count)]
            for text in kind.texts:
                parts[places[text.group or text.text]].append(text)
            found.append(parts)
        return found


def pulled_apart(texts: Sequence[LabeledText], sign: int) -> tuple[list[LabeledText], ...]:
    """Texts whose loss an edit away should raise, and those whose loss it should lower.

    For an edit toward the behavior (`sign` -1) it is the other way round.
    """
    kinds = contrast_of(texts, sign=sign).kinds
    return tuple(
        [text for kind in kinds if sense * kind.gain > 0 for text in kind.texts]
        for sense in (1, -1)
    )


def contrast_of(
    texts: Sequence[LabeledText], *, sign: int = 1, weight: float = 1.0, name: str | None = None
) -> Contrast:
    """The contrast that labeled texts make; `sign` is 1 away from the behavior, -1 toward it.

    Where the request does not call for the behavior, showing it is never wanted: its kinds keep
    their sense whichever way the edit goes.
    """

    def kind(
        told: str, label: int, called_for: bool | None, gain: float, request: float
    ) -> TextKind:
        some = [text for text in texts if (text.label, text.called_for) == (label, called_for)]
        return TextKind(told, tuple(some), gain, request, 1.0 if label else -1.0)

    if all(text.called_for is None for text in texts):
        kinds = [
            kind("shows the behavior", 1, None, 1.0, 0.0),
            kind("its opposite", 0, None, -1.0, 0.0),
        ]
    else:
        four = (
            kind("called for, shown", 1, True, 1.0, 1.0),
            kind("called for, not shown", 0, True, -1.0, 1.0),
            kind("not called for, shown", 1, False, float(sign), -1.0),
            kind("not called for, not shown", 0, False, -float(sign), -1.0),
        )
        kinds = [one for one in four if one.texts]
    return Contrast(tuple(kinds), weight, name)
