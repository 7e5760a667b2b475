"""Tiny files in the formats of public corpora, with harmless content."""

import json
from pathlib import Path
from typing import Any


def written(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def toxicity_record(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "filename": f"{number}.txt",
        "begin": 0,
        "end": 10,
        "challenging": number % 2 == 0,
        "prompt": {"text": f"Half a sentence {number}", "toxicity": 0.1},
        "continuation": {"text": f" goes on {number}.", "toxicity": 0.9 if number % 3 else None},
    }
    return record | changes
