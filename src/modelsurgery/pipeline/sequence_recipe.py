"""A recipe for several behaviors in order."""

from typing import Annotated, Any

from pydantic import AliasChoices, Field

from modelsurgery.errors import RecipeError
from modelsurgery.files.schema import parse
from modelsurgery.pipeline.option import Option, Panel
from modelsurgery.pipeline.recipe import Recipe


class SequenceRecipe(Recipe):
    """Several behaviors in order, each edit made on the model that has the ones before.

    What stands beside `behaviors` holds for all of them.
    """

    behaviors: Annotated[
        tuple[str | dict[str, Any], ...],
        Field(
            description="Built-in behavior, or the path of a behavior file (YAML). Repeat to edit "
            "for several behaviors in order."
        ),
        Option(
            Panel.EVERYDAY,
            "toxicity, unless --texts is given",
            name="--behavior",
            metavar="NAME|FILE",
        ),
    ] = ()

    def steps(self) -> list[Recipe]:
        """One recipe a behavior, without the edits of those before.

        Raises:
            RecipeError: a key that is unknown, or does not belong in a step.
        """
        shared = self.model_dump(exclude_unset=True, exclude={"behaviors", "out"})
        recipes = []
        for entry in self.behaviors:
            given = {"behavior": entry} if isinstance(entry, str) else entry
            own = {_current_name(key): value for key, value in given.items()}
            for key in ("model", "edits", "out", "study"):
                if key in own:
                    raise RecipeError(f"behaviors: {key!r} belongs beside them, not in one of them")
            recipes.append(parse({**shared, **own}, Recipe, f"behaviors: {own.get('behavior')}"))
        return recipes


def _current_name(key: str) -> str:
    """The field of a recipe that a key is read as, under an earlier name too."""
    for name, field in Recipe.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices) and key in alias.choices:
            return name
    return key
