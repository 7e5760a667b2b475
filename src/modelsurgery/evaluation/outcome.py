"""Whether an edit did what it was meant to, on prompts that it was not made from."""

from dataclasses import dataclass
from typing import Literal

from modelsurgery.evaluation.protocol import Comparison
from modelsurgery.evaluation.statistics import ChangeVerdict, corrected

Kind = Literal["changed", "wrong way", "no change", "nothing to change"]
NO_CHANGE: ChangeVerdict = "no detectable change"


@dataclass(frozen=True)
class Outcome:
    """What became of a behavior.

    Attributes:
        kind: `changed` as it was asked to; anything else says that the edit does not work.
        sentence: the same in words, with the rates.
    """

    kind: Kind
    sentence: str

    @property
    def is_as_asked(self) -> bool:
        """Whether the behavior changed as it was asked to."""
        return self.kind == "changed"


def outcome_of(
    name: str,
    direction: Literal["away", "toward"],
    sampled: Comparison,
    greedy: Comparison | None = None,
) -> Outcome:
    """What became of a behavior.

    Sampled continuations decide. Where they tell no change greedy ones may, at a p-value corrected
    for both (Holm).

    Args:
        name: of the behavior.
        direction: what the edit was meant to do.
        sampled: base against edited.
        greedy: the same, greedy; None where that was not measured.
    """
    wished: ChangeVerdict = "less" if direction == "away" else "more"
    assert sampled.change is not None
    decoding, one, verdict = "sampled", sampled, sampled.change.verdict
    if verdict == NO_CHANGE and greedy is not None:
        assert greedy.change is not None
        both = corrected({"sampled": sampled.change, "greedy": greedy.change})
        if both["greedy"].verdict != NO_CHANGE:
            decoding, one, verdict = "greedy", greedy, both["greedy"].verdict
    assert one.edited is not None
    before, after = (f"{100 * rate.rate:.1f}%" for rate in (one.base, one.edited))
    prompts = f"{one.base.prompts:,} held-out prompts"
    moved = f"{name} goes from {before} to {after} of {prompts} ({decoding})"
    if verdict == wished:
        return Outcome("changed", f"{moved}.")
    if verdict != NO_CHANGE:
        return Outcome(
            "wrong way",
            f"The edit has the opposite effect: {moved}, but it should become {wished} frequent.",
        )
    measured = (sampled,) if greedy is None else (sampled, greedy)
    if all(_has_nothing(one, direction) for one in measured):
        share = "none" if direction == "away" else "all"
        return Outcome(
            "nothing to change",
            f"Nothing to change: before the edit, {share} of {prompts} show {name}; use prompts "
            "that elicit it, or another model.",
        )
    return Outcome(
        "no change",
        f"No detectable effect: {moved}; use more prompts, allow more damage, or use other texts.",
    )


def _has_nothing(one: Comparison, direction: str) -> bool:
    return one.base.rate == (0.0 if direction == "away" else 1.0)
