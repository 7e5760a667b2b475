"""The verdict of a run in plain words: what changed, how sure that is, and what it cost."""

from collections.abc import Sequence
from typing import Literal

from modelsurgery.results import Compared, Rate
from modelsurgery.results.parts import NO_CHANGE
from modelsurgery.results.runs import BudgetUse

Tone = Literal["good", "bad", "unclear"]
WISHED = {"away": "less", "toward": "more"}  # verdict of a change that a direction asks for


def per_cent(value: float) -> str:
    """0.437 as 43.7%."""
    return f"{100 * value:.1f}%"


def signed(value: float, digits: int = 1) -> str:
    """-1.54 as −1.5, with a minus sign as wide as a plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def verdict(name: str, one: Compared) -> str:
    """One sentence on one measurement of base and edited model."""
    assert one.edited is not None
    assert one.change is not None
    base, edited = per_cent(one.base.rate), per_cent(one.edited.rate)
    if one.change.verdict == NO_CHANGE:
        return (
            f"No detectable change: {name} occurs in {base} of prompts before the edit and in "
            f"{edited} after."
        )
    moved = "fell" if one.change.verdict == "less" else "rose"
    return f"{capitalized(name)} {moved} from {base} to {edited} of held-out prompts."


def capitalized(text: str) -> str:
    """The text with a large first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def tone(told: str, direction: str, is_affordable: bool = True) -> Tone:
    """Whether a verdict is what the direction asks for, at a price that was allowed."""
    if told == NO_CHANGE:
        return "unclear"
    return "good" if told == WISHED[direction] and is_affordable else "bad"


def wrong_way(told: str, direction: str) -> str | None:
    """What there is to say of a change against the wish."""
    if told in (NO_CHANGE, WISHED[direction]):
        return None
    return (
        f"This is the wrong direction: the edit was meant to make it {WISHED[direction]} frequent."
    )


def certainty(one: Compared) -> str:
    """How sure a change is, for people who do not read p-values."""
    change = one.change
    assert change is not None
    low, high = signed(100 * change.low), signed(100 * change.high)
    p = change.adjusted_p_value
    said = "less than once in 10,000 times" if p < 1e-4 else f"with a probability of {p:.2g}"
    return (
        f"The change is {signed(100 * change.difference)} points (95% interval {low} to {high}), "
        f"on {one.base.prompts:,} held-out prompts. If the edit had no effect, a change as large "
        f"would occur by chance {said}."
    )


def price(perplexity_rise: float, facts: Sequence[Rate] | None) -> str:
    """What it cost."""
    more = "more" if perplexity_rise >= 0 else "less"
    said = f"Perplexity on neutral text is {per_cent(abs(perplexity_rise))} {more}"
    if facts:
        base, edited = facts
        points = signed(100 * (edited.rate - base.rate))
        said += f"; it answers {per_cent(edited.rate)} of facts right ({points} points)"
    return said + "."


def budget(used: BudgetUse) -> str:
    """Whether the damage stayed inside what was allowed."""
    over = [name for name, one in used.limits.items() if one.is_inside is False]
    if over:
        return f"Over the damage budget on held-out data: {', '.join(over)}."
    if used.given_up is not None:
        return (
            "Within the damage budget, with a weaker edit: the first choice exceeded it on "
            "held-out data."
        )
    if all(one.limit is None for one in used.limits.values()):
        return "No damage budget was set."
    return "Within the damage budget."
