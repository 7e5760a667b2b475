"""Modelfiles: the template is written out only where it renders as the model's own does."""

from modelsurgery.export.ollama import FORMS, TRIED, chat_form, default_system
from talking import SMOLLM_2

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def test_forms_are_told_by_what_templates_render() -> None:
    assert chat_form(SMOLLM_2) == FORMS[0]
    assert chat_form(LLAMA_3) == FORMS[1]
    assert chat_form(LLAMA_3.replace("| trim", "+ '!'")) is None
    for other in ("", "{{ messages[9].content }}", "{% for", "{{ 1 / 0 }}", "{{ raise('no') }}"):
        assert chat_form(other) is None
    endless = "{% macro once() %}{{ once() }}{% endmacro %}{{ once() }}"
    for other in ("{{ messages | dictsort }}", endless):  # what is raised is not Jinja's own
        assert chat_form(other) is None
    assert FORMS[0].rendered(TRIED[:2]) == (
        "<|im_start|>system\none<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_system_messages_that_a_template_adds_are_found() -> None:
    assert default_system(LLAMA_3, FORMS[1]) == ""
    assert default_system(SMOLLM_2, FORMS[0]) == "you help"
    assert default_system(LLAMA_3.replace("{{ bos_token }}", "once "), FORMS[1]) is None
