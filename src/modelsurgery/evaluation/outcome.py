"""Whether an edit did what it was meant to, on prompts that it was not made from."""

from modelsurgery.evaluation.statistics import corrected
from modelsurgery.results import Compared, Outcome
from modelsurgery.results.parts import NO_CHANGE, ChangeVerdict, Direction


def outcome_of(
    name: str, direction: Direction, sampled: Compared, greedy: Compared | None = None
) -> Outcome:
    """What became of a behavior, in the direction that an edit was meant to move it.

    Sampled continuations decide. Where they tell no change greedy ones may, if those were measured,
    at a p-value corrected for both (Holm).
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
        return Outcome(kind="changed", sentence=f"{moved}.")
    if verdict != NO_CHANGE:
        told = f"The edit has the opposite effect: {moved}, but it should become {wished} frequent."
        return Outcome(kind="wrong way", sentence=told)
    measured = (sampled,) if greedy is None else (sampled, greedy)
    if all(_has_nothing(one, direction) for one in measured):
        share = "none" if direction == "away" else "all"
        told = (
            f"Nothing to change: before the edit, {share} of {prompts} show {name}; use prompts "
            "that elicit it, or another model."
        )
        return Outcome(kind="nothing to change", sentence=told)
    advice = "use more prompts, allow more damage, or use other texts"
    return Outcome(kind="no change", sentence=f"No detectable effect: {moved}; {advice}.")


def _has_nothing(one: Compared, direction: str) -> bool:
    return one.base.rate == (0.0 if direction == "away" else 1.0)
