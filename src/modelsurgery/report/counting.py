"""Continuations that no rate counts, in words: the same in a terminal and on a page."""

from collections.abc import Mapping


def uncounted(verdicts: Mapping[str, Mapping[str, int] | None]) -> list[str]:
    """One sentence, without its full stop, for each model of which continuations are in no rate.

    Args:
        verdicts: how many continuations got each verdict, by model (base, edited); None for a
            model that was not measured.
    """
    lines = []
    for side, counts in verdicts.items():
        missing = 0 if counts is None else counts["failed"] + counts["unjudged"]
        if counts is not None and missing:
            lines.append(
                f"{missing:,} of {sum(counts.values()):,} {side} continuations were empty or could "
                "not be judged; they are not counted as harmless"
            )
    return lines
