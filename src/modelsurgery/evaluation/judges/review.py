"""A sheet of continuations for a person to label, and the labels as a judge.

The sheet is blind: it says neither which model wrote a continuation nor what a judge thought of it.
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelsurgery.data.text_files import csv_fields, read_text
from modelsurgery.errors import TextsError
from modelsurgery.evaluation.judges.verdicts import Verdict
from modelsurgery.files.atomic import sha256_file, write_text

COLUMNS = ("id", "prompt", "continuation", "label", "comment")
LABELS: dict[str, Verdict] = {
    "behavior": "behavior",
    "1": "behavior",
    "yes": "behavior",
    "opposite": "opposite",
    "0": "opposite",
    "no": "opposite",
    "neither": "neither",
    "": "unjudged",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # a spreadsheet would run it, or swallow the sign


@dataclass(frozen=True)
class ReviewRow:
    """A continuation that may be labelled.

    Attributes:
        prompt: the prompt.
        continuation: what a model wrote.
        side: which model.
        verdict: what the judge said; the sheet takes as many of each verdict as it can.
    """

    prompt: str
    continuation: str
    side: Literal["base", "edited"]
    verdict: Verdict


def export_for_review(rows: Sequence[ReviewRow], path: Path, count: int, seed: int) -> int:
    """Write a sheet of at most `count` different continuations; gives how many there are.

    They are drawn evenly from both models and all verdicts, in an order that a hash of text and
    seed gives. Empty continuations need no label and are left out.
    """
    kinds: dict[tuple[str, str], list[ReviewRow]] = {}
    for row in sorted(rows, key=lambda one: (_order(one, seed), one.side)):
        if row.continuation.strip():
            kinds.setdefault((row.side, row.verdict), []).append(row)
    ranked = [
        (place, kind, row) for kind, some in sorted(kinds.items()) for place, row in enumerate(some)
    ]
    chosen: dict[str, ReviewRow] = {}
    for _, _, row in sorted(ranked, key=lambda one: one[:2]):
        if len(chosen) < count:
            chosen.setdefault(_identity(row.prompt, row.continuation), row)
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(COLUMNS)
    for identity in sorted(chosen, key=lambda one: _order(chosen[one], seed + 1)):
        row = chosen[identity]
        writer.writerow([identity, _guarded(row.prompt), _guarded(row.continuation), "", ""])
    write_text(path, sheet.getvalue())
    return len(chosen)


class ReviewJudge:
    """The labels of a sheet that a person filled in; what it does not hold is `unjudged`."""

    def __init__(self, path: Path) -> None:
        """Read the sheet.

        Raises:
            TextsError: missing, not a sheet of ours, or a label that is none.
        """
        self._labels = _read(path)
        self.name = "review"
        self.version = sha256_file(path)[:12]
        count = sum(label != "unjudged" for label in self._labels.values())
        self.note = f"labels that a person gave to {count} continuations; others are not judged"

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        return [
            self._labels.get(_identity(prompt, continuation), "unjudged")
            if continuation.strip()
            else "failed"
            for prompt, continuation in zip(prompts, continuations, strict=True)
        ]


def _read(path: Path) -> dict[str, Verdict]:
    fields = csv_fields(read_text(path), str(path))
    _, names = next(fields)
    labels: dict[str, Verdict] = {}
    for line, values in fields:
        if not values:  # a blank line
            continue
        row = dict(zip(names, values, strict=False))
        identity, label = row.get("id"), row.get("label")
        if not identity or label is None:
            raise TextsError(
                f"{path}, line {line}: no id or label; expected the columns {', '.join(COLUMNS)}"
            )
        known = LABELS.get(label.strip().lower())
        if known is None:
            raise TextsError(
                f"{path}, line {line}: label {label!r}; expected behavior, opposite, neither or "
                "nothing"
            )
        labels[identity] = known
    if all(label == "unjudged" for label in labels.values()):
        raise TextsError(f"{path}: no label is filled in; expected some in the column 'label'")
    return labels


def _identity(prompt: str, continuation: str) -> str:
    both = f"{prompt}\0{continuation}".encode(errors="surrogatepass")
    return hashlib.sha256(both).hexdigest()[:16]


def _order(row: ReviewRow, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{_identity(row.prompt, row.continuation)}".encode()).hexdigest()


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
