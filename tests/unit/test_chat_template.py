"""Chat templates: contents in parts, several by name, the date, and refusals in one line."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import OutputExistsError, RecipeError
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.model.chat_template import ChatTemplate
from modelsurgery.pipeline.conversation import Conversation
from modelsurgery.pipeline.runs import open_run
from talking import DATED, LLAMA, PARTS, QWEN, talking_tokenizer, write_talking_model

FIRST, SECOND = [("user", "is the dog happy")], [("user", "is the cat sad")]
NOON = datetime(2001, 2, 3, 12)
# Jinja finds no text in a string, prints nothing, and all questions would get one answer.
IN_PARTS = {
    "looks for the type": PARTS,
    "looks for the text": "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}",
    "joins": "{% for m in messages %}{{ m['content'] | map(attribute='text') | join }}{% endfor %}",
    "adds": "{% for m in messages %}{{ '' + m['content'][0].text }}{% endfor %}",
}


@pytest.mark.parametrize("source", IN_PARTS.values(), ids=IN_PARTS)
def test_contents_are_parts_where_a_template_wants_them(source: str) -> None:
    template = ChatTemplate(talking_tokenizer(source))
    assert "is the dog happy" in template.prompt(FIRST).text
    assert template.prompt(FIRST) != template.prompt(SECOND)
    exchange = template.exchange([*FIRST, ("assistant", "very")])
    assert exchange.text.index("happy") < exchange.text.index("very")


def test_contents_stay_strings_where_a_template_takes_both() -> None:
    both = (
        "{% for m in messages %}{% if m['content'] is string %}string {{ m['content'] }}"
        "{% else %}parts {{ m['content'][0]['text'] }}{% endif %}{% endfor %}"
    )
    assert ChatTemplate(talking_tokenizer(both)).prompt(FIRST).text == "string is the dog happy"


def test_a_template_may_change_the_words(tmp_path: Path) -> None:
    quoted = "{% for m in messages %}{{ m['content'] | tojson }}{% endfor %}"
    template = ChatTemplate(talking_tokenizer(quoted))
    assert template.prompt([("user", 'the "cat"\n')]).text == '"the \\"cat\\"\\n"'


@pytest.mark.parametrize("source", ["hello", "{{ messages[0]['words'] }}"])
def test_a_template_that_drops_what_is_said_is_refused(source: str) -> None:
    with pytest.raises(
        RecipeError, match=r"chat template omits the content of messages \(user\)"
    ) as refused:
        ChatTemplate(talking_tokenizer(source)).prompt(FIRST)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('no\nuser') }}", "{{ messages + 1 }}", "{{ 1 / 0 }}", "{% if %}"]
)
def test_what_goes_wrong_in_a_template_is_one_line(source: str) -> None:
    with pytest.raises(RecipeError, match="chat template") as refused:
        ChatTemplate(talking_tokenizer(source)).prompt(FIRST)
    assert "\n" not in str(refused.value)


def test_one_of_several_templates_is_taken_by_its_name(tmp_path: Path) -> None:
    several = {"plain": QWEN, "with_bos": LLAMA}
    model = write_talking_model(tmp_path / "model", talking_tokenizer(several))
    unnamed = load_model(model)
    exchange = LabeledText("the cat", 1, reply="no")
    uses: dict[str, Any] = {
        "prompt": lambda: unnamed.template.prompt(FIRST),
        "text": lambda: unnamed.render(exchange),
        "chat": lambda: Conversation(unnamed, []),
        "generation": lambda: TransformersGenerator(unnamed).generate(
            ["the cat"], Decoding(2, chat=True)
        ),
    }
    for use in uses.values():
        with pytest.raises(RecipeError, match=r"expected one of plain, with_bos.*--chat-template"):
            use()
    assert load_model(model, chat_template="plain").template.prompt(FIRST).text[:3] != "<s>"
    assert load_model(model, chat_template="with_bos").template.prompt(FIRST).text[:3] == "<s>"
    with pytest.raises(RecipeError, match="no chat template 'odd'; expected one of plain, with"):
        load_model(model, chat_template="odd")
    # Raw prompts and plain texts need no template.
    assert TransformersGenerator(unnamed).generate(["the cat"], Decoding(2))
    assert unnamed.render(LabeledText("the cat", 1)) == "the cat"


def test_the_default_is_taken_where_there_is_one(tiny_llama: Path) -> None:
    tokenizer = talking_tokenizer({"default": LLAMA, "tool_use": QWEN})
    assert ChatTemplate(tokenizer).prompt(FIRST).text.startswith("<s>")
    for unnamed in (LLAMA, None):
        with pytest.raises(RecipeError, match=r"no chat template 'odd': this model has (one|none)"):
            _ = ChatTemplate(talking_tokenizer(unnamed), "odd").source


def test_the_template_of_a_processor_counts_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    directory = write_talking_model(tmp_path / "model", talking_tokenizer(None), "llava")
    assert not load_model(directory).template.exists
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": PARTS}))
    assert "is the dog happy" in load_model(directory).template.prompt(FIRST).text
    (directory / "chat_template.json").write_text("[")
    assert not load_model(directory).template.exists


def test_a_template_is_told_the_time_of_the_run_and_others_their_own() -> None:
    tokenizer = talking_tokenizer(DATED)
    template = ChatTemplate(tokenizer, now=NOON)
    assert "today 03 Feb 2001 user is the dog" in template.prompt(FIRST).text
    assert template.exchange([*FIRST, ("assistant", "no")]).text.startswith("<s>today 03 Feb 2001")
    messages = [{"role": "user", "content": "is the dog happy"}]
    today = datetime.now().strftime("%d %b %Y")
    assert today in tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_time_decides_what_is_read_and_nothing_else_does(tmp_path: Path) -> None:
    directory = write_talking_model(tmp_path / "model", talking_tokenizer(DATED))
    prompts, decoding = ["the cat", "a dog sits"], Decoding(8, seed=0, chat=True)

    def said(now: datetime) -> Any:
        return TransformersGenerator(load_model(directory, now=now)).generate(prompts, decoding)

    evening = said(NOON.replace(hour=23))
    assert evening == said(NOON)
    assert evening != said(NOON.replace(day=4))


def test_a_run_that_goes_on_keeps_its_time(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"model": "m", "now": None}
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", recipe, default_name="n"):
        raise KeyboardInterrupt
    path = tmp_path / "run" / "recipe.resolved.yaml"
    recorded = path.read_text()
    began = datetime.fromisoformat(recorded.split("'")[1])
    assert 0 <= (datetime.now() - began).total_seconds() < 60
    path.write_text(recorded.replace(began.isoformat(), NOON.isoformat()))
    with open_run(tmp_path / "run", recipe, default_name="n") as run:
        assert run.now == NOON
    given = {**recipe, "now": "2001-02-04T00:00:00"}
    with pytest.raises(OutputExistsError), open_run(tmp_path / "run", given, default_name="n"):
        pass
    with open_run(tmp_path / "other", given, default_name="n") as run:
        assert run.now == datetime(2001, 2, 4)
    assert "2001-02-04T00:00:00" in (tmp_path / "other" / "recipe.resolved.yaml").read_text()
