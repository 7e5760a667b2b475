"""The model's own answers to requests: the neutral text of behaviors of chat turns.

What an edit does to plain text says little of what it does to answers in a chat template: an edit
toward refusal can leave the one alone and ruin the other. So both are measured.
"""

from collections.abc import Iterable

from modelsurgery.data.texts import LabeledText
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

ANSWER_TOKENS = 48
MOST_ANSWERS = 64


def own_answers(
    model: LanguageModel,
    texts: Iterable[LabeledText],
    *,
    store: Store | None = None,
    progress: Progress = silent,
) -> list[LabeledText]:
    """Requests that do not call for the behavior, with the base model's own greedy answers.

    The first different ones, in order, and none where the behavior does not depend on the request;
    empty answers are left out. Requests are users' turns; without a template a line break follows
    them, as in exchanges.
    """
    uncalled = dict.fromkeys(text.text for text in texts if text.called_for is False)
    requests = list(uncalled)[:MOST_ANSWERS]
    if not requests:
        return []
    has_template = model.template.exists
    prompts = requests if has_template else [f"{request}\n" for request in requests]
    decoding = Decoding(ANSWER_TOKENS, chat=has_template)
    generator = TransformersGenerator(model, store=store)
    made = generator.generate(prompts, decoding, progress=progress)
    return [
        LabeledText(request, 0, reply=one.text)
        for request, one in zip(requests, made, strict=True)
        if one.text.strip()
    ]
