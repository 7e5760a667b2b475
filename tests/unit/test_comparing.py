"""Pairs of answers: what counts as worse, in which order they come, and how they are shown."""

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from modelsurgery.cli import app
from modelsurgery.errors import ArtifactError, RecipeError
from modelsurgery.report.comparing import changed_words, print_pairs, read_pairs

VERDICTS = ("behavior", "opposite", "neither", "failed", "unjudged")


def row(prompt: str, base: str, edited: str, seed: int | None = None, texts: Any = None) -> Any:
    """A line as `surgery run` writes it: verdicts, and texts that differ unless given."""
    before, after = texts or (f"{prompt} before", f"{prompt} after")
    return {"prompt": prompt, "seed": seed, "base": before, "edited": after,
            "base_verdict": base, "edited_verdict": edited}  # fmt: skip


def written(directory: Path, recipe: str = "direction: away\n", **sets: list[Any]) -> Path:
    """A run directory with these samples."""
    (directory / "samples").mkdir(parents=True, exist_ok=True)
    (directory / "recipe.resolved.yaml").write_text(recipe)
    for name, rows in sets.items():
        lines = "".join(json.dumps(one) + "\n" for one in rows)
        (directory / "samples" / f"{name}.jsonl").write_text(lines)
    return directory


def prompts(pairs: Any) -> list[str]:
    return [one.prompt for one in pairs.pairs]


@pytest.mark.parametrize(
    ("base", "edited", "away"),
    [
        ("behavior", "opposite", "better"),
        ("behavior", "neither", "better"),
        ("opposite", "behavior", "worse"),
        ("neither", "behavior", "worse"),
        ("behavior", "behavior", "changed"),
        ("neither", "opposite", "changed"),
        ("behavior", "unjudged", "changed"),  # nobody knows: neither better nor worse
        ("unjudged", "behavior", "changed"),
        ("failed", "behavior", "changed"),
        ("behavior", "failed", "worse"),  # a model that says nothing is not mended
    ],
)
def test_better_and_worse_turn_round_with_the_direction(
    tmp_path: Path, base: str, edited: str, away: str
) -> None:
    run = written(tmp_path, greedy=[row("a", base, edited)])
    turned = {"better": "worse", "worse": "better"}.get(away, away)
    toward = "worse" if edited == "failed" else turned
    assert read_pairs(run).pairs[0].change == away
    assert read_pairs(run, "toward").pairs[0].change == toward
    assert written(tmp_path, "direction: toward\n") == run
    assert read_pairs(run).pairs[0].change == toward
    written(tmp_path, "behavior: {name: rude, direction: toward}\n")  # as an evaluation has it
    assert read_pairs(run).pairs[0].change == toward


def test_the_worst_come_first_and_prompts_that_are_worse_in_more_samples(tmp_path: Path) -> None:
    run = written(
        tmp_path,
        sampled=[
            row("better", "behavior", "opposite", 0),
            row("same", "neither", "neither", 0, texts=("x", "x")),
            row("mute", "neither", "failed", 0),
            row("half", "neither", "behavior", 0),
            row("half", "neither", "neither", 1),
            row("wholly", "neither", "behavior", 0),
            row("wholly", "neither", "behavior", 1),
            row("reversed", "opposite", "behavior", 0),
        ],
    )
    found = read_pairs(run)
    assert prompts(found) == [
        "reversed", "wholly", "wholly", "half", "mute", "half", "better", "same"
    ]  # fmt: skip
    assert found.counts == {"worse": 5, "changed": 1, "better": 1, "same": 1}


def test_runs_and_evaluations_are_read_alike(tmp_path: Path) -> None:
    run = written(tmp_path / "run", toxigen=[row("a", "behavior", "neither")])
    sides = {"base": {"text": "a before", "verdict": "behavior", "tokens": 2},
             "edited": {"text": "a after", "verdict": "neither", "tokens": 2}}  # fmt: skip
    evaluation = written(
        tmp_path / "evaluation", toxigen=[{"prompt": "a", "chat": False, "seed": None, **sides}]
    )
    assert read_pairs(run).pairs == read_pairs(evaluation).pairs
    written(tmp_path / "evaluation", toxigen=[{"prompt": "a", "seed": None, "base": sides["base"]}])
    with pytest.raises(ArtifactError, match="no answers of an edited model"):
        read_pairs(tmp_path / "evaluation")


def test_pairs_are_chosen_by_change_set_and_text(tmp_path: Path) -> None:
    run = written(
        tmp_path,
        greedy=[row("cat", "behavior", "neither"), row("dog", "neither", "behavior")],
        sampled=[row("cat", "neither", "behavior", 3, texts=("a SUN", "rain"))],
    )
    found = read_pairs(run)
    assert prompts(found.chosen(only=["worse"])) == ["dog", "cat"]
    assert prompts(found.chosen(only=["worse", "better"], sets=["greedy"])) == ["dog", "cat"]
    assert [one.set for one in found.chosen(search="sun").pairs] == ["sampled"]
    assert prompts(found.chosen(search="dog after")) == ["dog"]
    assert prompts(found.chosen(search="nothing")) == []
    assert found.chosen(search="nothing").counts == found.counts
    assert prompts(found.first(1)) == prompts(found)[:1]
    assert found.first(0) == found.first(None) == found
    for wrong in ({"only": ["bad"]}, {"sets": ["bad"]}):
        with pytest.raises(RecipeError, match="'bad'; expected some of"):
            found.chosen(**wrong)


@pytest.mark.parametrize(
    "line",
    ["{", "3", "[1]", '{"edited": "x"}', '{"edited": {"text": "x"}, "base": {}}', "[" * 100_000,
     '{"prompt": "x", "seed": "one", "base": "x", "edited": "y"}'],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    run = written(tmp_path, greedy=[row("a", "neither", "neither")])
    with (run / "samples" / "greedy.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ArtifactError, match=r"greedy\.jsonl, line 2: not a sample"):
        read_pairs(run)


@pytest.mark.parametrize("recipe", ["[", "- 1", "", "direction: [a]", "behavior: 3"])
def test_a_strange_recipe_says_no_direction(tmp_path: Path, recipe: str) -> None:
    run = written(tmp_path, recipe, greedy=[row("a", "behavior", "neither")])
    assert read_pairs(run).direction == "away"


def test_a_directory_without_samples_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match="no samples found"):
            read_pairs(place)


@given(st.text(max_size=60), st.text(max_size=60))
def test_marked_pieces_make_up_the_texts_again(base: str, edited: str) -> None:
    for text, pieces in zip((base, edited), changed_words(base, edited), strict=True):
        assert "".join(piece for piece, _ in pieces) == text


def test_marks_are_on_the_words_that_the_other_text_has_not() -> None:
    base, edited = changed_words("he is a mean old man", "he is a kind man today")
    assert [text for text, is_new in base if is_new] == ["mean old"]
    assert [text for text, is_new in edited if is_new] == ["kind", "today"]
    unlike = changed_words("one two three four five six", "seven eight nine ten")
    assert [is_new for pieces in unlike for _, is_new in pieces] == [False, False]


def test_masks_hide_what_was_judged_to_show_the_behavior_or_not_judged(tmp_path: Path) -> None:
    rows = [row(verdict, verdict, "opposite", texts=("rude talk", "kind")) for verdict in VERDICTS]
    pairs = read_pairs(written(tmp_path, greedy=rows)).masked().pairs
    masked = {one.base_verdict: one for one in pairs}
    assert {one.edited for one in masked.values()} == {"kind"}
    for verdict, one in masked.items():
        is_hidden = verdict in ("behavior", "unjudged")
        assert one.base == ("•••• ••••" if is_hidden else "rude talk")
        assert one.prompt == ("•" * len(verdict) if is_hidden else verdict)


def test_the_terminal_masks_unless_asked_and_files_do_if_asked(tmp_path: Path) -> None:
    rows = [row("go on", "behavior", "opposite", texts=("rude talk", "kind"))]
    run = str(written(tmp_path, greedy=rows))

    def compared(*options: str) -> str:
        done = CliRunner().invoke(app, ["compare", run, *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    for hidden in (compared(), compared("--mask"), compared("--mask", "--json")):
        assert "rude" not in hidden
        assert "go on" not in hidden
        assert "•••• ••••" in hidden
        assert "kind" in hidden
    for whole in (compared("--show-offensive"), compared("--json")):
        assert "rude talk" in whole
        assert "go on" in whole
    page = tmp_path / "page.html"
    compared("--html", str(page), "--mask")
    assert "rude" not in page.read_text(encoding="utf-8")


def test_what_a_model_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    nasty = "\x1b]0;title\x07\x1b[2J[bold]x[/bold]\r\nnext\u202e"
    run = written(tmp_path, greedy=[row(nasty, "neither", "neither", texts=(nasty, nasty + "y"))])
    stream = io.StringIO()
    print_pairs(read_pairs(run), Console(file=stream, soft_wrap=True, highlight=False), limit=0)
    printed = stream.getvalue()
    assert not set("\x1b\x07\r\u202e") & set(printed)
    assert printed.count("]0;title[2J[bold]x[/bold] ⏎ next") == 3


def test_the_terminal_shows_the_first_pairs_and_says_how_many_more(tmp_path: Path) -> None:
    run = written(tmp_path, greedy=[row(f"cat {k}", "behavior", "neither") for k in range(25)])
    shown = CliRunner().invoke(app, ["compare", str(run), "--show-offensive"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith(
        "25 pairs of answers, away from the behavior: 0 worse, 0 changed, 25 better, 0 same\n"
    )
    assert len(re.findall("^prompt  cat", shown.stdout, re.MULTILINE)) == 20
    assert shown.stdout.endswith("and 5 more; --limit 0 shows all\n")
    whole = (
        CliRunner().invoke(app, ["compare", str(run), "--show-offensive", "--limit", "0"]).stdout
    )
    assert whole.count("prompt  cat") == 25
    content = json.loads(CliRunner().invoke(app, ["compare", str(run), "--json"]).stdout)
    assert len(content["pairs"]) == 25
    assert content["counts"]["better"] == 25


class Page:
    """A page's tags, and the texts inside blurred ones."""

    def __init__(self, content: str) -> None:
        self.tags = Counter(re.findall(r"<([a-z]+)", content))
        self.blurred = re.findall(r'<span class="blur"[^>]*>(.*?)</span>', content)
        self.content = content


def test_the_page_stands_alone_and_blurs_what_may_offend(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>\x1b\u202e"
    rows = [
        row("cat", "behavior", "neither", texts=(f"rude {script} talk", f"kind {script} talk")),
        row("dog", "neither", "neither"),
    ]
    run, out = written(tmp_path / "run", greedy=rows), tmp_path / "page.html"
    done = CliRunner().invoke(app, ["compare", str(run), "--html", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"the pairs are in {out}\n")
    page = Page(out.read_text(encoding="utf-8"))
    assert page.tags["script"] == page.tags["style"] == 1
    assert not set("\x1b\u202e") & set(page.content)
    assert not re.search(r'(src|href)="(?!data:)', page.content)
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert page.blurred == ["cat", f"<mark>rude</mark> {escaped} talk"]
    assert f"<mark>kind</mark> {escaped} talk" in page.content
    again = CliRunner().invoke(app, ["compare", str(run), "--html", str(out)])
    assert again.exit_code != 0  # nothing is overwritten
