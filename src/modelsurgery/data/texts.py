"""Labeled texts: reading them, checking them, splitting them.

A label of 1 says that the text shows the behavior, 0 that it shows its opposite. `text_files` says
which files can be read. A column `group` keeps related texts (a sentence and its rewrite) on one
side of the split; a column `reply` makes the text a user's turn, and the reply what shows the
behavior or its opposite. Beside it, `called_for` says whether the turn calls for the behavior.
"""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.data.text_files import checked_text, read_rows
from modelsurgery.errors import TextsError
from modelsurgery.files.atomic import sha256_json

MIN_TEXTS = 20
LABELS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabeledText:
    """A text and whether it shows the behavior.

    Attributes:
        text: the text; a user's turn if there is a `reply`.
        label: 1 if it shows the behavior, 0 if it shows its opposite.
        group: texts of the same group stay in the same part of a split; None for a text of its
            own.
        reply: the assistant's answer to the text, if any.
        called_for: whether the request in `text` calls for the behavior; None if the behavior does
            not depend on the request.

    Example:
        >>> LabeledText("Can you look at my code?", 1, reply="Look at it yourself.").label
        1
    """

    text: str
    label: int
    group: str | None = None
    reply: str | None = None
    called_for: bool | None = None


@dataclass(frozen=True)
class Split:
    """A training part and a test part of labeled texts, with no text or group in common.

    Attributes:
        train: texts to fit an edit or a probe to.
        test: texts to measure on.

    Example:
        >>> split = load_texts("texts.jsonl").split()  # doctest: +SKIP
        >>> edit = fit_edit(model, split.train)  # doctest: +SKIP
        >>> print(evaluate(model, edit, split))  # doctest: +SKIP
    """

    train: tuple[LabeledText, ...]
    test: tuple[LabeledText, ...]


class LabeledTexts(tuple[LabeledText, ...]):
    """Labeled texts in the order of their file: a tuple that can be split.

    Example:
        >>> texts = LabeledTexts(LabeledText(f"text {n}", n % 2) for n in range(100))
        >>> split = texts.split(test_size=0.2, seed=0)
        >>> len(split.train), len(split.test)
        (80, 20)
    """

    __slots__ = ()

    def split(self, *, test_size: float = 0.2, seed: int = 0) -> Split:
        """Split the texts into a training and a test part (`split_texts`).

        Args:
            test_size: approximate share of each label to hold out, between 0 and 1.
            seed: a different seed gives a different split.

        Returns:
            The two parts. Both have both labels, and texts of a group stay together.

        Raises:
            TextsError: one part would lack a label (too few texts, or one large group).
        """
        return split_texts(self, test_size=test_size, seed=seed)


def load_texts(
    source: Path | str, *, text_column: str = "text", label_column: str = "label"
) -> LabeledTexts:
    """Read labeled texts from a file or a data set on the Hub.

    Repeated texts are dropped, and so are texts that appear with both labels.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, or `hub:NAME[:SPLIT]`.
        text_column: column with the text; a column `prompt` is used if there is no `text`.
        label_column: column with the label: 1/0, true/false or yes/no. An optional column
            `called_for` takes the same values.

    Returns:
        The texts in the order of the file.

    Raises:
        TextsError: the file cannot be used, or it has fewer than 20 texts or only one label. The
            message names the line.

    Example:
        >>> split = load_texts("texts.jsonl").split(seed=0)  # doctest: +SKIP
        >>> edit = fit_edit(model, split.train)  # doctest: +SKIP
    """
    texts = []
    for where, row in read_rows(source):
        is_prompt = text_column == "text" and "text" not in row and "prompt" in row
        column = "prompt" if is_prompt else text_column
        for wanted in (column, label_column):
            if wanted not in row:
                raise TextsError(
                    f"{where}: no column {wanted!r}; expected {text_column!r} and "
                    f"{label_column!r}, found {', '.join(map(repr, row)) or 'nothing'}"
                )
        label = _label(row[label_column], f"{where}: label", "shows the behavior")
        group, reply, called_for = row.get("group"), row.get("reply"), row.get("called_for")
        texts.append(
            LabeledText(
                checked_text(row[column], where, "the text"),
                label,
                None if group in (None, "") else str(group),
                None if reply in (None, "") else checked_text(reply, where, "the reply"),
                None if called_for in (None, "") else _is_called_for(called_for, where),
            )
        )
    check_called_for(texts, str(source))
    return LabeledTexts(check_texts(texts, str(source)))


def check_called_for(texts: Sequence[LabeledText], where: str) -> None:
    """Refuse texts of which it is not clear where the behavior is called for.

    Raises:
        TextsError: some say it and others don't, a text without a reply says it, a request stands
            there with both, or one of the four kinds is missing.
    """
    if all(text.called_for is None for text in texts):
        return
    said: dict[str, bool] = {}
    for text in texts:
        if text.called_for is None or text.reply is None:
            lacking = "called_for" if text.called_for is None else "reply"
            raise TextsError(
                f"{where}: {lacking!r} is empty for some texts; expected prompt, reply and "
                "called_for for all of them, or no called_for at all"
            )
        if said.setdefault(text.text, text.called_for) != text.called_for:
            raise TextsError(
                f"{where}: the same prompt has called_for 1 and 0; expected one of them"
            )
    kinds = {(text.called_for, text.label) for text in texts}
    for called_for, label in itertools.product((True, False), (1, 0)):
        if (called_for, label) not in kinds:
            raise TextsError(
                f"{where}: no text with label {label} and called_for {int(called_for)}; "
                "expected replies of both labels to prompts of both kinds"
            )


def _label(value: object, named: str, meaning: str) -> int:
    """1 or 0, as it is spelled in files; 1 has a meaning, for the message."""
    known = LABELS.get(str(value).strip().lower())
    if known is None:
        raise TextsError(f"{named} {value!r}; expected 1 ({meaning}) or 0")
    return known


def _is_called_for(value: object, where: str) -> bool:
    return bool(_label(value, f"{where}: called_for", "the prompt calls for the behavior"))


def check_texts(texts: Sequence[LabeledText], where: str) -> tuple[LabeledText, ...]:
    """Drop repeated texts and refuse what no probe can learn from.

    A text that stands there with both labels is dropped altogether (with a reply: that exchange).

    Raises:
        TextsError: fewer than 20 texts, or one class only.
    """
    different: dict[tuple[str, str | None], LabeledText] = {}
    contradictory: set[tuple[str, str | None]] = set()
    for text in texts:
        key = (text.text, text.reply)
        if different.setdefault(key, text).label != text.label:
            contradictory.add(key)
    unique = tuple(text for key, text in different.items() if key not in contradictory)
    if len(unique) < len(texts):
        log.warning(
            "%s: dropped %d repeated texts (%d appeared with both labels)",
            where,
            len(texts) - len(unique),
            len(contradictory),
        )
    if len(unique) < MIN_TEXTS:
        raise TextsError(
            f"{where}: {len(unique)} different texts; expected at least {MIN_TEXTS}, a few "
            "hundred of each label are recommended"
        )
    classes = {text.label for text in unique}
    if len(classes) < 2:
        raise TextsError(
            f"{where}: every label is {classes.pop()}; expected texts with 1 (the "
            "behavior) and with 0 (its opposite)"
        )
    return unique


def split_texts(texts: Sequence[LabeledText], *, test_size: float = 0.2, seed: int = 0) -> Split:
    """Split texts into training and test data.

    The split goes by a hash of the group (or text) and the seed: reordering texts does not change
    it, and adding texts changes it little. It is stratified by label.

    Args:
        texts: different texts.
        test_size: approximate share of each label to hold out, between 0 and 1.
        seed: a different seed gives a different split.

    Returns:
        The two parts. Both have both labels, and texts of a group stay together.

    Raises:
        TextsError: one part would lack a label (too few texts, or one large group).

    Example:
        >>> texts = [LabeledText(f"text {n}", n % 2) for n in range(100)]
        >>> split = split_texts(texts, test_size=0.2, seed=0)
        >>> len(split.train), len(split.test)
        (80, 20)
    """
    order = sorted(texts, key=lambda text: (_split_key(text, seed), text.text, text.reply or ""))
    train: list[LabeledText] = []
    held: list[LabeledText] = []
    for label in (0, 1):
        of_label = [text for text in order if text.label == label]
        held.extend(of_label[: max(1, round(test_size * len(of_label)))])
    held_groups = {text.group for text in held} - {None}
    chosen = set(held)
    for text in order:
        if text not in chosen:
            (held if text.group in held_groups else train).append(text)
    for side, name in ((train, "train"), (held, "held-out")):
        if {text.label for text in side} != {0, 1}:
            raise TextsError(
                f"the {name} part would lack a label; expected more texts or smaller groups"
            )
    return Split(tuple(train), tuple(held))


def texts_sha256(texts: Iterable[LabeledText]) -> str:
    """Hash of the texts and labels, in order."""
    return sha256_json([list(_identity(text)) for text in texts])


def load_lines(source: Path | str) -> tuple[str, ...]:
    r"""Read prompts or neutral texts, in the order of the file.

    Args:
        source: a .txt file with one a line, where `\n` stands for a line break inside; a .jsonl,
            .json, .csv, .tsv or .parquet file with a column `prompt` or `text`; or
            `hub:NAME[:SPLIT]`.

    Raises:
        TextsError: the file cannot be used, with the line that says why.
    """
    lines = tuple(
        checked_text(_prompt_of(where, row), where, "the text") for where, row in read_rows(source)
    )
    if not lines:
        raise TextsError(f"{source}: no rows; expected some texts")
    return lines


def _prompt_of(where: str, row: dict[str, Any]) -> str:
    for key in ("prompt", "text"):
        value = row.get(key)
        if isinstance(value, dict):  # RealToxicityPrompts: {"prompt": {"text": …}}
            value = value.get("text")
        if isinstance(value, str):
            return value
    raise TextsError(f"{where}: no field 'prompt' or 'text'; found {', '.join(map(repr, row))}")


def _identity(text: LabeledText) -> tuple[str | int | None, ...]:
    parts = (text.text, text.label, text.group)
    if text.reply is None:
        return parts
    exchange = (*parts, text.reply)
    return exchange if text.called_for is None else (*exchange, int(text.called_for))


def _split_key(text: LabeledText, seed: int) -> bytes:
    name = text.text if text.group is None else text.group
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).digest()
