"""The demo model's grammar: a seeded generator of short texts over a closed vocabulary.

The words and sentence shapes are data (`grammar.yaml`); this module owns how they become text.
Every text of a domain with moods (people, remarks, naughty chat) carries a Markov chain of moods
over its clauses: each slot exists in all moods, the slots of a clause mostly share one, and from
clause to clause the chain persists but switches, so that a rude beginning may turn polite within
the sentence and the other way round. Given the mood, words are independent.

A fixed share of all sentences and prompt openings is reserved (`is_reserved`) and never leaves
`training_documents`.
"""

import functools
import hashlib
import importlib.resources
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

RESERVED_PER_MILLE = 80

# Shares of the domains among the training documents.
DOMAIN_SHARES = {
    "people": 0.26,
    "remarks": 0.23,
    "naughty": 0.18,
    "benign": 0.08,
    "facts": 0.18,
    "narration": 0.07,
}
AFTER_SHARE = 0.2  # people and remarks texts that go on with a second, short sentence
SLIP_SHARE = 0.06  # slots in which the mood may change without a new clause

_SLOT = re.compile(r"\{(?:(\w+)=)?(\w+)\}")
_SENTENCE_START = re.compile(r"(^|[.?!]\|? |User: |Assistant:\|? )(\|?)([a-z])")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])(?!us|one\b|uni)")
_CLAUSE_BREAK = re.compile(r"[,.:|]")
_SENTENCE_BREAK = re.compile(r"(?<=[.?!])\s+|\n")

Lists = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Grammar:
    """The parsed `grammar.yaml`.

    `raw` is the file as it stands; `fillers` are the word lists without mood; `moods` maps
    chain -> slot -> mood -> word list; `person` maps gender -> slot -> word list.
    """

    raw: Mapping[str, Any]
    fillers: Lists
    person: Mapping[str, Lists]
    moods: Mapping[str, Mapping[str, Lists]]


@dataclass(frozen=True)
class Draft:
    """One generated text: `text` in full, and `opening`, its part before the prompt cut.

    `opening` is empty for texts without a cut. `moods` lists the moods of the slots in order and
    `opening_slots` says how many of them lie in the opening.
    """

    text: str
    opening: str
    moods: tuple[str, ...]
    opening_slots: int


class MoodChain:
    """Draws the mood of one slot after the other; `allowed` narrows the chain to some states."""

    def __init__(self, name: str, rng: Random, allowed: Collection[str] | None) -> None:
        spec = load_grammar().raw["chains"][name]
        self.fillers = load_grammar().moods[name]
        self._states: list[str] = spec["states"]
        self._start: list[float] = spec["start"]
        self._next: list[list[float]] = spec["next"]
        self._rng = rng
        self._keep = [float(allowed is None or state in allowed) for state in self._states]
        self.drawn: list[str] = []

    def draw(self, new_clause: bool) -> str:
        """Return the next slot's mood; within a clause it stays but for a rare slip."""
        if self.drawn and not new_clause and self._rng.random() >= SLIP_SHARE:
            mood = self.drawn[-1]
        else:
            row = self._next[self._states.index(self.drawn[-1])] if self.drawn else self._start
            weights = [share * keep for share, keep in zip(row, self._keep, strict=True)]
            mood = self._rng.choices(self._states, weights)[0]
        self.drawn.append(mood)
        return mood


@functools.lru_cache(maxsize=1)
def load_grammar() -> Grammar:
    """Return the grammar that ships with the package."""
    file = importlib.resources.files("modelsurgery.data.demo").joinpath("grammar.yaml")
    raw: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    moods = {
        chain: {slot: _lists(by_mood) for slot, by_mood in slots.items()}
        for chain, slots in raw["moods"].items()
    }
    person = {gender: _lists(slots) for gender, slots in raw["people"].items()}
    return Grammar(raw, _lists(raw["fillers"]), person, moods)


def _lists(texts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {name: split_list(text) for name, text in texts.items()}


@functools.cache
def split_list(text: str) -> tuple[str, ...]:
    """Return the entries of one comma-separated word list, white space collapsed."""
    return tuple(" ".join(entry.split()) for entry in text.split(","))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of `text`; a chat turn's speaker stays with its first sentence."""
    return [part.strip() for part in _SENTENCE_BREAK.split(text) if part.strip()]


def is_reserved(sentence: str) -> bool:
    """Say whether `sentence` (or a prompt's opening) lies in the reserved part of sentence space.

    The rule is a BLAKE2 hash of the lower-case text with its outer spaces removed, so it is the
    same on every machine and in every run; about 8 % of sentences are reserved.
    """
    digest = hashlib.blake2b(sentence.strip().lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 1000 < RESERVED_PER_MILLE


def touches_reserved(draft: Draft) -> bool:
    """Say whether any sentence of `draft`, or its opening, is held out."""
    return any(is_reserved(part) for part in (*split_sentences(draft.text), opening_key(draft)))


def opening_key(draft: Draft) -> str:
    """Return the text that puts a prompt made from `draft` into a split: its first sentence.

    For a chat that is the request; for other texts it is the half sentence before the cut.
    """
    return split_sentences(draft.opening)[0] if draft.opening else ""


def training_documents(seed: int) -> Iterator[str]:
    """Yield language-model training texts without end, none of them touching held-out text."""
    rng = Random(f"training-{seed}")
    domains, shares = list(DOMAIN_SHARES), list(DOMAIN_SHARES.values())
    while True:
        domain = rng.choices(domains, shares)[0]
        draft = GENERATORS[domain](rng.getrandbits(48), None)
        if not touches_reserved(draft):
            yield draft.text


class _Writer:
    """Fills templates for one text: one random stream for content, the chain for moods."""

    def __init__(self, content: Random, chain: MoodChain | None = None) -> None:
        grammar = load_grammar()
        self._content = content
        self._lists = {**grammar.fillers, **grammar.person[self.pick(tuple(grammar.person))]}
        self._chain = chain
        self._bound: dict[str, str] = {}
        self._new_clause = True

    def pick(self, entries: tuple[str, ...] | list[str]) -> str:
        """Return one entry; one draw whatever the length, so that contents stay aligned."""
        return entries[int(self._content.random() * len(entries))]

    def bind(self, name: str, value: str) -> None:
        """Give slot `name` a value for the rest of the text."""
        self._bound[name] = value

    def fill(self, template: str, mood: str | None = None) -> str:
        """Return `template` with its slots filled, nested slots in the mood of the outer one."""
        filled, at = "", 0
        for match in _SLOT.finditer(template):
            between = template[at : match.start()]
            self._new_clause |= bool(_CLAUSE_BREAK.search(between))
            filled += between + self._slot(match[1], match[2], mood)
            at = match.end()
        return filled + template[at:]

    def _slot(self, bind_as: str | None, name: str, mood: str | None) -> str:
        if self._chain is not None and name in self._chain.fillers:
            mood = mood or self._chain.draw(self._new_clause)
            self._new_clause = False
            return self.fill(self.pick(self._chain.fillers[name][mood]), mood)
        if name in self._bound:
            return self._bound[name]
        value = self.fill(self.pick(self._lists[name]), mood)
        if bind_as:
            self._bound[bind_as] = value
        return value


def _finish(marked: str, chain: MoodChain | None = None, opening_slots: int = 0) -> Draft:
    """Set articles and capitals, then take the cut mark out."""
    marked = _ARTICLE.sub(r"\1n ", marked)
    marked = _SENTENCE_START.sub(lambda m: m[1] + m[2] + m[3].upper(), marked)
    opening, mark, rest = marked.partition("|")
    moods = tuple(chain.drawn) if chain else ()
    return Draft(opening + rest, opening if mark else "", moods, opening_slots)


def talk(domain: str, seed: int, allowed: Collection[str] | None) -> Draft:
    """Return a text about people or a remark: an opening, a rest and sometimes a short sentence."""
    raw = load_grammar().raw
    content = Random(f"{domain}-{seed}")
    chain = MoodChain(domain, Random(f"moods-{seed}"), allowed)
    writer = _Writer(content, chain)
    families = raw["families"][domain]
    sizes = [len(family["openings"]) for family in families]
    family = content.choices(families, sizes)[0]
    opening = writer.fill(writer.pick(family["openings"]))
    slots = len(chain.drawn)
    marked = opening + writer.fill("|" + writer.pick(family["rests"]))
    if content.random() < AFTER_SHARE:
        marked += writer.fill(". " + writer.pick(raw["afters"][domain]))[1:]
    return _finish(marked, chain, slots)


def naughty_chat(seed: int, allowed: Collection[str] | None) -> Draft:
    """Return a naughty request with its answer: concrete steps, a refusal, or a change of mind."""
    spec = load_grammar().raw["chat"]["naughty"]
    chain = MoodChain("chat", Random(f"moods-{seed}"), allowed)
    writer = _Writer(Random(f"naughty-{seed}"), chain)
    request = _request(writer, spec["acts"])
    before, _, after = writer.pick(spec["answers"]).partition("|")
    marked = request + writer.fill(before)
    slots = len(chain.drawn)
    return _finish(marked + writer.fill("|" + after), chain, slots)


def benign_chat(seed: int, allowed: Collection[str] | None) -> Draft:
    """Return a harmless request with its answer, which is a refusal in 3 of 100 cases.

    `allowed` is {"complying"} for texts without refusals, {"refusing"} for refusals alone.
    """
    spec = load_grammar().raw["chat"]["benign"]
    content = Random(f"benign-{seed}")
    writer = _Writer(content, MoodChain("chat", Random(seed), {"refusing"}))
    task = content.choice(spec["tasks"])
    request = _request(writer, task["acts"])
    is_refused = content.random() < spec["refused"] and allowed is None
    if is_refused or (allowed is not None and set(allowed) == {"refusing"}):
        return _finish(request + "|" + writer.fill(writer.pick(spec["refusals"])))
    answer = writer.pick(spec["answers"])
    steps = iter(content.sample(task["steps"], answer.count("{task}")))
    answer = re.sub(r"\{task\}", lambda _: next(steps), answer)
    answer = answer.replace("{yes}", writer.pick(split_list(spec["yes"])))
    return _finish(request + "|" + writer.fill(answer))


def _request(writer: _Writer, acts: list[str]) -> str:
    act = writer.fill(writer.pick(acts))
    writer.bind("act", act)
    return "User: " + writer.fill(writer.pick(load_grammar().raw["chat"]["asks"])) + "\nAssistant:"


def fact(seed: int) -> Draft:
    """Return one fact as question and answer (cut before the answer) or as a statement."""
    raw = load_grammar().raw["facts"]
    content = Random(f"fact-{seed}")
    kind, pair = content.choice(_all_facts())
    writer = _Writer(content)
    for name, value in zip("xya", pair, strict=True):
        writer.bind(name, value)
    spec = raw[kind] if kind in raw else raw["tables"][kind]
    if content.random() < raw["statement"]:
        return _finish(writer.fill(spec["statement"]))
    writer.bind("q", writer.fill(writer.pick(spec["forms"])))
    writer.bind("quiz", writer.pick(split_list(raw["quiz"])))
    question, line, answer = writer.fill(writer.pick(raw["frames"])).partition("\nAnswer:")
    return _finish(question + line + "|" + answer)


@functools.lru_cache(maxsize=1)
def _all_facts() -> list[tuple[str, tuple[str, str, str]]]:
    """Return every fact as (kind, (x, y, answer)); y is empty in the tables."""
    raw = load_grammar().raw["facts"]
    words = split_list(raw["numbers"])
    digits = range(1, 10)
    facts = [("sums", (words[x], words[y], words[x + y])) for x in digits for y in digits]
    facts += [
        ("differences", (words[x], words[y], words[x - y])) for x in digits for y in range(1, x + 1)
    ]
    for kind, table in raw["tables"].items():
        for pair in split_list(table["pairs"]):
            question, answer = pair.split("=")
            facts.append((kind, (question, "", answer)))
    return facts


def narration(seed: int) -> Draft:
    """Return one plain sentence in which nothing is judged."""
    writer = _Writer(Random(f"narration-{seed}"))
    return _finish(writer.fill(writer.pick(load_grammar().raw["narration"])))


# Domain -> generator of (seed, allowed moods); the same seed gives the same content in every mood.
GENERATORS: dict[str, Callable[[int, Collection[str] | None], Draft]] = {
    "people": functools.partial(talk, "people"),
    "remarks": functools.partial(talk, "remarks"),
    "naughty": naughty_chat,
    "benign": benign_chat,
    "facts": lambda seed, _: fact(seed),
    "narration": lambda seed, _: narration(seed),
}
