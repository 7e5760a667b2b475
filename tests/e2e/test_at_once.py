"""One edit of the embedded model for two behaviors at once, made and measured as a user does."""

import json
from pathlib import Path

import pytest
from surgery import surgery, surgery_json

from modelsurgery.data import demo

pytestmark = pytest.mark.slow

BEHAVIORS = ("toxicity", "negativity")


def test_one_edit_lowers_both_rates(tmp_path: Path) -> None:
    texts: list[str | Path] = []
    for name in BEHAVIORS:
        rows = demo.labeled_texts(name, 400, 0)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines))
        texts += ["--texts", path]
    neutral, edit = tmp_path / "neutral.jsonl", tmp_path / "e.safetensors"
    plain = demo.neutral_texts("train", 400, 0)
    neutral.write_text("\n".join(json.dumps({"text": text}) for text in plain))
    told = surgery_json("edit", "embedded", *texts, "--neutral", neutral, "--out", edit)
    assert all(told["measured"]["by_behavior"][name] > 0.05 for name in BEHAVIORS)
    assert told["measured"]["divergence"] <= 0.02
    assert "predicted by the rule" in surgery("inspect", edit)
    for name in BEHAVIORS:
        found = surgery_json("evaluate", "embedded", "--edit", edit, "--behavior", name,
                             "--samples", "1", "--out", tmp_path / name)  # fmt: skip
        (one,) = found["sets"]
        assert one["change"]["verdict"] == "less", name
        assert one["change"]["p_value"] < 0.01
        assert one["edited"]["rate"] < 0.75 * one["base"]["rate"]
        assert found["damage"]["neutral_text"]["divergence"] < 0.03
