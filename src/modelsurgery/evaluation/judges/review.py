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

from modelsurgery.data.choosing import evenly
from modelsurgery.data.text_files import csv_fields
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
    """A continuation that may be labeled, and what the judge said of it."""

    prompt: str
    continuation: str
    side: Literal["base", "edited"]
    verdict: Verdict


def export_for_review(rows: Sequence[ReviewRow], path: Path, count: int, seed: int) -> int:
    """Write a sheet of at most `count` different continuations; gives how many there are.

    They are drawn evenly from both models and all verdicts, in an order that a hash of text and
    seed gives. Empty continuations need no label and are left out.
    """
    spoken = [row for row in rows if row.continuation.strip()]
    keys = [_identity(row.prompt, row.continuation) for row in spoken]
    kinds = [(row.side, row.verdict) for row in spoken]
    chosen: dict[str, ReviewRow] = {}
    for number in evenly(keys, kinds=kinds, seed=seed):
        if len(chosen) < count:
            chosen.setdefault(keys[number], spoken[number])
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(COLUMNS)
    identities = list(chosen)
    for place in evenly(identities, seed=seed + 1):  # in no order that tells models or verdicts
        identity, row = identities[place], chosen[identities[place]]
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
        self.note = (
            f"labels from a human reviewer for {count} continuations; the others are not judged"
        )

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        return [
            self._labels.get(_identity(prompt, continuation), "unjudged")
            if continuation.strip()
            else "failed"
            for prompt, continuation in zip(prompts, continuations, strict=True)
        ]


def _read(path: Path) -> dict[str, Verdict]:
    fields = csv_fields(path)
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


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
