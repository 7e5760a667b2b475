"""A behavior from labeled texts that are in memory already."""

from collections.abc import Sequence

from modelsurgery.data.behaviors.format import BehaviorFile
from modelsurgery.data.behaviors.gathering import PLAIN_SET, TEST_SHARE, Behavior
from modelsurgery.data.behaviors.prompting import half_texts, plain_prompt_set
from modelsurgery.data.texts import LabeledText, Split, split_texts
from modelsurgery.errors import TextsError


def behavior_of_texts(
    texts: Split | Sequence[LabeledText],
    *,
    prompts: Sequence[str] | None = None,
    neutral: Sequence[str] | None = None,
    prompt_count: int | None = None,
    seed: int = 0,
) -> Behavior:
    """A behavior to measure on the held-out part of texts; nothing is read from a file.

    Texts that are no split are split here, by the seed. Without prompts to continue, first halves
    of held-out texts that show the behavior are taken, and without neutral texts, on which the
    model should stay as it is, the held-out texts with label 0.

    Raises:
        TextsError: too few texts, or texts that are too short to cut prompts from.
    """
    if not isinstance(texts, Split):
        texts = split_texts(texts, test_size=TEST_SHARE, seed=seed)
    described = BehaviorFile(name="behavior", title="labeled texts", texts=[])
    chosen = list(half_texts(texts.test) if prompts is None else prompts)[:prompt_count]
    if not chosen:
        raise TextsError(
            "the texts are too short to cut prompts from; expected sentences of four words or "
            "more, or prompts"
        )
    title = "first halves of held-out texts" if prompts is None else "given prompts"
    clean, note = neutral, "given texts"
    if clean is None:
        clean = [text.text for text in texts.test if text.label == 0]
        note = "held-out texts with label 0"
    return Behavior(
        described,
        is_demo=False,
        train=texts.train,
        test=texts.test,
        prompt_sets=(plain_prompt_set(PLAIN_SET, title, chosen, described.max_new_tokens),),
        test_neutral=tuple(clean),
        neutral_note=note,
    )
