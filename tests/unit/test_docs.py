"""The documentation says what the program has: links, commands, options, messages, keys, tests."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.main import get_command

from benchmarks import arithmetic
from modelsurgery.apply.journal import Journal, JournalEntry
from modelsurgery.apply.manifest import Manifest, Operation, WeightHashes
from modelsurgery.checkpoint.layouts.format import GateLayout, MatrixEntry, Spelling
from modelsurgery.cli import app
from modelsurgery.data.behaviors.format import (
    BehaviorFile,
    CorpusPrompts,
    CorpusTexts,
    Packaged,
    PublishedRate,
    Replies,
    TextFiles,
)
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe
from modelsurgery.results import EvaluationResults, PromptSetResults, RunResults, SequenceResults
from modelsurgery.results.evaluations import (
    EvaluatedBehavior,
    EvaluatedModel,
    EvaluationDamage,
    OtherJudge,
)
from modelsurgery.results.parts import (
    Change,
    JudgeNote,
    Limit,
    NeutralText,
    OwnAnswers,
    Rate,
)
from modelsurgery.results.rivals import (
    Cost,
    MethodNote,
    RivalRow,
    RivalsResults,
    RivalSummary,
)
from modelsurgery.results.runs import (
    BudgetUse,
    EditResults,
    Example,
    Facts,
    FitResults,
    Perplexity,
    Point,
    ProbeResults,
    RunBehavior,
    SearchResults,
    TrialResults,
)
from modelsurgery.results.sequences import ConflictResults, StageBehavior, StageResults, Step
from tools.command_reference import reference

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# Options of other programs that the pages mention.
FOREIGN = {
    "--adapter-path",
    "--address",
    "--enable-lora",
    "--head",
    "--lora",
    "--lora-init-without-apply",
    "--lora-modules",
    "--lora-scaled",
    "--max-lora-rank",
}
# Of users of other tools; every one has its line.
COMPLAINTS = {
    "heretic": (25, 68, 105, 135, 139, 156, 209, 218, 253, 290, 339, 360, 365, 402, 409),
    "abliterix": (110,),
    "EasyEdit": (363, 368, 375, 465),
    "vllm": (55193,),
    "mergekit": (107, 549),
    "safetensors": (447,),
    "lm-eval": (974, 1723, 2533, 2548, 3147),
    "unsloth": (1546,),
    "peft": (1388,),
    "activation-steering": (2,),
}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text_of(page))


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return frozenset(one.replace(" ", "-") for one in words)


def table_rows(section: str) -> list[list[str]]:
    """Cells of the rows of Markdown tables, without their heads."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if not set("".join(row)) <= {"-"}]


def section_of(page: Path, heading: str) -> str:
    """A page from a heading to the next one of its level."""
    level = heading.split(" ")[0]
    _, found, rest = text_of(page).partition(f"\n{heading}\n")
    assert found, f"{named(page)} has no heading {heading!r}"
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.M)[0]


@cache
def options_by_verb() -> dict[str, set[str]]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {"--help", *(one for each in verb.params for one in each.opts + each.secondary_opts)}
        for name, verb in commands.items()
    }


def typed_commands(page: Path) -> Iterator[list[str]]:
    """Words of every `surgery …` in blocks of shell and in code marks."""
    blocks = [body for kind, body in FENCE.findall(text_of(page)) if kind in ("", "sh", "bash")]
    lines = [line for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`(surgery [^`]+)`", prose_of(page).replace("\n", " "))
    for line in [*lines, *spans]:
        found = re.search(r"(?:^|\| )(surgery .*)", line)
        if found:
            yield shlex.split(found.group(1), comments=True)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_anchors_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors_of(there), target


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\)", text_of(DOCS / "README.md")))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - listed == {"README.md"}


def test_the_reference_of_commands_is_current() -> None:
    there = text_of(DOCS / "commands.md")
    assert there == reference(), "python -m tools.command_reference > docs/commands.md"


def test_the_arithmetic_of_big_models_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    arithmetic.main([])
    page = (ROOT / "docs/guides/big-models.md").read_text(encoding="utf-8")
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in page


def test_the_reference_has_every_option() -> None:
    for verb, options in options_by_verb().items():
        section = section_of(DOCS / "commands.md", f"## surgery {verb}")
        for option in options - {"--help"}:
            assert option.strip("-") in section, (verb, option)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_have_verbs_and_options_that_exist(page: Path) -> None:
    known = options_by_verb()
    for words in typed_commands(page):
        verb = words[1]
        if verb.startswith("-"):
            assert verb == "--help"
            continue
        assert verb in known, words
        for word in words[2:]:
            if word == "|":
                break
            if word.startswith("--"):
                assert word.partition("=")[0] in known[verb], words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_options_in_prose_exist(page: Path) -> None:
    known = set().union(*options_by_verb().values()) | FOREIGN
    for option in re.findall(r"`(--[a-z-]+)", prose_of(page)):
        assert option in known, option


def test_every_complaint_has_a_line() -> None:
    section = section_of(
        DOCS / "troubleshooting.md", "## Complaints about other tools, and what happens here"
    )
    rows = {row[0].split(":")[0]: row for row in table_rows(section) if "#" in row[0]}
    wanted = {f"{name}#{number}" for name, numbers in COMPLAINTS.items() for number in numbers}
    assert set(rows) == wanted
    for complaint, (_, here, shown_by) in rows.items():
        assert len(here.split()) > 4, complaint
        assert re.search(r"`surgery |tests/|\]\(|`verdicts`", shown_by), complaint


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_that_are_named_exist(page: Path) -> None:
    for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text_of(page)):
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in text_of(ROOT / path), name


def test_messages_are_those_of_the_program() -> None:
    section = section_of(DOCS / "troubleshooting.md", "## What messages mean")
    messages = [one for row in table_rows(section)[1:] for one in re.findall(r"`([^`]+)`", row[0])]
    assert len(messages) > 15
    sources = "\n".join(text_of(path) for path in (ROOT / "src").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # literals that go on in the next line
    for message in messages:
        assert message in joined, message


@pytest.mark.parametrize(
    ("heading", "models"),
    [
        ("## Journal", (Journal, JournalEntry)),
        ("## surgery.json", (Manifest, Operation, WeightHashes)),
        ("## Recipe", (Recipe, SequenceRecipe)),
        (
            "## Behavior file",
            (BehaviorFile, CorpusPrompts, CorpusTexts, Packaged, PublishedRate, Replies, TextFiles),
        ),
        ("## Layout file", (GateLayout, MatrixEntry, Spelling)),
        ("### Common values", (Rate, Change)),
        (
            "### results.json of a run",
            (
                RunResults,
                RunBehavior,
                Perplexity,
                OwnAnswers,
                BudgetUse,
                Limit,
                Facts,
                ProbeResults,
                EditResults,
                FitResults,
                SearchResults,
                TrialResults,
                Point,
                Example,
            ),
        ),
        (
            "### results.json of an evaluation",
            (
                EvaluationResults,
                EvaluatedModel,
                EvaluatedBehavior,
                EvaluationDamage,
                PromptSetResults,
                OtherJudge,
                NeutralText,
                JudgeNote,
            ),
        ),
        (
            "### results.json of a comparison",
            (RivalsResults, RivalRow, RivalSummary, MethodNote, Cost),
        ),
        (
            "### results.json of a sequence",
            (SequenceResults, StageResults, StageBehavior, Step, ConflictResults),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_formats_name_every_key(heading: str, models: tuple[type[BaseModel], ...]) -> None:
    section = section_of(DOCS / "formats.md", heading)
    marked = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))
    for model in models:
        assert set(model.model_fields) <= marked, model.__name__


def test_formats_name_no_key_of_a_recipe_that_is_gone() -> None:
    rows = table_rows(section_of(DOCS / "formats.md", "## Recipe"))[1:]
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row[0])}
    assert keys == set(SequenceRecipe.model_fields)


def test_the_readme_names_the_verbs_that_load_a_model() -> None:
    told = section_of(ROOT / "README.md", "## Apply, verify, undo")
    (loading,) = re.findall(r"; ((?:`\w+`,?\s*(?:and )?)+)load it\.", told)
    verbs = {name for name, options in options_by_verb().items() if "--device" in options}
    assert set(re.findall(r"`(\w+)`", loading)) | {"inspect"} == verbs
    assert "`inspect` without `--model`" in told


def test_the_readme_shows_what_its_own_tuning_command_allows() -> None:
    told = section_of(ROOT / "README.md", "## Limit the damage")
    (perplexity, drop), *_ = re.findall(
        r"--max-perplexity \+(\d+)% --max-capability-drop (\d+)$", told, re.M
    )
    assert f"perplexity (at most +{perplexity}.0%)" in told
    assert f"points of capability (at most -{drop}.0)" in told
