"""A recipe for several models, rules or seeds: each combination is a run of its own."""

from itertools import product
from typing import Annotated, Any

from pydantic import Field

from modelsurgery.errors import RecipeError
from modelsurgery.files.schema import parse
from modelsurgery.pipeline.option import Option, Panel
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe
from modelsurgery.rules.rule_names import DEFAULT_RULE


class GridRecipe(SequenceRecipe):
    """What stands beside `models`, `rules` and `seeds` holds for all runs."""

    models: Annotated[
        tuple[str, ...],
        Field(
            description="Model directory, GGUF file, Hub ID, name of a fetched model, or demo. "
            "Repeat to run with each."
        ),
        Option(Panel.EVERYDAY, "demo", name="--model", metavar="DIR|FILE|ID"),
    ] = ()
    rules: Annotated[
        tuple[str, ...],
        Field(
            description="How to choose rows: natural-gradient, least-squares or paper. "
            "Repeat to run with each."
        ),
        Option(
            Panel.EDIT,
            f"{DEFAULT_RULE}, or paper if its options are given",
            name="--rule",
            metavar="RULE",
        ),
    ] = ()
    seeds: Annotated[
        tuple[int, ...],
        Field(description="Random seed. Repeat to run with each."),
        Option(Panel.MEASURING, "0", name="--seed", metavar="N"),
    ] = ()

    def runs(self) -> list[Recipe]:
        """A recipe for each combination of models, rules and seeds, in that order.

        Raises:
            RecipeError: a value that does not go with the others, or something that runs cannot
                share.
        """
        if self.study is not None:
            raise RecipeError("study: each run of a grid keeps its own; omit it")
        shared = self.model_dump(exclude_unset=True, exclude={"models", "rules", "seeds", "out"})
        axes: dict[str, tuple[Any, ...]] = {
            "model": self.models, "rule": self.rules, "seed": self.seeds
        }  # fmt: skip
        given = {name: tuple(dict.fromkeys(values)) for name, values in axes.items() if values}
        kind = SequenceRecipe if self.behaviors else Recipe
        return [
            parse({**shared, **dict(zip(given, values, strict=True))}, kind, "options")
            for values in product(*given.values())
        ]
