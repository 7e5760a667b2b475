"""`python -m tools.api_reference` prints docs/reference.md, read from the docstrings of the API.

griffe reads signatures and Google-style docstrings without importing the code. A test checks that
the file is the one that this prints, and that the examples run.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import griffe

import modelsurgery

SOURCES = Path(__file__).resolve().parents[1] / "src"
HEADER = """\
# Python API

<!-- Printed by `python -m tools.api_reference > docs/reference.md`; change the docstrings. -->

All names are in `modelsurgery` and are loaded on first use, so `import modelsurgery` is fast. d is
the hidden size, L the number of layers, n a number of texts. Errors that are raised on purpose are
subclasses of [`SurgeryError`](#surgeryerror). In the examples, `model` is a loaded model,
`checkpoint` its directory, `gates` its gate matrices, `direction` a vector [d], `scores` its
cosines with the gate rows, and `edit` an edit of the model.
"""
GROUPS = {
    "Texts": ("load_texts", "split_texts", "LabeledTexts", "LabeledText", "Split"),
    "Models": ("load_model", "wrap", "demo_model_path", "LanguageModel"),
    "Edits": ("fit_edit", "make_edit", "load_edit", "save_edit", "Edit"),
    "Measuring": ("evaluate", "Evaluation"),
    "Applying and undoing": (
        "edited", "apply_to_copy", "apply_in_place", "apply_to_object_store", "undo", "verify",
        "plan_surgery", "EditedCopy", "EditedInPlace", "CopiedObjects", "Undone", "Verification",
        "Plan", "TypePlan", "Arrival",
    ),
    "Export": ("write_peft_adapter", "write_gguf_adapter", "PeftAdapter", "GgufAdapter"),
    "Checkpoints": (
        "open_checkpoint", "compare_checkpoints", "find_gate_matrices", "load_layout",
        "Checkpoint", "TensorDifference", "GateMatrix", "GateLayout",
    ),
    "Probes and rows": (
        "extract_hidden_states", "fit_probe", "fit_probe_on_texts", "load_probe", "save_probe",
        "score_rows", "select_region", "HiddenStates", "Probe", "RowScores", "Region",
    ),
    "Whole runs": ("run_recipe", "Recipe"),
    "Errors": ("SurgeryError",),
}  # fmt: skip
PARSER = {"returns_named_value": False, "returns_multiple_items": False}
SKIPPED = "  # doctest: +SKIP"  # of no interest to readers


def reference() -> str:
    """All public names with signature, arguments, results, errors and examples, as Markdown."""
    listed = [name for names in GROUPS.values() for name in names]
    if sorted(listed) != sorted(modelsurgery.__all__):
        differing = sorted({*listed} ^ {*modelsurgery.__all__})
        raise ValueError(f"names in GROUPS or in __all__ only: {differing}; add them to both")
    package = griffe.load("modelsurgery", search_paths=[SOURCES], docstring_parser="google")
    assert isinstance(package, griffe.Module)
    found = {name: _object(package, name) for name in listed}
    parts = [HEADER, *_overview()]
    for group, names in GROUPS.items():
        parts.append(f"## {group}\n")
        parts += [_entry(found[name]) for name in names]
    return "\n".join(parts)


def _object(package: griffe.Module, name: str) -> griffe.Class | griffe.Function:
    """The class or function behind a public name."""
    module = modelsurgery._MODULES[name]
    found = package[f"{module}.{name}"]
    found = found.final_target if isinstance(found, griffe.Alias) else found
    assert isinstance(found, griffe.Class | griffe.Function), name
    return found


def _overview() -> Iterator[str]:
    """One line a group: what is in it."""
    yield "| | |\n|---|---|"
    for group, names in GROUPS.items():
        links = ", ".join(f"[`{name}`](#{name.lower()})" for name in names)
        yield f"| {group} | {links} |"
    yield ""


def _entry(found: griffe.Class | griffe.Function) -> str:
    """One class or function."""
    lines = [f"### {found.name}", ""]
    if isinstance(found, griffe.Function):
        lines += ["```python", _signature(found), "```", ""]
    lines += _sections(found)
    if isinstance(found, griffe.Class):
        lines += _methods(found)
    return "\n".join(lines)


def _signature(function: griffe.Function) -> str:
    """A call with its types, one argument a line where it is long."""
    whole = str(function.signature()).replace("Iterator[", "ContextManager[", 1)
    if len(whole) <= 90:
        return whole
    head, _, result = whole.rpartition(") -> ")
    start, _, given = head.partition("(")
    arguments = [f"    {one}," for one in _top_level(given)]
    return "\n".join([f"{start}(", *arguments, f") -> {result}"])


def _top_level(arguments: str) -> Iterator[str]:
    """Arguments of a signature, split at the commas outside brackets."""
    depth, start = 0, 0
    for place, sign in enumerate(arguments):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            yield arguments[start:place].strip()
            start = place + 1
    yield arguments[start:].strip()


def _sections(found: griffe.Object) -> Iterator[str]:
    """The parts of a docstring, in their order."""
    if found.docstring is None:
        raise ValueError(f"{found.path} has no docstring; write one")
    for section in found.docstring.parse("google", **PARSER):
        kind, value = section.kind, section.value
        if kind is griffe.DocstringSectionKind.text:
            yield f"{value}\n"
        elif kind is griffe.DocstringSectionKind.parameters:
            yield from _listed("Arguments", ((f"`{one.name}`", one) for one in value))
        elif kind is griffe.DocstringSectionKind.attributes:
            typed = ((f"`{one.name}` (`{one.annotation}`)", one) for one in value)
            yield from _listed("Attributes", typed)
        elif kind is griffe.DocstringSectionKind.raises:
            yield from _listed("Raises", ((f"`{one.annotation}`", one) for one in value))
        elif kind in (griffe.DocstringSectionKind.returns, griffe.DocstringSectionKind.yields):
            (one,) = value
            yield f"**{kind.value.capitalize()}:** {_line(one.description)}\n"
        elif kind is griffe.DocstringSectionKind.admonition and value.kind == "example":
            yield from ("```pycon", value.contents.replace(SKIPPED, ""), "```\n")
        else:
            raise ValueError(f"{found.path}: a section {kind.value!r}; this page has none")


def _listed(title: str, entries: Iterable[tuple[str, griffe.DocstringElement]]) -> Iterator[str]:
    yield f"**{title}**\n"
    yield from (f"- {name}: {_line(one.description)}" for name, one in entries)
    yield ""


def _methods(found: griffe.Class) -> Iterator[str]:
    """Public methods and properties with the first line of each, which the source has in full."""
    public = [
        one
        for one in found.members.values()
        if not one.name.startswith("_")
        and (one.is_function or "property" in one.labels)
        and one.docstring is not None
    ]
    if not public:
        return
    yield "**Methods and properties**\n"
    for one in public:
        assert one.docstring is not None
        summary = _line(one.docstring.value.split("\n\n")[0])
        called = one.name
        if isinstance(one, griffe.Function):
            called += f"({', '.join(p.name for p in one.parameters if p.name != 'self')})"
        yield f"- `{called}`: {summary}"
    yield ""


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(reference(), end="")
