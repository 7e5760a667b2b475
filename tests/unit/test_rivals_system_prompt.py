"""An instruction in front of everything: the same as if it really stood there."""

from pathlib import Path

import pytest
import torch

from modelsurgery import demo_model_path, load_model
from modelsurgery.data.behaviors import BehaviorFile, describe_behavior, load_behavior
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.model.halves import Halves
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import opening_ids
from modelsurgery.rivals.places import block_paths, linear_layers
from modelsurgery.rivals.system_prompt import (
    Head,
    Prompted,
    SystemPrompt,
    heads_of,
    put_in_front,
)
from tiny import write_tiny_model

SAYS = "your neighbor is kind today"
PROMPTS = ["my dog is so", "the cat", "a very big house and a tree in the rain"]
# A conversation without a system's turn begins with one of the template's own.
TEMPLATE = """
{%- if messages[0].role != 'system' %}{{ '<unk> the good </s> ' }}{% endif %}
{%- for message in messages %}
{{- ('<unk> ' if message.role == 'system' else '<s> ') + message.content + ' </s> ' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<s>' }}{% endif %}"""


def greedy(model: LanguageModel, rows: list[list[int]], use_cache: bool = True) -> list[list[int]]:
    batch = model.batch_of(rows, side="left")
    made = model.model.generate(
        **batch, max_new_tokens=10, do_sample=False, eos_token_id=None, use_cache=use_cache
    )
    found: list[list[int]] = made[:, batch["input_ids"].shape[1] :].tolist()
    return found


def linear_paths(model: LanguageModel) -> list[str]:
    return [path for block in block_paths(model) for path in linear_layers(model, block)]


def alone(model: LanguageModel, rows: list[list[int]]) -> list[list[int]]:
    """One after the other, so that nothing is padded."""
    return [greedy(model, [row])[0] for row in rows]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "bloom"])
def test_tokens_are_those_behind_the_instruction(family: str, tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path, family))
    for path in linear_paths(model):  # or what was read first changes no greedy token
        model.model.get_submodule(path).weight.data *= 4
    rows = model.token_ids(PROMPTS)
    sentence = model.token_ids([SAYS])[0]
    expected = alone(model, [[*sentence, *row] for row in rows])
    base = alone(model, rows)
    with Prompted(heads_of(model.template, SAYS, is_chat=False)).applied(model, 1.0):
        assert greedy(model, rows) == expected
        assert greedy(model, rows, use_cache=False) == expected
    assert expected != base
    assert alone(model, rows) == base


def test_it_stands_behind_the_opening_of_plain_texts() -> None:
    model = load_model(demo_model_path())
    opening = opening_ids(model.tokenizer)
    assert len(opening) == 1
    rows = model.token_ids(["Oliver is such a", "My neighbor"])
    whole = model.token_ids([f"{SAYS}\nOliver is such a", f"{SAYS}\nMy neighbor"])
    assert all(one[-len(row) + 1 :] == row[1:] for one, row in zip(whole, rows, strict=True))
    heads = heads_of(model.template, SAYS, is_chat=False)
    with Prompted(heads).applied(model, 1.0):
        found = greedy(model, rows)
        states = Halves(model.model).last_states(model.batch_of(rows))
    assert found == alone(model, whole)
    for row, one, state in zip(rows, whole, states, strict=True):
        expected = Halves(model.model).last_states(model.batch_of([one]))[0, -len(row) :]
        # The first state predicts the first token: it is the instruction's last.
        torch.testing.assert_close(state[: len(row)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("takes_system", [True, False])
def test_conversations_get_a_systems_turn_or_have_it_in_the_users(
    takes_system: bool, tmp_path: Path
) -> None:
    model = load_model(write_tiny_model(tmp_path))
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    model.tokenizer.chat_template = TEMPLATE if takes_system else refuse + TEMPLATE
    turns = [[("user", one)] for one in PROMPTS]
    rows = model.token_ids([model.template.prompt(one) for one in turns])
    if takes_system:
        told = [[("system", SAYS), *one] for one in turns]
    else:
        told = [[("user", f"{SAYS}\n{one}")] for one in PROMPTS]
    plain = model.token_ids(PROMPTS[:1])
    whole = [
        *model.token_ids([model.template.prompt(one) for one in told]),
        [*model.token_ids([SAYS])[0], *plain[0]],
    ]
    with Prompted(heads_of(model.template, SAYS, is_chat=True)).applied(model, 1.0):
        found = greedy(model, [*rows, *plain])
    assert found == alone(model, whole)
    assert found != alone(model, [*rows, *plain])


def test_a_decoder_that_is_given_embeddings_is_refused(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path, "llava"))
    batch = model.tokenize(PROMPTS)
    prompted = Prompted(heads_of(model.template, SAYS, is_chat=False))
    with prompted.applied(model, 1.0), pytest.raises(UnsupportedModelError, match="token ids"):
        model.model(**batch)
    assert model.model(**batch).logits.isfinite().all()


def test_a_shorter_beginning_leaves_places_unread() -> None:
    ids = torch.tensor([[0, 7, 8, 9, 5], [7, 8, 9, 6, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    front, longer, seen = put_in_front(ids, mask, [Head((7, 8, 9), (4,))])
    assert front.width == 0
    assert seen.tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 0]]
    assert longer[0, 3:].tolist() == [4, 5]
    assert longer[1, 2:4].tolist() == [4, 6]


def test_what_is_said_depends_on_the_direction() -> None:
    method = SystemPrompt()
    known = load_behavior(describe_behavior("toxicity"), is_demo=True)
    assert "polite" in method.instruction(known, 1)
    assert "rude" in method.instruction(known, -1)
    own = BehaviorFile(
        name="own", shows="all is blue", opposite="all is red", demo=True, texts=None
    )
    other = known.__class__(**{**vars(known), "described": own})
    assert method.instruction(other, 1) == "In what follows, all is red."
    assert method.instruction(other, -1) == "In what follows, all is blue."
