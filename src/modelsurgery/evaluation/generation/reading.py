"""Prompts as a model reads them: in its chat template, as token ids, cut to its context."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelsurgery.evaluation.decoding import Decoding
from modelsurgery.model.chat_template import Text, plain
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import opening_ids, without_beginning


@dataclass(frozen=True)
class Reading:
    """A prompt as a model reads it."""

    prompt: str
    text: str  # what is read, chat template and all
    ids: tuple[int, ...]  # its token ids; without its beginning if the context does not hold it
    max_new_tokens: int  # so many can follow
    ends: tuple[int, ...]  # tokens that end what follows


def render_prompt(model: LanguageModel, prompt: str, decoding: Decoding) -> Text:
    """The prompt in the chat template, where it is a user's turn and there is one.

    Raises:
        RecipeError: the template refuses it.
    """
    if not is_chat(model, decoding):
        return prompt
    return model.template.prompt([("user", prompt)], thinking=decoding.thinking)


def is_chat(model: LanguageModel, decoding: Decoding) -> bool:
    """Whether prompts are read in the chat template."""
    return decoding.chat and model.template.exists


def end_tokens(model: LanguageModel, in_chat: bool) -> list[int]:
    """The tokens that end a text; one that is also the padding ends it all the same.

    In a chat the tokenizer's own ends it too: where the model's settings name only the end of a
    document, that is the end of a turn, and the model would go on with the user's next one.
    """
    given = model.model.generation_config.eos_token_id
    ends = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    own = model.tokenizer.eos_token_id
    if own is not None and own not in ends and (in_chat or not ends):
        ends.append(own)
    return ends


def readings(
    model: LanguageModel, prompts: Sequence[str], decoding: Decoding
) -> tuple[Reading, ...]:
    """Each prompt as the model reads it, and how much can follow it in the model's context.

    A prompt may fill half of the context, or more where the continuation leaves more; a longer one
    loses its beginning, and the continuation gets what is left. Both depend on the prompt alone.

    Raises:
        RecipeError: the template refuses a prompt.
    """
    context, wanted = model.context_length, decoding.max_new_tokens
    most = max(1, context - wanted, context // 2)
    texts = [render_prompt(model, prompt, decoding) for prompt in prompts]
    opening = opening_ids(model.tokenizer)
    ends = tuple(end_tokens(model, is_chat(model, decoding)))
    wholes = model.token_ids(texts)
    found = []
    for prompt, text, whole in zip(prompts, texts, wholes, strict=True):
        ids = tuple(without_beginning(whole, most, opening))
        room = max(1, min(wanted, context - len(ids)))
        found.append(Reading(prompt, plain(text), ids, room, ends))
    cut = sum(len(ids) > most for ids in wholes)
    if cut:
        model.warn(
            f"{cut} of {len(found)} prompts are truncated at the start: the model's context of "
            f"{context} tokens leaves room for {most}"
        )
    shortest = min((one.max_new_tokens for one in found), default=wanted)
    if shortest < wanted:
        model.warn(
            f"continuations end after {shortest} tokens instead of {wanted}: the model's context "
            f"is {context}"
        )
    return tuple(found)
