"""A recipe for several behaviors: in order, or all of them by one edit."""

from typing import Annotated, Any

from pydantic import AliasChoices, Field

from modelsurgery.errors import RecipeError
from modelsurgery.files.schema import parse
from modelsurgery.pipeline.option import Option, Panel
from modelsurgery.pipeline.recipe import Recipe


class SequenceRecipe(Recipe):
    """Several behaviors in order, each edit made on the model that has the ones before.

    Or all of them at once, by one edit. What stands beside `behaviors` holds for all of them.
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
    at_once: Annotated[
        bool,
        Field(description="Make one edit for all behaviors, not one after the other."),
        Option(Panel.EDIT),
    ] = False

    @property
    def weights(self) -> tuple[float, ...]:
        """What each behavior counts for in one edit for all."""
        return tuple(
            1.0 if isinstance(one, str) else float(one.get("weight", 1.0)) for one in self.behaviors
        )

    def recipes(self) -> list[Recipe]:
        """One recipe a behavior, without the edits of those before.

        Raises:
            RecipeError: a key that is unknown, or does not belong in a step; or one edit at once
                for a single behavior, or by a search.
        """
        if self.at_once and len(self.behaviors) < 2:
            raise RecipeError("at_once: one edit for several behaviors needs at least two of them")
        if self.at_once and (self.tune or self.study or self.storage):
            raise RecipeError(
                "at_once: its strength comes from the budget; omit tune, study and storage"
            )
        shared = self.model_dump(exclude_unset=True, exclude={"behaviors", "at_once", "out"})
        recipes = []
        for entry in self.behaviors:
            given = {"behavior": entry} if isinstance(entry, str) else entry
            own = {_current_name(key): value for key, value in given.items()}
            if self.at_once:
                own.pop("weight", None)
            for key in ("model", "edits", "out", "study", "storage"):
                if key in own:
                    raise RecipeError(
                        f"behaviors: {key!r} applies to all behaviors; set it outside the list"
                    )
            recipes.append(parse({**shared, **own}, Recipe, f"behaviors: {own.get('behavior')}"))
        return recipes


def _current_name(key: str) -> str:
    """The field of a recipe that a key is read as, under an earlier name too."""
    for name, field in Recipe.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices) and key in alias.choices:
            return name
    return key
