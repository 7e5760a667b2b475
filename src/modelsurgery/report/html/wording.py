"""The verdict of a run in plain words: what changed, how sure that is, and what it cost."""

from collections.abc import Mapping
from typing import Any

from modelsurgery.report.html.charts import per_cent


def verdict(name: str, one: Mapping[str, Any]) -> str:
    """One sentence on one measurement (`base`, `edited`, `change`)."""
    base, edited = per_cent(one["base"]["rate"]), per_cent(one["edited"]["rate"])
    told = one["change"]["verdict"]
    subject = name[:1].upper() + name[1:]
    if told == "no detectable change":
        return f"No detectable change: {name} shows in {base} of prompts before and {edited} after."
    moved = "fell" if told == "less" else "rose"
    return f"{subject} {moved} from {base} to {edited} of held-out prompts."


def certainty(one: Mapping[str, Any]) -> str:
    """How sure a change is, for people who do not read p-values."""
    change = one["change"]
    low, high = 100 * change["low"], 100 * change["high"]
    p = change["adjusted_p_value"]
    said = "less than 1 in 10,000" if p < 1e-4 else f"{p:.2g}"
    return (
        f"The change is {100 * change['difference']:+.1f} points, between {low:+.1f} and "
        f"{high:+.1f} with 95 % confidence, on {one['base']['prompts']} prompts that nothing was "
        f"tuned on. The chance of such a change without any effect is {said}."
    )


def price(perplexity_rise: float, facts: list[Mapping[str, float]] | None) -> str:
    """What it cost."""
    more = "more" if perplexity_rise >= 0 else "less"
    said = f"Ordinary text surprises the model {per_cent(abs(perplexity_rise))} {more} (perplexity)"
    if facts:
        base, edited = facts
        points = 100 * (edited["rate"] - base["rate"])
        said += f"; it answers {per_cent(edited['rate'])} of facts right ({points:+.1f} points)"
    return said + "."


def budget(results: Mapping[str, Any]) -> str:
    """Whether the damage stayed inside what was allowed."""
    over = [name for name, one in results["budget"]["limits"].items() if one["is_inside"] is False]
    if over:
        return f"Over the damage budget on held-out data: {', '.join(over)}."
    if results["budget"]["given_up"] is not None:
        return (
            "Inside the damage budget, with a milder edit: the one that the search preferred was "
            "over it on held-out data."
        )
    return "Inside the damage budget."
