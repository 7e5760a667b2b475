"""A choice of rows that is stable and takes kinds evenly."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence


def evenly(
    keys: Sequence[str],
    limit: int | None = None,
    *,
    kinds: Sequence[Hashable] | None = None,
    per_kind: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Numbers of at most `limit` rows, as many of each kind as can be, one of each in turn.

    A hash of key and seed decides inside a kind and between kinds, so that a longer list of rows
    changes little; rows with equal keys are told apart by their number.

    Args:
        keys: what each row is known by.
        limit: rows at most; None takes all.
        kinds: the kind of each row; None makes them all of one kind.
        per_kind: rows of a kind at most; None takes all.
        seed: of the hash.
    """

    def order(number: int) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}\0{keys[number]}".encode()).digest(), number

    seen: Counter[Hashable] = Counter()
    ranked = []  # (how many of its kind come first, place in the order of the hash, number)
    for rank, number in enumerate(sorted(range(len(keys)), key=order)):
        kind = None if kinds is None else kinds[number]
        if per_kind is None or seen[kind] < per_kind:
            ranked.append((seen[kind], rank, number))
        seen[kind] += 1
    return [number for _, _, number in sorted(ranked)[:limit]]
