"""How many texts, prompts and samples a run takes, and in which order they become fewer."""

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields, replace

from modelsurgery.pipeline.recipe import Recipe

# What is made smaller, one after the other, until a run fits its time. First what a reader misses
# least; the last entry of each name is its least.
SMALLER: tuple[tuple[str, int], ...] = (
    ("doses", 5),
    ("samples", 2),
    ("neutral_texts", 200),
    ("validation_prompts", 100),
    ("samples", 1),
    ("prompt_count", 200),
    ("neutral_texts", 100),
    ("validation_prompts", 60),
    ("doses", 3),
    ("prompt_count", 120),
    ("train_texts", 100),
    ("validation_prompts", 40),
    ("prompt_count", 80),
    ("neutral_texts", 50),
    ("train_texts", 50),
    ("prompt_count", 40),
    ("train_texts", 25),
)
NAMES = {
    "doses": "strengths of the curve",
    "samples": "samples per prompt",
    "validation_prompts": "validation prompts",
    "prompt_count": "held-out prompts",
    "neutral_texts": "neutral texts",
    "train_texts": "texts per label to fit the edit to",
}


@dataclass(frozen=True)
class Sizes:
    """How much a run takes of everything."""

    # Texts of each label that the edit is made from; None takes what the rule does.
    train_texts: int | None = None
    prompt_count: int = 300  # held-out prompts, at most
    validation_prompts: int = 300  # prompts that choices are made on, at most
    samples: int = 3  # sampled continuations of a held-out prompt
    doses: int = 8  # strengths of the dose-response curve
    # That the damage is measured on, at most, of the held-out and of the others.
    neutral_texts: int = 400

    @classmethod
    def of(cls, recipe: Recipe) -> "Sizes":
        """What a recipe says, and full sizes for what it leaves open."""
        return replace(cls(), **{name: getattr(recipe, name) for name in given(recipe)})

    def settle(self, recipe: Recipe) -> Recipe:
        """The recipe with these sizes."""
        return recipe.model_copy(update=asdict(self))

    def smaller(self, kept: frozenset[str], most: "Sizes") -> Iterator["Sizes"]:
        """Ever smaller sizes, beginning with these; what `kept` names stays as it is.

        There is no more than `most` of everything, so a size above that makes nothing smaller.
        """
        found = self
        yield found
        for name, value in SMALLER:
            if name not in kept and value < getattr(found.within(most), name):
                found = replace(found, **{name: value})
                yield found

    def within(self, most: "Sizes") -> "Sizes":
        """What is used of these sizes where there is no more than `most` of everything."""
        pairs = zip(astuple(self), astuple(most), strict=True)
        return Sizes(*(there if size is None else min(size, there) for size, there in pairs))

    def reductions(self, full: "Sizes", most: "Sizes") -> dict[str, tuple[int, int]]:
        """What is smaller than in full sizes: how much that would be, and how much it is."""
        whole = asdict(full.within(most))
        return {
            name: (whole[name], size)
            for name, size in asdict(self).items()
            if size is not None and size < whole[name]
        }


SETTLED = tuple(one.name for one in fields(Sizes))  # what a run decides where its recipe does not


def given(recipe: Recipe) -> frozenset[str]:
    """Names of the sizes that a recipe says."""
    return frozenset(name for name in SETTLED if getattr(recipe, name) is not None)
