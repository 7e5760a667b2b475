"""What a run is going to do, in words."""

from typing import Any

from modelsurgery.results.notes import reduced_lines

MINUTE = 60.0


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan of a run: a line a stage, then the whole."""
    stages = [one for one in plan["stages"] if one["seconds"] >= 0.5]
    width = max((len(one["name"]) for one in stages), default=0)
    lines = [f"  {one['name']:<{width}}  {duration(one['seconds']):>8}" for one in stages]
    pace = plan["pace"]
    memory = f"{plan['memory_bytes'] / 1e9:.1f} GB of memory"
    whole = f"about {duration(plan['seconds'])}, {memory}"
    if not plan["fits"]:
        whole += (
            f"; this is more than {plan['minutes']:g} minutes even with the smallest useful "
            "numbers of texts and prompts; the run continues anyway"
        )
    return [
        f"plan    {whole}",
        f"        ({pace['reads']:,.0f} tokens/s read, {pace['learns']:,.0f} forward and back, "
        f"{pace['writes']:,.0f} written)",
        *lines,
        *reduced_lines(plan),
    ]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read best."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 90 * MINUTE:
        return f"{seconds / MINUTE:.1f} min"
    return f"{seconds / MINUTE / MINUTE:.1f} h"
