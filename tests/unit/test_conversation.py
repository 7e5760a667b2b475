"""A conversation with both models: the same answers as in a measurement, and a memory each."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import random_edit
from modelsurgery import Edit, LanguageModel, load_model
from modelsurgery.errors import EditMismatchError, RecipeError
from modelsurgery.evaluation.generation import Continuation, Decoding, TransformersGenerator
from modelsurgery.pipeline.conversation import Conversation, Exchange, follow, state
from tiny import tiny_sentences, write_tiny_model

PROMPTS = tiny_sentences(6)
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and m['content'] == 'bad' %}"
    "{{ raise_exception('no system turns') }}{% endif %}"
    "{{ 'my' if m['role'] == 'user' else 'your' }} {{ m['content'] }} {% endfor %}so"
)
LONG = Decoding(12)
SAMPLED = Decoding(12, seed=0)


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A model and an edit of it; of a mixture the sides answer one after the other."""
    directory = write_tiny_model(tmp_path_factory.mktemp("tiny") / request.param, request.param)
    return load_model(directory), random_edit(directory).scaled(10)


@pytest.fixture
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama)


@pytest.fixture
def edit(tiny_llama: Path) -> Edit:
    return random_edit(tiny_llama).scaled(10)


@pytest.fixture
def chatting(model: LanguageModel) -> LanguageModel:
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.mark.parametrize("decoding", [LONG, SAMPLED, Decoding(12, 4, 0.5)])
@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_answers_are_those_of_a_measurement(
    pair: tuple[LanguageModel, Edit], decoding: Decoding, strength: float
) -> None:
    model, edit = pair
    conversation = Conversation(model, [edit], decoding=decoding)
    conversation.set_strength(strength)
    found = [conversation.ask(prompt) for prompt in PROMPTS]
    generator = TransformersGenerator(model)
    base = generator.generate(PROMPTS, decoding)
    edited = generator.generate(PROMPTS, decoding, [edit.scaled(strength)])
    assert [one.base for one in found] == list(base)
    assert [one.edited for one in found] == list(edited)
    assert base != edited


def test_an_edit_that_is_off_leaves_the_base_and_is_gone_afterwards(
    pair: tuple[LanguageModel, Edit],
) -> None:
    model, edit = pair
    weights = {name: one.clone() for name, one in model.model.named_parameters()}
    conversation = Conversation(model, [edit], decoding=LONG)
    conversation.is_on = False
    off = conversation.ask(PROMPTS[0])
    assert (off.strength, off.edited) == (0.0, off.base)
    conversation.is_on = True
    assert conversation.ask(PROMPTS[0]).strength == 1.0
    conversation.set_strength(0.0)
    assert conversation.ask(PROMPTS[0]).edited == off.base
    assert all(torch.equal(one, weights[name]) for name, one in model.model.named_parameters())


def test_answers_are_shown_while_they_are_written(
    pair: tuple[LanguageModel, Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelsurgery.pipeline.conversation.SECONDS_BETWEEN_PIECES", 0.0)
    model, edit = pair
    shown: list[Exchange] = []
    conversation = Conversation(model, [edit], decoding=SAMPLED)
    whole = conversation.ask(longest(conversation), shown.append)
    for side in ("base", "edited"):
        texts = [getattr(one, side).text for one in shown]
        final = getattr(whole, side).text
        assert texts[-1] == final
        assert all(final.startswith(text) for text in texts)
        assert len(set(texts)) >= getattr(whole, side).tokens > 6
        assert sorted(texts, key=len) == texts


def test_stopped_answers_are_as_long_as_they_were_then(
    pair: tuple[LanguageModel, Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelsurgery.pipeline.conversation.SECONDS_BETWEEN_PIECES", 0.0)
    model, edit = pair
    conversation = Conversation(model, [edit], decoding=SAMPLED)
    prompt = longest(conversation)
    whole = conversation.ask(prompt)

    def stop_at_three(exchange: Exchange) -> None:
        if exchange.base.tokens >= 3:
            conversation.stop()

    stopped = conversation.ask(prompt, stop_at_three)
    assert conversation.is_stopped
    assert 3 <= stopped.base.tokens <= 4 < whole.base.tokens
    assert whole.base.text.startswith(stopped.base.text)
    assert whole.edited.text.startswith(stopped.edited.text)
    assert conversation.ask(prompt).base == whole.base


def longest(conversation: Conversation) -> str:
    """The prompt that both sides answer at greatest length."""
    return max(PROMPTS, key=lambda one: _tokens(conversation.ask(one)))


def _tokens(exchange: Exchange) -> int:
    return min(exchange.base.tokens, exchange.edited.tokens)


def test_each_side_remembers_its_own_answers(chatting: LanguageModel, edit: Edit) -> None:
    conversation = Conversation(chatting, [edit], decoding=replace(LONG, chat=True))
    first, second = conversation.ask("the cat"), conversation.ask("a dog")
    assert first.base.text != first.edited.text
    generator = TransformersGenerator(chatting)
    for side, edits in (("base", ()), ("edited", (edit,))):
        read = f"my the cat your {getattr(first, side).text} my a dog so"
        (expected,) = generator.generate([read], LONG, edits)
        assert getattr(second, side) == expected
    assert conversation.take_back() == "a dog"
    assert conversation.ask("a dog") == replace(second, seconds=conversation.exchanges[1].seconds)
    conversation.reset()
    assert conversation.take_back() is None
    assert conversation.ask("the cat").base == first.base


def test_without_a_template_each_prompt_is_continued_by_itself(
    model: LanguageModel, edit: Edit
) -> None:
    conversation = Conversation(model, [edit], decoding=LONG)
    first = conversation.ask("the cat")
    conversation.ask("a dog")
    assert conversation.ask("the cat").base == first.base


def test_a_conversation_that_is_too_long_loses_its_beginning(
    chatting: LanguageModel, edit: Edit
) -> None:
    conversation = Conversation(
        chatting, [edit], decoding=replace(LONG, chat=True), system="be kind"
    )
    said = "the cat sits and the dog runs " * 3  # 21 words of a context of 128
    exchanges = [conversation.ask(said) for _ in range(6)]
    room = 128 - LONG.max_new_tokens
    (kept,) = (
        count
        for count in range(6)
        if _length(chatting, said, exchanges[5 - count : 5]) <= room
        and (count == 5 or _length(chatting, said, exchanges[4 - count : 5]) > room)
    )
    assert 0 < kept < 5
    read = _read(said, exchanges[5 - kept : 5])
    (expected,) = TransformersGenerator(chatting).generate([read], LONG)
    assert exchanges[5].base == expected


def _read(said: str, exchanges: list[Exchange]) -> str:
    turns = [f"my {one.prompt} your {one.base.text} " for one in exchanges]
    return f"your be kind {''.join(turns)}my {said} so"


def _length(model: LanguageModel, said: str, exchanges: list[Exchange]) -> int:
    return len(model.tokenizer(_read(said, exchanges))["input_ids"])


def test_both_sides_share_their_random_numbers(model: LanguageModel, edit: Edit) -> None:
    conversation = Conversation(model, [edit], decoding=Decoding(12, seed=0))
    conversation.is_on = False
    for prompt in PROMPTS:
        sampled = conversation.ask(prompt)
        assert sampled.base == sampled.edited
    seeds = set()
    for seed in range(5):
        conversation.decoding = Decoding(12, seed=seed)
        seeds.add(conversation.ask(PROMPTS[0]).base.text)
    assert len(seeds) == 5


def test_what_does_not_fit_is_refused(model: LanguageModel, edit: Edit, tmp_path: Path) -> None:
    other = random_edit(write_tiny_model(tmp_path / "other", seed=5))
    with pytest.raises(EditMismatchError):
        Conversation(model, [other])
    with pytest.raises(RecipeError, match="--system is for models with a chat template"):
        Conversation(model, [edit], system="be kind")
    conversation = Conversation(model, [edit], decoding=Decoding(100_000))
    assert conversation.decoding.max_new_tokens == 64  # half of the context
    for strength in (float("nan"), float("inf"), -1e4):
        with pytest.raises(RecipeError, match="expected a factor"):
            conversation.set_strength(strength)
    assert conversation.strength == 1.0


def test_a_template_that_refuses_says_so(chatting: LanguageModel, edit: Edit) -> None:
    conversation = Conversation(chatting, [edit], decoding=LONG, system="bad")
    with pytest.raises(RecipeError, match=r"rejects this conversation \(no system turns\)"):
        conversation.ask("the cat")
    assert conversation.exchanges == []


def test_an_exchange_is_told_in_plain_values() -> None:
    said = Continuation("yes", 1, True)
    exchange = Exchange("so", said, said, 0.5, Decoding(4, seed=2, temperature=0.7), 1.5)
    expected = {"text": "yes", "tokens": 1, "is_finished": True, "thinking": None}
    assert exchange.to_json() == {
        "prompt": "so", "base": expected, "edited": expected, "strength": 0.5, "seed": 2,
        "temperature": 0.7, "seconds": 1.5,
    }  # fmt: skip
    assert replace(exchange, decoding=Decoding(4)).to_json()["temperature"] is None


def test_commands_set_how_answers_are_made(model: LanguageModel, edit: Edit) -> None:
    conversation, told = Conversation(model, [edit], decoding=LONG), list[str]()
    for line, expected in (
        ("/strength -0.5", "edit × -0.5, greedy"),
        ("/off", "edit off, greedy"),
        ("/on", "edit × -0.5, greedy"),
        ("/off", "edit off"),
        ("/strength 2", "edit × 2, "),  # who sets a strength wants the edit
        ("/sample", "sampled at temperature 1 with seed 0"),
        ("/seed 5", "sampled at temperature 1 with seed 5"),
        ("/sample 0.5", "sampled at temperature 0.5 with seed 5"),
        ("/greedy", "greedy, 12 tokens at most, each prompt is continued on its own"),
        ("/seed 6", "sampled at temperature 0.5 with seed 6"),
    ):
        assert follow(line, conversation, told.append) is None
        assert expected in told[-1]
        assert told[-1] == state(conversation)
    assert conversation.decoding == Decoding(12, 6, 0.5)


def test_lines_are_prompts_or_commands(model: LanguageModel, edit: Edit) -> None:
    conversation, told = Conversation(model, [edit], decoding=LONG), list[str]()
    assert follow("the cat ", conversation, told.append) == "the cat "
    assert follow(" /off", conversation, told.append) == " /off"  # a way to say what begins so
    assert follow("   ", conversation, told.append) is None
    assert told == []
    assert follow("/again", conversation, told.append) is None
    conversation.ask("the cat")
    assert follow("/again", conversation, told.append) == "the cat"
    assert conversation.exchanges == []
    conversation.ask("the cat")
    assert follow("/reset", conversation, told.append) is None
    assert conversation.exchanges == []
    assert follow("/nosuch 3", conversation, told.append) is None
    assert told[0] == "there is no prompt to answer again"
    assert told[-1].startswith("no command /nosuch; expected one of /help /again /strength")
    assert follow("/help", conversation, told.append) is None
    for command in ("/strength", "/off", "/sample", "/seed", "/greedy", "/reset", "/quit"):
        assert command in told[-1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/strength much", "/strength much; expected a factor like 0.5"),
        ("/strength nan", "/strength nan; expected a factor like 0.5"),
        ("/strength 1e9", "expected a factor from -1000 to 1000"),
        ("/seed -1", "/seed -1; expected a whole number"),
        ("/seed 4294967296", "expected a whole number from 0 to 4294967295"),
        ("/sample 0", "/sample 0; expected a temperature above 0"),
        ("/sample warm", "/sample warm; expected a temperature like 0.7"),
    ],
)
def test_values_that_a_command_cannot_use_change_nothing(
    model: LanguageModel, edit: Edit, line: str, says: str
) -> None:
    conversation = Conversation(model, [edit], decoding=LONG)
    before = state(conversation)
    with pytest.raises(RecipeError, match=re.escape(says)):
        follow(line, conversation, lambda _: None)
    assert state(conversation) == before
