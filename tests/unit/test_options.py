"""Options of the command line are declared once, in the recipe's model, and mean what it says."""

import ast
import inspect
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text
from typer.core import TyperOption
from typer.main import get_command
from typer.testing import CliRunner

import modelsurgery.cli
from modelsurgery.cli import app
from modelsurgery.cli.evaluate import OPTIONS
from modelsurgery.cli.options import optional_fields, typed_values, with_options
from modelsurgery.cli.run import SEVERAL, overridden
from modelsurgery.data.texts import load_texts
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.errors import RecipeError
from modelsurgery.files.schema import load_yaml, parse
from modelsurgery.pipeline.evaluating import EvaluationPlan
from modelsurgery.pipeline.evaluation_options import EvaluationOptions
from modelsurgery.pipeline.grid_recipe import GridRecipe
from modelsurgery.pipeline.option import Option, Panel, percentage
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.scheduling import DEFAULT_MINUTES, Sizes
from modelsurgery.search.edit_fitting import fit_edit
from modelsurgery.search.fitting import RULE_TEXTS

CLI = Path(modelsurgery.cli.__file__).parent
FIELDS = {
    name: option
    for name, info in GridRecipe.model_fields.items()
    for option in info.metadata
    if isinstance(option, Option)
}
# What is typed, and what the recipe has then.
TYPED: dict[str, tuple[list[str], Any]] = {
    "model": (["--model", "smollm2"], "smollm2"),
    "models": (["--model", "smollm2", "--model", "demo"], ("smollm2", "demo")),
    "behavior": (["--behavior", "toxicity"], "toxicity"),
    "behaviors": (["--behavior", "refusal", "--behavior", "a.yaml"], ("refusal", "a.yaml")),
    "at_once": (["--at-once"], True),
    "texts": (["--texts", "t.jsonl"], Path("t.jsonl")),
    "direction": (["--direction", "toward"], "toward"),
    "out": (["--out", "run"], Path("run")),
    "minutes": (["--minutes", "2.5"], 2.5),
    "max_perplexity_rise": (["--max-perplexity", "+5%"], 0.05),
    "max_divergence": (["--max-divergence", "0.1"], 0.1),
    "max_capability_drop": (["--max-capability-drop", "0"], 0.0),
    "max_uncalled_rise": (["--max-uncalled-rise", "4"], 4.0),
    "prompts": (["--prompts", "p.txt"], Path("p.txt")),
    "neutral": (["--neutral", "n.txt"], Path("n.txt")),
    "text_column": (["--text-column", "said"], "said"),
    "label_column": (["--label-column", "rude"], "rude"),
    "train_texts": (["--train-texts", "30"], 30),
    "data": (["--data", "hub"], Path("hub")),
    "edits": (["--edit", "a", "--edit", "b"], (Path("a"), Path("b"))),
    "rule": (["--rule", "paper"], "paper"),
    "rules": (["--rule", "paper", "--rule", "least-squares"], ("paper", "least-squares")),
    "strength": (["--strength", "2"], 2.0),
    "rows": (["--rows", "0.02"], 0.02),
    "steps": (["--steps", "2"], 2),
    "layers": (["--layers", "2-4"], (2, 4)),
    "per_layer": (["--global"], False),
    "layer": (["--layer", "3"], 3),
    "fit": (["--fit", "mean-difference"], "mean-difference"),
    "direction_source": (["--direction-source", "W1-W0"], "W1-W0"),
    "alpha": (["--alpha", "1.5"], 1.5),
    "tune": (["--tune"], True),
    "trials": (["--trials", "7"], 7),
    "study": (["--study", "s.journal"], Path("s.journal")),
    "storage": (["--storage", "grpc://host:13000"], "grpc://host:13000"),
    "judge": (["--judge", "hf:some/model"], "hf:some/model"),
    "prompt_count": (["--prompt-count", "9"], 9),
    "samples": (["--samples", "1"], 1),
    "max_new_tokens": (["--max-new-tokens", "64"], 64),
    "seed": (["--seed", "0"], 0),
    "seeds": (["--seed", "0", "--seed", "3"], (0, 3)),
    "device": (["--device", "cuda:1"], "cuda:1"),
    "max_memory": (["--max-memory", "0=40GB,cpu=16GB"], "0=40GB,cpu=16GB"),
    "offload": (["--offload", "off"], Path("off")),
    "dtype": (["--dtype", "float16"], "float16"),
    "chat_template": (["--chat-template", "tools"], "tools"),
    "now": (["--now", "2026-11-25T09:30:00"], datetime(2026, 11, 25, 9, 30)),
    "layout": (["--layout", "l.yaml"], Path("l.yaml")),
}
RUNS_OWN = ("--show-offensive", "--plan", "--workers", "--ray", "--gpus", "--cpus")
# Options of other verbs that have the name of a recipe's, and are something else.
OTHERS = {
    "evaluate": {"--edit", "--samples"},
    "chat": {"--edit", "--max-new-tokens"},
    "compare": {"--direction"},
    "inspect": {"--model"},
    "probe": {"--out"},
    "edit": {"--out"},
    "apply": {"--out"},
    "report": {"--out"},
    "fetch": {"--out"},
    "export": {"--out", "--dtype"},
    "diff": {"--rows"},
    "worker": {"--study"},
}


def spelled(field: str) -> str:
    return FIELDS[field].name or f"--{field.replace('_', '-')}"


def options_of(verb: str) -> list[TyperOption]:
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    return [one for one in command.params if isinstance(one, TyperOption)]


def read_as(recipe: type[Recipe], without: set[str], words: list[str]) -> Recipe:
    """The recipe that a verb with the options of `recipe` makes of what was typed."""
    made: list[Recipe] = []
    program = typer.Typer()

    @program.command()
    @with_options(recipe, optional_fields(recipe, without=without))
    def verb(**typed: Any) -> None:
        made.append(parse(typed_values(typed), recipe, "options"))

    done = CliRunner().invoke(program, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return made[0]


def test_there_is_a_typed_example_of_every_option() -> None:
    assert set(TYPED) == set(optional_fields(GridRecipe)) == set(FIELDS)


@pytest.mark.parametrize("field", TYPED)
def test_what_is_typed_is_what_the_recipe_has(field: str) -> None:
    words, value = TYPED[field]
    recipe, without = (Recipe, set[str]()) if field in SEVERAL else (GridRecipe, {*SEVERAL})
    made = read_as(recipe, without, words)
    assert getattr(made, field) == value
    assert type(getattr(made, field)) is type(value)
    assert made.model_fields_set == {field}  # nothing else stands in place of what a file says


def test_every_field_says_what_it_is_and_every_option_has_a_panel() -> None:
    told = {**EvaluationOptions.model_fields, **GridRecipe.model_fields}
    for name, info in told.items():
        assert info.description, name
        assert info.description[0].isupper() or info.description[0] == "α", name
        assert info.description.endswith("."), name
    for name, option in FIELDS.items():
        assert isinstance(option.panel, Panel), name


@pytest.mark.parametrize(
    ("verb", "recipe", "without"),
    [
        ("run", GridRecipe, {*SEVERAL}),
        ("tune", Recipe, {"model", "tune", "strength", "alpha"}),
    ],
)
def test_run_and_tune_have_each_option_once(
    verb: str, recipe: type[Recipe], without: set[str]
) -> None:
    wanted = {
        spelled(name): name
        for name in FIELDS
        if name in recipe.model_fields and name not in without
    }
    words = [f"{'/'.join(one.opts + one.secondary_opts)}" for one in options_of(verb)]
    assert len(words) == len(set(words))
    shown = dict(zip(words, options_of(verb), strict=True))
    assert set(wanted) <= set(words)
    own = {"--json", *(RUNS_OWN if verb == "run" else ())}
    assert set(words) - set(wanted) - {"--help"} == own
    for word, name in wanted.items():
        info = recipe.model_fields[name]
        said = Text.from_markup(shown[word].help or "").plain
        assert said.startswith(str(info.description))
        assert shown[word].rich_help_panel == FIELDS[name].panel


def test_evaluate_has_each_option_of_an_evaluation() -> None:
    assert set(optional_fields(EvaluationOptions)) <= set(OPTIONS.split())
    assert list(EvaluationPlan.model_fields) == list(EvaluationOptions.model_fields)


def test_options_beside_those_of_a_verb_stand_where_they_are_listed() -> None:
    made: list[dict[str, Any]] = []
    program = typer.Typer()

    @program.command()
    @with_options(Recipe, "seed own steps", defaults={"steps": "as ever"})
    def verb(first: int, *, last: bool = False, own: str = "mine", **typed: Any) -> None:
        made.append({"first": first, "last": last, "own": own, **typed})

    assert list(inspect.signature(verb).parameters) == ["first", "seed", "own", "steps", "last"]
    CliRunner().invoke(program, ["3", "--steps", "2"], catch_exceptions=False)
    assert made == [{"first": 3, "last": False, "own": "mine", "seed": None, "steps": 2}]
    assert typed_values(made[0], Recipe, only=("seed", "steps")) == {"steps": 2}
    assert "[default: as ever]" in CliRunner().invoke(program, ["--help"]).stdout


def test_other_verbs_share_the_declarations() -> None:
    described = {spelled(name): str(GridRecipe.model_fields[name].description)
                 for name in reversed(FIELDS)}  # fmt: skip
    described.pop("--behavior")  # which has two, of one and of several
    for verb in get_command(app).commands:  # type: ignore[attr-defined]
        for option in options_of(verb):
            word = "/".join(option.opts + option.secondary_opts)
            if word in described and word not in OTHERS.get(verb, set()):
                said = Text.from_markup(option.help or "").plain
                assert said.startswith(described[word]), (verb, word)


def test_no_help_text_is_written_twice() -> None:
    written: list[str] = [str(one.description) for one in GridRecipe.model_fields.values()]
    written.remove(next(one for one in written if one.startswith("Built-in behavior")))
    for source in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "help":
                constants = [
                    one.value
                    for one in ast.walk(node.value)
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                written += constants[:1]
    assert len(written) > 60
    assert sorted(written) == sorted(set(written))


def test_help_shows_what_everybody_needs_first() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "100"}).stdout
    panels = re.findall(r"^╭─ (\w+) ─+╮$", shown, re.M)
    assert panels == ["Arguments", *map(str, Panel)]
    first = shown.split("╭─ Options")[1].split("╭─ Data")[0]
    words = re.findall(r"^│\s+(--[\w-]+)", first, re.M)
    assert words == ["--model", "--behavior", "--texts", "--direction", "--out", "--minutes",
                     "--max-perplexity", "--max-divergence", "--max-capability-drop",
                     "--max-uncalled-rise", "--help"]  # fmt: skip


def test_help_shows_marks_of_values_as_they_are_typed() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "160"}).stdout
    assert "hf:MODEL[#LABEL]" in shown
    assert "[default: +2%]" in shown
    assert "[dim]" not in shown


def test_defaults_in_help_are_those_of_the_program() -> None:
    def said(field: str) -> str:
        return str(FIELDS[field].default)

    assert percentage(said("max_perplexity_rise")) == Recipe().max_perplexity_rise
    assert said("minutes").startswith(f"{DEFAULT_MINUTES:g},")
    assert said("prompt_count").startswith(f"{Sizes().prompt_count},")
    assert said("samples").startswith(f"{Sizes().samples},")
    assert said("train_texts").startswith(f"{RULE_TEXTS},")
    assert said("rows").startswith(f"{PAPER_ROWS:.4f},")
    assert said("rule").startswith(f"{Recipe().chosen_rule},")
    # What `edit` and `probe` leave to the library.
    for function, names in (
        (fit_edit, ("max_divergence", "max_perplexity_rise", "seed")),
        (load_texts, ("text_column", "label_column")),
    ):
        for name in names:
            default = inspect.signature(function).parameters[name].default
            assert default == Recipe.model_fields[name].default, name
    assert inspect.signature(fit_edit).parameters["steps"].default == 1
    assert said("fit").startswith(f"{Recipe().probe_fit},")


def test_the_command_line_stands_in_place_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("behaviors: [toxicity, negativity]\nstrength: 2\nrows: 9\nseed: 4\n")
    said = load_yaml(path, GridRecipe).model_dump(exclude_unset=True)
    assert overridden(said, {"seed": 0}) == {
        "behaviors": ("toxicity", "negativity"), "strength": 2, "rows": 9, "seed": 0,
    }  # fmt: skip
    assert overridden(said, {"behaviors": ["refusal"]}) == {
        "behavior": "refusal", "strength": 2, "rows": 9, "seed": 4,
    }  # fmt: skip
    assert overridden(said, {"seeds": [5, 6]})["seeds"] == [5, 6]
    assert "seed" not in overridden(said, {"seeds": [5, 6]})
    assert overridden({"models": ("a", "b")}, {"models": ["c"]}) == {"model": "c"}
    assert overridden(said, {"tune": True}).keys() == {"behaviors", "rows", "seed", "tune"}


def test_older_spellings_of_a_recipe_are_read_and_overridden(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("direction_rule: W1\nstrength: 1\n")
    said = load_yaml(path, GridRecipe).model_dump(exclude_unset=True)
    assert parse(overridden(said, {}), Recipe, "options").direction_source == "W1"
    typed = read_as(Recipe, set(), ["--direction-source", "W1-W0"])
    options = overridden(said, typed.model_dump(exclude_unset=True))
    assert parse(options, Recipe, "options").direction_source == "W1-W0"


@pytest.mark.parametrize(
    ("field", "word"), [("rows", "many"), ("layers", "early"), ("max_perplexity_rise", "lots")]
)
def test_words_that_cannot_be_read_are_refused(field: str, word: str) -> None:
    with pytest.raises(RecipeError, match=f"{word}'; expected"):
        typed_values({field: word})
