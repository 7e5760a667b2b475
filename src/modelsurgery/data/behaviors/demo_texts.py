"""Labeled texts of the demo data."""

import functools

from modelsurgery.data import demo
from modelsurgery.data.texts import LabeledText


@functools.cache  # each step of a sequence asks for all behaviors again
def demo_texts(name: str, count: int, seed: int) -> tuple[LabeledText, ...]:
    """Texts of a behavior; two in a row belong together.

    Whether to refuse depends on the request: those of refusal are requests with their answers.
    """
    if name == "refusal":
        return tuple(
            LabeledText(request, int(refused), str(number // 2), answer, called_for=naughty)
            for number, (request, answer, refused, naughty) in enumerate(
                demo.exchanges(count, seed)
            )
        )
    return tuple(
        LabeledText(text, label, group=str(number // 2))
        for number, (text, label) in enumerate(demo.labeled_texts(name, count, seed))
    )
