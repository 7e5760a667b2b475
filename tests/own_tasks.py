"""Task files for lm-eval, as users may write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def write_own_tasks(
    directory: Path,
    name: str,
    rows: Sequence[tuple[str, str]],
    *,
    choice: bool = True,
    metric: str | None = None,
    **more: Any,
) -> None:
    """A task of questions with their letter, to be chosen by likelihood or to be written."""
    directory.mkdir(exist_ok=True)
    data = directory / f"{name}.jsonl"
    data.write_text(
        "".join(json.dumps({"question": asked, "answer": right}) + "\n" for asked, right in rows)
    )
    kind = (
        {"output_type": "multiple_choice", "doc_to_choice": list("ABCD")}
        if choice
        else {"output_type": "loglikelihood" if metric == "perplexity" else "generate_until"}
    )
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": metric or ("acc" if choice else "exact_match")}],
        **kind,
        **more,
    }
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task))
