"""A recipe: what to do to which model."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from modelsurgery.data import demo
from modelsurgery.data.behaviors import Direction, describe_behavior
from modelsurgery.edit.probe import DirectionRule, Fit
from modelsurgery.edit.region import row_count
from modelsurgery.errors import RecipeError
from modelsurgery.files.schema import parse
from modelsurgery.rules.proposal import DEFAULT_RULE, Rule
from modelsurgery.search import Budget

DEFAULT_BEHAVIOR = "toxicity"
DEFAULT_TRIALS = 40


class Recipe(BaseModel):
    """What to do to which model. Everything has a default; `None` and `auto` are searched for.

    Attributes:
        model: directory, name of a fetched model or id of the Hub; `embedded` is the model that
            ships with the package.
        edits: edits that the model gets in memory before anything else; the new one comes on top.
        behavior: a built-in behavior or the path of a behavior's YAML file; None takes toxicity, or
            with `texts` a behavior that nothing but they describe.
        texts: labelled texts in place of the behavior's.
        prompts: held-out prompts in place of the behavior's.
        neutral: neutral text for the damage, in place of the behavior's.
        text_column: column of `texts` with the text.
        label_column: column of `texts` with the label.
        data: directory with local copies of public data sets, or `hub`; None takes the one that
            SURGERY_DATA names, else what ships with the package, else the Hub.
        judge: who judges continuations, as `--judge` spells it; None takes the behavior's.
        direction: `away` from the behavior or `toward` it; None takes the behavior's own.
        out: run directory; None takes a new one below `surgery-runs`.
        seed: of everything random.
        rule: what chooses rows, coefficients and directions: `natural-gradient`, `least-squares`
            (forward passes only) or `paper`; None takes the first, or `paper` where an option of
            the paper's rule is given.
        fit_texts: texts of each label that the edit is made from, at most; None takes 200, or with
            the paper's rule all.
        fit: how the probe is fitted; None takes `adam` for the paper's rule, else `logistic`.
        layer: where the probe reads, 1..L; None searches, or takes L when the strength is given.
        direction_source: what the paper's rule takes from the probe; None searches.
        rows: share (0.0465) or count (16384) of gate rows; None takes the paper's share, or
            searches.
        layers: first and last layer to edit, 1..L; None takes all, or searches.
        per_layer: take the same share of every layer's rows, not the best of all; None takes the
            best of all, or searches.
        strength: portable strength; None takes what the budget allows.
        alpha: the paper's α, in place of `strength`.
        tune: search for rows, layers and damping too; the paper's rule always does.
        max_perplexity_rise: damage budget on neutral text, 0.05 is +5 %.
        max_divergence: damage budget: mean KL from the base on neutral text, nats a token; None
            does not limit it.
        max_capability_drop: damage budget: points of exact match on facts, or where there are none
            of next tokens of neutral text; None does not limit it.
        max_uncalled_rise: damage budget: points by which prompts that do not call for the behavior
            may show it more often (over-refusal of `refusal`); None does not limit it.
        trials: edits that the search tries; None tries 40, or as many as `minutes` allow.
        minutes: for the whole run: what is left open in this recipe becomes smaller until it fits,
            and a search begins no trial that would be too late; None takes 15 for `prompt_count`
            and its like, except for models so small that nothing takes long.
        study: file that keeps the trials; None keeps them in the run directory.
        prompt_count: held-out prompts at most; None takes 300, or fewer where time is short.
        tuning_prompts: prompts at most that choices are made on; None like `prompt_count`.
        samples: sampled continuations of each prompt (a greedy one comes on top); None takes 3, or
            fewer where time is short.
        doses: strengths of the dose-response curve; None takes 8, or fewer where time is short.
        neutral_texts: neutral texts at most that the damage is measured on, of the held-out and of
            the others; None takes 400 and 128, or fewer where time is short.
        max_new_tokens: length of a continuation; None takes the behavior's.
        device: cpu, cuda, …; None takes a GPU where there is one.
        dtype: float32, bfloat16 or float16; None takes f32 on a CPU, else the stored one.
        revision: of a model on the Hub.
        layout: file that says where the gate rows are, for a family that is not known.
        chat_template: name of one of the model's chat templates; None takes `default`.
        now: the time that a chat template is told, which may print the date; None takes the time
            when the run begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = demo.EMBEDDED
    edits: tuple[Path, ...] = ()
    behavior: str | None = None
    texts: Path | None = None
    prompts: Path | None = None
    neutral: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    data: Path | None = None
    judge: str | None = None
    direction: Direction | None = None
    out: Path | None = None
    seed: int = Field(0, ge=0, le=2**32 - 1)
    rule: Rule | None = None
    fit_texts: int | None = Field(None, ge=1)
    fit: Fit | None = None
    layer: int | None = Field(None, ge=1)
    direction_source: DirectionRule | None = Field(
        None, validation_alias=AliasChoices("direction_source", "direction_rule")
    )
    rows: int | float | None = None
    layers: tuple[int, int] | None = None
    per_layer: bool | None = None
    strength: float | None = Field(None, gt=0, allow_inf_nan=False)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    tune: bool = False
    max_perplexity_rise: float | None = Field(0.02, gt=0, allow_inf_nan=False)
    max_divergence: float | None = Field(0.02, gt=0, allow_inf_nan=False)
    max_capability_drop: float | None = Field(2.0, ge=0, allow_inf_nan=False)
    max_uncalled_rise: float | None = Field(3.0, ge=0, allow_inf_nan=False)
    trials: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    study: Path | None = None
    prompt_count: int | None = Field(None, ge=1)
    tuning_prompts: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    doses: Literal[3, 5, 8] | None = None
    neutral_texts: int | None = Field(None, ge=10)
    max_new_tokens: int | None = Field(None, ge=1)
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    layout: Path | None = None
    chat_template: str | None = None
    now: datetime | None = None

    @field_validator("rows")
    @classmethod
    def _rows_make_sense(cls, rows: float | int | None) -> float | int | None:
        if rows is not None:
            try:
                row_count(rows, 1, available=2**63)
            except RecipeError as error:
                raise ValueError(str(error)) from error
        return rows

    @model_validator(mode="after")
    def _one_amount(self) -> "Recipe":
        if self.alpha is not None and self.strength is not None:
            raise ValueError("give either alpha or strength, and not both")
        return self

    @model_validator(mode="after")
    def _paper_alone(self) -> "Recipe":
        if self.chosen_rule != "paper" and (self.alpha or self.direction_source):
            given = "alpha" if self.alpha else "direction_source"
            raise ValueError(f"{given} belongs to the paper's rule; leave it out, or rule: paper")
        return self

    @property
    def chosen_rule(self) -> Rule:
        """The rule; an option of the paper's rule asks for that one."""
        if self.rule is not None:
            return self.rule
        return "paper" if self.alpha or self.direction_source else DEFAULT_RULE

    @property
    def probe_fit(self) -> Fit:
        """How the probe is fitted."""
        return self.fit or ("adam" if self.chosen_rule == "paper" else "logistic")

    @property
    def model_name(self) -> str:
        """The model without its directory."""
        return demo.EMBEDDED if self.is_embedded else Path(self.model).resolve().name

    @property
    def is_embedded(self) -> bool:
        """Whether the model is the embedded one, by name or by path."""
        return demo.is_embedded(self.model)

    @property
    def behavior_name(self) -> str | None:
        """The behavior, as in `behavior`; None if nothing but `texts` describes it."""
        return self.behavior or (DEFAULT_BEHAVIOR if self.texts is None else None)

    @property
    def sign(self) -> int:
        """1 away from the behavior, -1 toward it."""
        return -1 if self.direction == "toward" else 1

    @property
    def is_lab(self) -> bool:
        """Whether the behavior is of the embedded model's world."""
        name = self.behavior_name
        return self.is_embedded and name is not None and describe_behavior(name).lab

    @property
    def is_searched(self) -> bool:
        """Whether the strength, and all that is not given with it, is searched for."""
        is_open = self.alpha is None and self.strength is None
        return is_open and (self.tune or self.chosen_rule == "paper")

    @property
    def budget(self) -> Budget:
        """What must not break."""
        return Budget(
            self.max_perplexity_rise,
            self.max_divergence,
            self.max_capability_drop,
            self.max_uncalled_rise,
        )


class SequenceRecipe(Recipe):
    """Several behaviors in order, each edit made on the model that has the ones before.

    Attributes:
        behaviors: names or files of behaviors, or mappings of a recipe's keys with `behavior` among
            them; what stands beside `behaviors` holds for all of them.
    """

    behaviors: tuple[str | dict[str, Any], ...] = ()

    def steps(self) -> list[Recipe]:
        """One recipe a behavior, without the edits of those before.

        Raises:
            RecipeError: a key that is unknown, or does not belong in a step.
        """
        shared = self.model_dump(exclude_unset=True, exclude={"behaviors", "out"})
        recipes = []
        for entry in self.behaviors:
            own = {"behavior": entry} if isinstance(entry, str) else entry
            for key in ("model", "edits", "out", "study"):
                if key in own:
                    raise RecipeError(f"behaviors: {key!r} belongs beside them, not in one of them")
            recipes.append(parse({**shared, **own}, Recipe, f"behaviors: {own.get('behavior')}"))
        return recipes
