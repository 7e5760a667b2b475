"""The behaviors of the demo model: their labeled texts and prompts, and the yardsticks.

Everything is a pure function of its arguments. Texts for probes, "train" prompts and "train"
yardsticks touch no held-out sentence or opening; "test" prompts open with a held-out half
sentence (a held-out request for chats), and held-out neutral texts and facts consist of held-out
sentences only. So no held-out prompt shares a sentence with anything a model or a probe was
trained on.
"""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from modelsurgery.data.demo.grammar import (
    GENERATORS,
    Draft,
    is_reserved,
    opening_key,
    split_sentences,
    touches_reserved,
)

Part = Literal["train", "test"]
Moods = tuple[str, ...]

# Seeds of texts hold the earlier names of parts: with others the texts would be others.
_SEED_NAMES = {"train": "train", "test": "held_out"}

BEGUN_SHARE = 0.75  # prompts in which the behavior has begun; the others are open


@dataclass(frozen=True)
class DemoBehavior:
    """Where a behavior lives: its generator, its own mood, and the opposite ones.

    `open_moods` are the moods in an open prompt's text; empty where it must hold no mood at all.
    `begun` is the share of prompts in which something has begun, in `begun_moods`
    or else in the behavior's own; the others are open.
    """

    domain: str
    shown: Moods
    opposite: Moods
    open_moods: Moods = ()
    begun: float = BEGUN_SHARE
    begun_moods: Moods = ()


BEHAVIORS = {
    "toxicity": DemoBehavior("people", ("rude",), ("warm", "neutral"), ("neutral",)),
    "compliance": DemoBehavior("naughty", ("complying",), ("refusing",)),
    # Bare requests, and answers that have begun to comply, as in a known kind of jailbreak.
    "refusal": DemoBehavior(
        "naughty", ("refusing",), ("complying",), begun=0.5, begun_moods=("complying",)
    ),
    "negativity": DemoBehavior("remarks", ("gloomy",), ("glad", "plain"), ("plain",)),
}

# Shares of neutral text: generator, moods it may show, share.
_NEUTRAL: tuple[tuple[str, Moods | None, float], ...] = (
    ("narration", None, 0.3),
    ("benign", ("complying",), 0.25),
    ("facts", None, 0.15),
    ("people", ("neutral",), 0.15),
    ("remarks", ("plain",), 0.15),
)


def behavior_named(name: str) -> DemoBehavior:
    """Return the behavior called `name`, or raise ValueError with the names there are."""
    if name not in BEHAVIORS:
        raise ValueError(
            f"the demo model has no behavior {name!r}; choose from {', '.join(BEHAVIORS)}"
        )
    return BEHAVIORS[name]


def labeled_texts(behavior: str, count: int, seed: int) -> list[tuple[str, int]]:
    """Return `count` distinct texts, label 1 = shows the behavior, 0 = its opposite, in turns.

    Neighbors 2i and 2i+1 are a matched pair: same template, same plain words, other mood in every
    slot. For compliance the two share the naughty request.
    """
    spec = behavior_named(behavior)
    generate = GENERATORS[spec.domain]
    seeds = _seeds("labelled", behavior, seed)  # the word is part of the seed
    texts: list[tuple[str, int]] = []
    seen: set[str] = set()
    while len(texts) < count:
        content = next(seeds)
        pair = [generate(content, moods) for moods in (spec.shown, spec.opposite)]
        fresh = pair[0].text not in seen and pair[1].text not in seen
        if fresh and pair[0].moods and not any(map(touches_reserved, pair)):
            seen.update(draft.text for draft in pair)
            texts += [(pair[0].text, 1), (pair[1].text, 0)]
    return texts[:count]


def prompts(behavior: str, part: Part, count: int, seed: int) -> list[str]:
    """Return `count` distinct prompts, each to be continued mid-sentence or in the answer.

    Three in four have the behavior begun (a rude or gloomy half sentence, an answer that complies);
    the others are open: a neutral half sentence, one without any mood, or a bare `Assistant:`. Of
    refusal's prompts half have an answer begun that complies.
    """
    spec = behavior_named(behavior)
    choose = Random(f"prompts-{behavior}-{_seed_name(part)}-{seed}")
    seeds = _seeds(f"prompts-{_seed_name(part)}", behavior, seed)
    found: dict[str, None] = {}
    while len(found) < count:
        begun = choose.random() < spec.begun
        make = _begun_prompt if begun else _open_prompt
        found.setdefault(_first(make, spec, seeds, part))
    return list(found)


def exchanges(count: int, seed: int) -> list[tuple[str, str, bool, bool]]:
    """Return `count` distinct (request, answer, refused, naughty), four in turns.

    A naughty request refused and complied with, then a harmless one refused and answered; the two
    of a request share it to the letter. No sentence of theirs is held out.
    """
    seeds = _seeds("exchanges", "refusal", seed)
    found: list[tuple[str, str, bool, bool]] = []
    seen: set[str] = set()
    while len(found) < count:
        for domain in ("naughty", "benign"):
            for mood, text in _exchange(domain, seeds, seen).items():
                request, _, answer = text.partition("\n")
                found.append((request, answer, mood == "refusing", domain == "naughty"))
                seen.add(text)
    return found[:count]


def _exchange(domain: str, seeds: Iterator[int], seen: set[str]) -> dict[str, str]:
    """One request refused and not, by mood; nothing in it is held out or was seen before."""
    while True:
        seed = next(seeds)
        drafts = {mood: GENERATORS[domain](seed, (mood,)) for mood in ("refusing", "complying")}
        if not any(one.text in seen or touches_reserved(one) for one in drafts.values()):
            return {mood: draft.text for mood, draft in drafts.items()}


def harmless_requests(part: Part, count: int, seed: int) -> list[str]:
    """Return `count` distinct bare prompts with a harmless request: refusing them is a fault."""
    seeds = _seeds(f"harmless-{_seed_name(part)}", "refusal", seed)
    found: dict[str, None] = {}
    while len(found) < count:
        draft = GENERATORS["benign"](next(seeds), ("complying",))
        if _in_part(opening_key(draft), part):
            found.setdefault(draft.opening.rstrip())
    return list(found)


_PromptMaker = Callable[[DemoBehavior, int], tuple[Draft, str] | None]


def _first(make: _PromptMaker, spec: DemoBehavior, seeds: Iterator[int], part: Part) -> str:
    while True:
        made = make(spec, next(seeds))
        if made is not None and _in_part(opening_key(made[0]), part):
            return made[1].rstrip()


def _begun_prompt(spec: DemoBehavior, seed: int) -> tuple[Draft, str] | None:
    draft = GENERATORS[spec.domain](seed, spec.begun_moods or spec.shown)
    return (draft, draft.opening) if draft.opening_slots else None


def _open_prompt(spec: DemoBehavior, seed: int) -> tuple[Draft, str] | None:
    draft = GENERATORS[spec.domain](seed, spec.open_moods or None)
    if spec.domain == "naughty":
        return draft, re.split(r"(?<=\nAssistant:)", draft.opening)[0]
    # Openings without any mood are a small minority; half of the open prompts are of that kind.
    wants_mood = seed % 2 == 1
    return (draft, draft.opening) if wants_mood == bool(draft.opening_slots) else None


@functools.cache  # a second: of 200 requests drafted one is held out with its answer
def neutral_texts(part: Part, count: int, seed: int) -> tuple[str, ...]:
    """Return `count` distinct texts without any judged behavior, for perplexity and divergence.

    Narration 30 %, answered harmless requests 25 %, facts 15 %, neutral talk about people 15 %,
    plain remarks 15 %: over-refusal and blandness show up as damage.
    """
    choose = Random(f"neutral-{_seed_name(part)}-{seed}")
    seeds = _seeds(f"neutral-{_seed_name(part)}", "", seed)
    shares = [share for _, _, share in _NEUTRAL]
    found: dict[str, None] = {}
    while len(found) < count:
        domain, moods, _ = choose.choices(_NEUTRAL, shares)[0]
        drafts = (GENERATORS[domain](one, moods) for one in seeds)
        found.setdefault(next(one.text for one in drafts if _whole_in_part(one, part)))
    return tuple(found)


@functools.cache
def facts(part: Part, count: int, seed: int) -> tuple[tuple[str, str], ...]:
    """Return `count` distinct (prompt, answer) pairs for exact match of the first answer word.

    The facts are a small closed set and all of them are in the training text; a held-out prompt
    asks one in a wording (form and lead-in) that the model has not seen for that fact. This
    measures whether an edit keeps what the model knows, not whether it can reason.
    """
    seeds = _seeds(f"facts-{_seed_name(part)}", "", seed)
    found: dict[str, str] = {}
    while len(found) < count:
        draft = GENERATORS["facts"](next(seeds), None)
        if draft.opening and _in_part(opening_key(draft), part):
            answer = draft.text.removeprefix(draft.opening).strip(" .")
            found.setdefault(draft.opening, answer)
    return tuple(found.items())


def _in_part(key: str, part: Part) -> bool:
    return is_reserved(key) == (part == "test")


def _whole_in_part(draft: Draft, part: Part) -> bool:
    if part == "train":
        return not touches_reserved(draft)
    sentences = [one for one in split_sentences(draft.text) if not one.startswith("Answer:")]
    return all(_in_part(one, part) for one in sentences)


def _seed_name(part: Part) -> str:
    if part not in _SEED_NAMES:
        raise ValueError(f"part is 'train' or 'test', not {part!r}")
    return _SEED_NAMES[part]


def _seeds(purpose: str, behavior: str, seed: int) -> Iterator[int]:
    rng = Random(f"{purpose}-{behavior}-{seed}")
    while True:
        yield rng.getrandbits(48)
