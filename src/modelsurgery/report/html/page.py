"""The page: a run directory's plain values, put into figures and words."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from modelsurgery.errors import ArtefactError
from modelsurgery.files import write_text
from modelsurgery.report.html import wording
from modelsurgery.report.html.charts import per_cent
from modelsurgery.report.html.differences import (
    KINDS,
    Pair,
    chosen_pairs,
    lead_count,
    marked,
    pairs_of,
    shown,
)
from modelsurgery.report.html.figures import (
    Figure,
    curve_figure,
    group_figures,
    inside_figures,
    rates_figure,
)
from modelsurgery.report.masking import shown_token

REPORT_FILE = "report.html"
MOST_PAIRS = 240


@dataclass(frozen=True)
class Page:
    """All that the template shows.

    Attributes:
        title: of the page.
        subject: one line: behavior, direction, model.
        verdict: the result in one sentence.
        tone: `good`, `over` (damage) or `unclear`.
        told: what there is to say beside the verdict.
        table: label, base, edited, change of everything measured.
        figures: what changed and what it cost.
        pairs: examples; the first `lead` of them are seen at once.
        counts: how many samples got better, worse, …
        facts: name and value of what was done, with what.
        commands: what for, and the command.
        recipe: as YAML.
        hashes: SHA-256 by file.
        inside: figures on rows, neurons and probe.
        neurons: `inside` of the results, for its tables of tokens.
    """

    title: str
    subject: str
    verdict: str
    tone: str
    told: tuple[str, ...]
    table: tuple[tuple[str, str, str, str], ...]
    figures: tuple[Figure, ...]
    pairs: tuple[Pair, ...]
    counts: Mapping[str, int]
    facts: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    recipe: str
    hashes: Mapping[str, str]
    inside: tuple[Figure, ...] = ()
    neurons: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lead(self) -> int:
        """Examples that are seen at once."""
        return lead_count(self.pairs)


def write_report(directory: Path) -> Path:
    """Write `report.html` of a finished run or evaluation; the path of the page.

    Raises:
        ArtefactError: there is no finished run, or its files cannot be read.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelsurgery.report.html", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = lambda pair: marked(pair.base, pair.edited)
    environment.filters["shown"] = shown
    environment.filters["token"] = shown_token
    page = page_of(directory)
    path = directory / REPORT_FILE
    write_text(path, environment.get_template("report.html.jinja").render(page=page))
    return path


def page_of(directory: Path) -> Page:
    """Gather the page of a run directory.

    Raises:
        ArtefactError: there is no finished run, or its files cannot be read.
    """
    results, manifest = _read(directory, "results.json"), _read(directory, "manifest.json")
    recipe = (directory / "recipe.resolved.yaml").read_text(encoding="utf-8")
    try:
        make = _evaluation_page if "sets" in results else _run_page
        return make(directory, results, manifest, recipe)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtefactError(
            f"{directory}: its results are not those of a run or an evaluation of this version "
            f"({type(error).__name__}: {error}); run it again"
        ) from error


def _run_page(
    directory: Path, results: dict[str, Any], manifest: dict[str, Any], recipe: str
) -> Page:
    behavior, direction = results["behavior"], results["behavior"]["direction"]
    name = behavior["name"]
    pairs = pairs_of(_samples(directory, "sampled", "greedy"), direction)
    measured = [(f"{name}, sampled", behavior), (f"{name}, greedy", behavior["greedy"])]
    facts = results["facts"]["intervals"]
    perplexity = results["perplexity"]
    table = [_compared(label, one) for label, one in measured]
    table.append(
        (
            "perplexity of neutral text",
            f"{perplexity['base']:.2f}",
            f"{perplexity['edited']:.2f}",
            f"{100 * perplexity['rise']:+.1f}%",
        )
    )
    table += _facts_row(facts)
    table.append(("divergence from the base", "0", f"{results['divergence']:.4f}", "nats a token"))
    figures = [rates_figure([(label, one["base"], one["edited"]) for label, one in measured])]
    if results["dose_response"]:
        figures.append(curve_figure(results["dose_response"], name))
    inside = results.get("inside") or {}
    edit, probe = results["edit"], results["probe"]
    tone = "good" if results["budget"]["is_met"] else "over"
    if behavior["change"]["verdict"] == "no detectable change":
        tone = "unclear"
    away = "taken away from" if direction == "away" else "added to"
    return Page(
        title=f"{name}: {results['model']}",
        subject=f"{name} ({behavior['title']}) {away} {results['model']}",
        verdict=wording.verdict(name, behavior),
        tone=tone,
        told=(
            wording.certainty(behavior),
            wording.price(perplexity["rise"], facts),
            wording.budget(results),
        ),
        table=tuple(table),
        figures=tuple(figures),
        pairs=tuple(chosen_pairs(pairs, MOST_PAIRS)),
        counts=_counts(pairs),
        facts=(
            ("what was edited", f"{edit['rows']:,} of {edit['rows_found']:,} gate rows in "
             f"{edit['tensors']} of {edit['tensors_found']} tensors; {edit['bytes_changed']:,} of "
             f"{edit['bytes_total']:,} bytes changed"),
            ("strength", f"{edit['strength']:.3g} (α {edit['alpha']:.3g}), direction "
             f"{edit['direction_rule']}"),
            ("probe", f"layer {probe['layer']}, accuracy {per_cent(probe['accuracy'])} on "
             f"{probe['held_out_texts']} held-out texts (with shuffled labels "
             f"{per_cent(probe['control_accuracy'])})"),
            ("judge", f"{results['judge']['name']}: {results['judge']['note']}"),
            ("neutral text", f"{perplexity['tokens']:,} tokens of {perplexity['text']}"),
            *_versions(manifest),
        ),
        commands=_run_commands(directory, recipe),
        recipe=recipe,
        hashes=manifest["sha256"],
        inside=tuple(inside_figures(inside)),
        neurons=inside,
    )  # fmt: skip


def _evaluation_page(
    directory: Path, results: dict[str, Any], manifest: dict[str, Any], recipe: str
) -> Page:
    behavior, sets = results["behavior"], results["sets"]
    name, model = behavior["name"], results["model"]["name"]
    plan = yaml.safe_load(recipe)
    edited = [one for one in sets if one["edited"] is not None]
    direction = "toward" if edited and edited[0]["change"]["difference"] > 0 else "away"
    pairs = pairs_of(_samples(directory, *(one["name"] for one in sets)), direction)
    neutral, facts = results["damage"]["neutral_text"], results["damage"]["facts"]
    figures = [rates_figure([(one["name"], one["base"], one["edited"]) for one in sets])]
    figures += group_figures(sets)
    table = [_compared(one["name"], one) for one in sets]
    if neutral and neutral["edited_perplexity"] is not None:
        table.append(
            (
                "perplexity of neutral text",
                f"{neutral['base_perplexity']:.2f}",
                f"{neutral['edited_perplexity']:.2f}",
                f"{100 * neutral['rise']:+.1f}%",
            )
        )
    table += _facts_row(facts)
    told = []
    if edited:
        told.append(wording.certainty(edited[0]))
        if neutral:
            told.append(wording.price(neutral["rise"], facts))
        first = wording.verdict(name, edited[0])
        clear = edited[0]["change"]["verdict"] != "no detectable change"
    else:
        first = f"{name.capitalize()} shows in {per_cent(sets[0]['base']['rate'])} of prompts."
        clear = True
    return Page(
        title=f"{name}: {model}",
        subject=f"{name} ({behavior['title']}), {model}, {len(results['edits'])} edit(s)",
        verdict=first,
        tone="good" if clear else "unclear",
        told=tuple(told),
        table=tuple(table),
        figures=tuple(figures),
        pairs=tuple(chosen_pairs(pairs, MOST_PAIRS)),
        counts=_counts(pairs),
        facts=(
            *(("judge", f"{one['name']}: {one['note']}") for one in results["judges"]),
            *(("edit", f"{path}, SHA-256 {hash_}") for path, hash_ in results["edits"].items()),
            *_versions(manifest),
        ),
        commands=(
            (
                "measure again",
                shlex.join(
                    ["surgery", "evaluate", str(plan["model"])]
                    + [part for path in results["edits"] for part in ("--edit", path)]
                    + ["--behavior", name]
                ),
            ),
        ),
        recipe=recipe,
        hashes=manifest["sha256"],
    )


def _compared(label: str, one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if one["edited"] is None:
        return (label, _rate(one["base"]), "", "")
    change = one["change"]
    return (
        label,
        _rate(one["base"]),
        _rate(one["edited"]),
        f"{100 * change['difference']:+.1f} points, {change['verdict']}",
    )


def _facts_row(facts: Sequence[Mapping[str, float]] | None) -> list[tuple[str, str, str, str]]:
    if not facts or len(facts) < 2:
        return []
    points = f"{100 * (facts[1]['rate'] - facts[0]['rate']):+.1f} points"
    return [("facts answered right", _rate(facts[0]), _rate(facts[1]), points)]


def _run_commands(directory: Path, recipe: str) -> tuple[tuple[str, str], ...]:
    model = str(yaml.safe_load(recipe)["model"])
    edit = str(directory / "edit.safetensors")

    def command(*parts: str) -> str:
        return shlex.join(["surgery", *parts])

    return (
        ("repeat", command("run", str(directory / "recipe.resolved.yaml"), "--out", "again")),
        ("apply to a copy", command("apply", model, edit, "--out", "edited")),
        ("take it back", command("undo", "edited")),
        ("adapter for PEFT", command("export", model, edit, "--to", "peft", "--out", "adapter")),
        ("talk to both", command("chat", model, "--edit", edit)),
        ("read all answers", command("compare", str(directory))),
    )  # fmt: skip


def _rate(rate: Mapping[str, float]) -> str:
    return f"{per_cent(rate['rate'])} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


def _counts(pairs: Sequence[Pair]) -> dict[str, int]:
    return {kind: sum(pair.kind == kind for pair in pairs) for kind in KINDS}


def _versions(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = manifest["provenance"]["versions"]
    return [("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]


def _samples(directory: Path, *names: str) -> list[dict[str, Any]]:
    found = []
    for name in names:
        path = directory / "samples" / f"{name}.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            found += [{**json.loads(line), "set": name} for line in lines if line]
    return found


def _read(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        raise ArtefactError(
            f"{directory}: no finished run there ({name} is missing); give the directory that "
            "`surgery run` or `surgery evaluate` wrote, or run the same command again to finish it"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{path}: not valid JSON ({error}); run it again") from error
    if not isinstance(content, dict):
        raise ArtefactError(f"{path}: expected a JSON object; run it again")
    return content
