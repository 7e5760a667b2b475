"""A directory from which `ollama create` makes a model: a GGUF file and a Modelfile.

Ollama no longer builds models from adapters (its CLI refuses ADAPTER since 2026), so the whole
edited file is given. Ollama's templates are in Go's language: without one it guesses from the
file's Jinja template. Where that renders exactly as one of the known forms, the form is written
out, and the system message that the template adds by itself; else the guess is left to Ollama.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modelsurgery.apply.copying import apply_to_copy
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.gguf_header import read_gguf_header
from modelsurgery.checkpoint.place import GGUF_SUFFIX
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.files.atomic import staged_directory, write_text

MODELFILE = "Modelfile"
OLLAMA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
Turns = Sequence[tuple[str, str]]
TRIED: Turns = (("system", "one"), ("user", "two"), ("assistant", "three"), ("user", "four"))
# What a template may raise: whatever its own expressions do.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class ChatForm:
    """How turns are written one after the other."""

    turn: str  # of a turn, with `{role}` and `{content}`
    opening: str  # of the answer
    stops: tuple[str, ...]  # texts that end an answer

    def rendered(self, turns: Turns) -> str:
        """A conversation, up to the answer."""
        written = (
            self.turn.replace("{role}", role).replace("{content}", text) for role, text in turns
        )
        return "".join(written) + self.opening

    @property
    def go(self) -> str:
        """The same in Go's template language."""
        turn = self.turn.replace("{role}", "{{ .Role }}").replace("{content}", "{{ .Content }}")
        # No dash inside the braces: it would drop the line breaks around them.
        return f"{{{{ range .Messages }}}}{turn}{{{{ end }}}}{self.opening}"


FORMS = (
    ChatForm(  # ChatML: Qwen, SmolLM2 and others
        "<|im_start|>{role}\n{content}<|im_end|>\n", "<|im_start|>assistant\n", ("<|im_end|>",)
    ),
    ChatForm(  # Llama 3
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>",),
    ),
    ChatForm("<|{role}|>\n{content}<|end|>\n", "<|assistant|>\n", ("<|end|>",)),  # Phi 3
)


@dataclass(frozen=True)
class OllamaModel:
    """Result of `write_ollama_model`."""

    directory: Path  # with the GGUF file, its journal and the Modelfile
    file: str  # name of the GGUF file in it
    # Whether the Modelfile gives a template; else Ollama guesses from the file's.
    has_template: bool
    command: str  # what makes the model, `ollama create kind -f kind/Modelfile`


def write_ollama_model(
    checkpoint: Checkpoint, edits: Sequence[Edit], directory: Path | str
) -> OllamaModel:
    """Write a directory for `ollama create`: an edited copy of a GGUF file, and a Modelfile.

    The model, and its file, are called as the directory is. `surgery undo` works on the file.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        NothingChangedError: no byte would change.
        OutputExistsError: `directory` exists.
        RecipeError: Ollama takes no model of the directory's name.
        StorageError: the disk is full or cannot be written.
        UnsupportedModelError: it is not one GGUF file.
    """
    directory, place = Path(directory), checkpoint.place
    if not place.is_gguf or place.splits:
        raise UnsupportedModelError(
            f"{place}: Ollama takes a model as one GGUF file; give one of the model that the edit "
            "was made for, of any type (llama.cpp's `llama-gguf-split --merge` joins a set)"
        )
    name = directory.resolve().name
    if not OLLAMA_NAME.fullmatch(name):
        raise RecipeError(
            f"--out {directory}: the directory's name becomes the model's; expected a name of "
            "letters, digits, '-', '_' and '.'"
        )
    template = read_gguf_header(place.model).metadata.get("tokenizer.chat_template")
    lines = _template_lines(template if isinstance(template, str) else "")
    file = f"{name}{GGUF_SUFFIX}"
    with staged_directory(directory) as staged:
        apply_to_copy(place.model, edits, staged / file)
        write_text(staged / MODELFILE, "\n".join([f"FROM ./{file}", *lines]) + "\n")
    command = f"ollama create {shlex.quote(name)} -f {shlex.quote(str(directory / MODELFILE))}"
    return OllamaModel(directory, file, bool(lines), command)


def _template_lines(chat_template: str) -> list[str]:
    """Lines of a Modelfile that say what the template does; none where no form is known to."""
    form = chat_form(chat_template)
    if form is None:
        return []
    system = default_system(chat_template, form)
    if system is None or '"""' in system:
        return []
    lines = [f'TEMPLATE """{form.go}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    return lines + [f"PARAMETER stop {json.dumps(stop)}" for stop in form.stops]


def chat_form(chat_template: str) -> ChatForm | None:
    """The form that a template renders a conversation in, to the character; None for others."""
    written = _rendered(chat_template, TRIED)
    return next((form for form in FORMS if form.rendered(TRIED) == written), None)


def default_system(chat_template: str, form: ChatForm) -> str | None:
    """The system message that a template adds by itself, maybe none (""); None if unclear."""
    asked: Turns = (("user", "two"),)
    written, plain = _rendered(chat_template, asked), form.rendered(asked)
    if written is None or not written.endswith(plain):
        return None
    before = written.removesuffix(plain)
    if not before:
        return ""
    pattern = re.escape(form.turn.replace("{role}", "system")).replace(r"\{content\}", "(.*)")
    found = re.fullmatch(pattern, before, re.DOTALL)
    return None if found is None else found[1]


def _rendered(chat_template: str, turns: Turns) -> str | None:
    """What a template makes of a conversation; without BOS, which the runtime adds."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return environment.from_string(chat_template).render(
            messages=messages, add_generation_prompt=True, bos_token="", eos_token=""
        )
    except TEMPLATE_ERRORS:
        return None
