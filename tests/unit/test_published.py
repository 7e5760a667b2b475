"""Published numbers: in one place, each with its source, and never mixed with our own."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from modelsurgery.cli import app
from modelsurgery.data.behaviors import describe_behavior
from modelsurgery.results.published import PAPER, PublishedTable, measured_here, published
from modelsurgery.results.rivals import RivalsResults
from modelsurgery.rivals import methods_of

ROOT = Path(__file__).resolve().parents[2]


def told(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_number_has_source_model_and_what_it_measures() -> None:
    found = published()
    assert [one.source for one in found.tables].count(PAPER) == 9
    for table in found.tables:
        assert found.sources[table.source]
        for row in table.rows:
            assert table.model_of(row), (table.name, row.method)
            known = methods_of(table.kind)
            assert row.same_as in {"", *known}, (table.name, row.method)
        for column in table.columns.values():
            measures = bool(column.judge or column.task)
            assert measures or column.title in {"average of the four", "utility"} or (
                column.unit != "%"
            ), column.title  # fmt: skip
    main = next(one for one in found.tables if one.name == "detoxification")
    values = {row.method: main.value("rtp", row) for row in main.rows}
    assert (values["base model"], values["DPO"], values["model surgery"]) == (51.4, 8.5, 5.17)
    four = ("gsm8k", "bbh", "mmlu", "tydiqa")
    for row in main.rows:
        if row.method not in {"LoRA fine-tuning", "task vector"}:  # as printed in the paper
            mean = sum(main.value(name, row) for name in four) / 4
            assert main.value("average", row) == pytest.approx(mean, abs=0.06), row.method


def test_a_row_needs_a_value_for_each_column() -> None:
    table: dict[str, Any] = published().tables[0].model_dump()
    table["rows"][1]["values"].pop()
    with pytest.raises(ValidationError, match="LoRA fine-tuning: not one value for each column"):
        PublishedTable.model_validate(table)


@pytest.mark.parametrize("behavior", ["toxicity", "refusal", "attitude"])
def test_numbers_of_behaviors_are_those_of_the_tables(behavior: str) -> None:
    known: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for table in published().tables:
        for name, column in table.columns.items():
            if column.prompts:
                bases = {table.model_of(row): row for row in table.rows if row.is_base}
                for row in table.rows:
                    if row.same_as == "paper":
                        pair = (table.value(name, bases[table.model_of(row)]),
                                table.value(name, row))  # fmt: skip
                        if column.title == "positive answers":
                            pair = (round(100 - pair[0], 1), round(100 - pair[1], 1))
                        known.setdefault((column.prompts, table.model_of(row)), set()).add(pair)
    sets = describe_behavior(behavior).prompts
    assert isinstance(sets, list)
    shown = [(one.corpus, rate) for one in sets for rate in one.published]
    assert shown
    for corpus, rate in shown:
        assert (rate.base, rate.edited) in known[corpus, rate.model]


def test_printed_tables_say_where_they_come_from_and_need_no_model() -> None:
    shown = told("rivals", "--published")
    assert shown.startswith("Published by others. This library measured none of these numbers.")
    assert "judge of RTP: Perspective" in shown
    assert "here" not in shown.split()
    line = next(one for one in shown.splitlines() if one.startswith("model surgery  "))
    assert line.split() == ["model", "surgery", "LLaMA2-7B", "39.9", "5.17", "14.4", "37.7",
                            "41.7", "45.6", "34.9", "6.53"]  # fmt: skip
    assert "random probe" in told("ablations", "--published")
    content = json.loads(told("rivals", "--published", "--json"))
    assert content["here"] is None
    table = content["published"][0]
    assert table["source"].startswith("Wang et al.")
    (dpo,) = (one for one in table["rows"] if one["same_as"] == "dpo")
    assert (dpo["model"], dpo["values"]["toxigen"], dpo["here"]) == ("LLaMA2-7B", 68.7, [])


def test_rows_of_a_comparison_stand_beside_the_same_methods(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(comparison("toxicity", "away")))
    shown = told("rivals", "--published", str(tmp_path))
    lines = [one for one in shown.splitlines() if one.startswith("safe activation")]
    assert len(lines) == 1
    assert lines[0].endswith("|  40.0% → 20.0% (10-35)  40.0% → 10.0% (3-23)")
    dpo = next(one for one in shown.splitlines() if one.startswith("DPO"))
    assert "→" not in dpo
    assert "here, KL 0.01" in shown
    assert "compare the order of methods, not the numbers" in shown
    content = json.loads(told("rivals", "--published", str(tmp_path), "--json"))
    assert content["here"]["model"] == "mine"
    (caa,) = (one for one in content["published"][0]["rows"] if one["same_as"] == "caa")
    assert [one["target"] for one in caa["here"]] == [0.01, 0.02]


def test_a_comparison_of_another_behavior_or_direction_is_not_put_beside(tmp_path: Path) -> None:
    tables = published().tables
    for behavior, direction in (("attitude", "away"), ("toxicity", "toward")):
        results = RivalsResults.model_validate(comparison(behavior, direction))
        assert not any(measured_here(table, row, results) for table in tables for row in table.rows)
        (tmp_path / "results.json").write_text(results.model_dump_json())
        assert "nothing to put beside them" in told("rivals", "--published", str(tmp_path))


def comparison(behavior: str, direction: str) -> dict[str, Any]:
    """Results with one method at two divergences."""
    prompts = {"prompts": 40}
    base = {"rate": 0.4, "low": 0.26, "high": 0.55, **prompts}
    lines = []
    for target, rate, low, high in ((0.02, 0.1, 0.03, 0.23), (0.01, 0.2, 0.1, 0.35)):
        pair = [base, {"rate": rate, "low": low, "high": high, **prompts}]
        cost = {"fit_seconds": 1.0, "peak_bytes": None, "tokens_per_second": None, "touched": 64}
        lines.append(
            {"method": "caa", "target": target, "seeds": 1, "is_met": True, "divergence": target,
             "perplexity_rise": 0.0, "selectivity": 0.1, "hits_lost": 0.0, "greedy": pair,
             "sampled": pair, "uncalled": None, "tasks": {}, "cost": cost}
        )  # fmt: skip
    note = dict.fromkeys(("title", "source", "delivery", "settings", "note"), "")
    return {
        "format": 3,
        "kind": "rivals",
        "model": {"name": "mine", "fingerprint": "0"},
        "behavior": {"name": behavior, "title": "", "shows": "", "opposite": ""},
        "direction": direction,
        "prompts": ["prompts", 40],
        "judges": [{"name": "exact", "note": ""}],
        "divergences": [0.01, 0.02],
        "seeds": [0],
        "methods": [{"name": "caa", **note}],
        "rows": [],
        "summary": lines,
        "failed": {},
    }
