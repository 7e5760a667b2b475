"""Labeled texts of the demo data."""

from modelsurgery.data import demo
from modelsurgery.data.texts import LabeledText


def demo_texts(name: str, count: int, seed: int) -> list[LabeledText]:
    """Texts of a behavior; two in a row belong together.

    Whether to refuse depends on the request: those of refusal are requests with their answers.
    """
    if name == "refusal":
        return [
            LabeledText(request, int(refused), str(number // 2), answer, called_for=naughty)
            for number, (request, answer, refused, naughty) in enumerate(
                demo.exchanges(count, seed)
            )
        ]
    return [
        LabeledText(text, label, group=str(number // 2))
        for number, (text, label) in enumerate(demo.labeled_texts(name, count, seed))
    ]
