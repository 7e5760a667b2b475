"""Answers of base and edited model in pairs: what became of each prompt, the worst first.

Read from the `samples` of a run directory, which `surgery run`, `tune` and `evaluate` write. What
is better or worse is the judge's word, seen in the direction of the surgery: away from a behavior,
an answer that shows it and did not before is worse. So is an empty one where there was an answer.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from rich.console import Console
from rich.text import Text

from modelsurgery.errors import ArtifactError, RecipeError
from modelsurgery.report.lines import print_line
from modelsurgery.report.masking import is_rough, masked_sides
from modelsurgery.report.untrusted import in_one_line
from modelsurgery.results.parts import Direction

Change = Literal["worse", "changed", "better", "same"]
CHANGES: tuple[Change, ...] = get_args(Change)  # in the order in which they are shown
WORDS = re.compile(r"\s*\S+|\s+")
SHARED_AT_LEAST = 0.2  # of two answers; where they have less in common, marks would be noise
STYLES = {"worse": "bold red", "changed": "yellow", "better": "green", "same": "dim"}


@dataclass(frozen=True)
class Pair:
    """What both models said to one prompt."""

    set: str  # prompt set, or the kind of decoding: the name of the file of samples
    prompt: str
    seed: int | None  # of sampling; None is greedy
    base: str
    edited: str
    base_verdict: str  # the judge's; empty where it said nothing
    edited_verdict: str
    change: Change

    @property
    def severity(self) -> int:
        """How bad a change for the worse is: 3 from the opposite, 2 from neither, 1 no answer."""
        if self.edited_verdict == "failed":
            return 1
        return 3 if {self.base_verdict, self.edited_verdict} == {"behavior", "opposite"} else 2

    @property
    def is_base_rough(self) -> bool:
        """Whether the base model's answer shows the behavior, or nobody could judge it."""
        return is_rough(self.base_verdict)

    @property
    def is_edited_rough(self) -> bool:
        """The same of the edited model's answer."""
        return is_rough(self.edited_verdict)

    def masked(self) -> "Pair":
        """The pair with a dot for each letter of a rough answer, and of the prompt beside one."""
        prompt, base, edited = masked_sides(
            self.prompt, self.base, self.edited, self.base_verdict, self.edited_verdict
        )
        return replace(self, prompt=prompt, base=base, edited=edited)


@dataclass(frozen=True)
class Pairs:
    """All pairs of a run directory, or some of them."""

    directory: Path
    direction: Direction  # of the surgery
    counts: dict[Change, int]  # how many pairs of the whole run changed in which way
    pairs: tuple[Pair, ...]  # worst first

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "directory": str(self.directory)}

    def first(self, limit: int | None) -> "Pairs":
        """At most so many of the pairs; None and 0 leave them all."""
        return replace(self, pairs=self.pairs[: limit or None])

    def masked(self) -> "Pairs":
        """The same with masked pairs."""
        return replace(self, pairs=tuple(one.masked() for one in self.pairs))

    def chosen(
        self,
        *,
        only: Iterable[str] = (),
        sets: Iterable[str] = (),
        search: str | None = None,
    ) -> "Pairs":
        """Some of the pairs, in the same order.

        `only` are kinds of change and `sets` names of prompt sets; none takes all. `search` is text
        that prompt or answers must hold, whatever its case.

        Raises:
            RecipeError: no such kind of change, or no such set.
        """
        wanted, places = _known("--only", only, CHANGES), {one.set for one in self.pairs}
        of_sets = _known("--set", sets, sorted(places))
        needle = (search or "").casefold()
        kept = (
            one
            for one in self.pairs
            if one.change in wanted
            and one.set in of_sets
            and any(needle in text.casefold() for text in (one.prompt, one.base, one.edited))
        )
        return replace(self, pairs=tuple(kept))


def read_pairs(directory: Path, direction: Direction | None = None) -> Pairs:
    """All pairs of what `surgery run`, `tune` or `evaluate` wrote, worst regressions first.

    Within a kind of change, what changed most comes first, then prompts that got worse in the
    larger part of their samples, then the order of the prompts. Without a direction the one that
    the run's recipe says is taken.

    Raises:
        ArtifactError: no such directory, no pairs in it, or a file that cannot be read.
    """
    files = sorted((directory / "samples").glob("*.jsonl"))
    if not files:
        raise ArtifactError(
            f"{directory}: no samples found; expected a finished run directory of `surgery run`, "
            "`tune` or `evaluate` (for several behaviors, the directory of one of them)"
        )
    meant = direction or _recorded_direction(directory)
    found = [pair for file in files for pair in _pairs_of(file, meant)]
    if not found:
        raise ArtifactError(
            f"{directory}: no answers of an edited model found; measure one with `surgery "
            "evaluate MODEL --edit FILE`"
        )
    counts: dict[Change, int] = {kind: sum(one.change == kind for one in found) for kind in CHANGES}
    return Pairs(directory, meant, counts, tuple(_worst_first(found)))


def changed_words(base: str, edited: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces, each with whether the other text has it not.

    Texts that share next to nothing come in one piece, unmarked.

    >>> changed_words("you are mean", "you are kind")[1]
    [('you are', False), (' ', False), ('kind', True)]
    """
    before, after = WORDS.findall(base), WORDS.findall(edited)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < SHARED_AT_LEAST:
        return [(base, False)], [(edited, False)]
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for pieces, words in ((left, before[start:end]), (right, after[other_start:other_end])):
            pieces += _pieces("".join(words), kind != "equal")
    return left, right


def _pieces(text: str, is_new: bool) -> list[tuple[str, bool]]:
    """A run of words; the space before words that are marked is not."""
    words = text.lstrip() if is_new else text
    space = text.removesuffix(words) if words else text
    return [one for one in ((space, False), (words, is_new)) if one[0]]


def print_pairs(shown: Pairs, console: Console, *, limit: int) -> None:
    """Print pairs with the words marked that changed, at most so many; 0 prints all."""
    print_line(summary(shown), console, "bold")
    few = shown.first(limit).pairs
    for one in few:
        verdicts = f"{one.base_verdict or 'unjudged'}, then {one.edited_verdict or 'unjudged'}"
        where = one.set if one.seed is None else f"{one.set}, seed {one.seed}"
        change = (f"{one.change:<8}", STYLES[one.change])
        console.print()
        console.print(Text.assemble(change, (f"{verdicts} ({where})", "dim")))
        console.print(Text.assemble(("prompt  ", "bold"), in_one_line(one.prompt)))
        sides = changed_words(in_one_line(one.base), in_one_line(one.edited))
        for name, color, pieces in zip(("base", "edited"), ("red", "green"), sides, strict=True):
            marked = [(text, f"bold {color}" if is_new else "") for text, is_new in pieces]
            console.print(Text.assemble((f"{name:<8}", "bold"), *marked))
    more = len(shown.pairs) - len(few)
    if more:
        console.print()
        print_line(f"and {more:,} more; --limit 0 shows all", console, "dim")


def summary(shown: Pairs) -> str:
    """How many pairs changed in which way, in one line."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in shown.counts.items())
    total = sum(shown.counts.values())
    chosen = "" if len(shown.pairs) == total else f"; {len(shown.pairs):,} of them selected"
    wish = "away from" if shown.direction == "away" else "toward"
    return f"{total:,} pairs of answers, {wish} the behavior: {counts}{chosen}"


def _known(option: str, given: Iterable[str], known: Sequence[str]) -> Sequence[str]:
    wanted = list(given)
    for one in wanted:
        if one not in known:
            raise RecipeError(f"{option} {one[:60]!r}; expected some of {', '.join(known)}")
    return wanted or known


def _recorded_direction(directory: Path) -> Direction:
    """What the recipe of a run, or the behavior of an evaluation, says; else away."""
    try:
        recipe = yaml.safe_load((directory / "recipe.resolved.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return "away"
    found = recipe if isinstance(recipe, dict) else {}
    if isinstance(found.get("behavior"), dict):
        found = found["behavior"]
    return "toward" if found.get("direction") == "toward" else "away"


def _pairs_of(file: Path, direction: Direction) -> Iterator[Pair]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be read ({error}); run the surgery again") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            pair = _pair_of(json.loads(line), file.stem, direction)
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise ArtifactError(
                f"{file}, line {number}: not a sample of base and edited model; run it again"
            ) from error
        if pair is not None:
            yield pair


def _pair_of(row: Any, name: str, direction: Direction) -> Pair | None:
    """A line of a run or of an evaluation; None where no edited model answered."""
    if not isinstance(row, Mapping):
        raise TypeError("a JSON object is expected")
    if row.get("edited") is None:
        return None
    (base, before), (edited, after) = (_side(row, side) for side in ("base", "edited"))
    seed = row.get("seed")
    return Pair(
        name,
        str(row["prompt"]),
        None if seed is None else int(seed),
        base,
        edited,
        before,
        after,
        _change(base, edited, before, after, direction),
    )


def _side(row: Mapping[str, Any], side: str) -> tuple[str, str]:
    """Text and verdict."""
    said = row[side]
    if isinstance(said, Mapping):
        return str(said["text"]), str(said.get("verdict") or "")
    return str(said), str(row.get(f"{side}_verdict") or "")


def _change(base: str, edited: str, before: str, after: str, direction: Direction) -> Change:
    if base == edited:
        return "same"
    if after == "failed":
        return "worse"
    shows, known = "behavior", ("behavior", "opposite", "neither")
    if before in known and after in known and (before == shows) != (after == shows):
        return "better" if (before == shows) == (direction == "away") else "worse"
    return "changed"


def _worst_first(pairs: Sequence[Pair]) -> list[Pair]:
    samples: dict[tuple[str, str], list[Change]] = {}
    for one in pairs:
        samples.setdefault((one.set, one.prompt), []).append(one.change)

    def key(one: Pair) -> tuple[int, int, float]:
        changes = samples[one.set, one.prompt]
        worse = (changes.count("worse") - changes.count("better")) / len(changes)
        return CHANGES.index(one.change), -one.severity, -worse

    return sorted(pairs, key=key)
