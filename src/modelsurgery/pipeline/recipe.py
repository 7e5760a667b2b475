"""A recipe: what to do to which model.

Each field is declared once, with its type, default, limits and description, and where it has an
option of `surgery run` and `surgery tune`, with that (`option.py`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from modelsurgery.data import demo
from modelsurgery.edit.option_names import Direction, DirectionSource, Fit
from modelsurgery.pipeline.loading_options import (
    Device,
    DType,
    LayoutFile,
    MaxMemory,
    Now,
    Offload,
    TemplateName,
)
from modelsurgery.pipeline.option import (
    NotNegative,
    Option,
    Panel,
    Positive,
    check_rows,
    layer_window,
    percentage,
    row_share,
)
from modelsurgery.rules.rule_names import DEFAULT_RULE, SEVERAL_STEPS, Rule

if TYPE_CHECKING:
    from modelsurgery.search import Budget

DEFAULT_BEHAVIOR = "toxicity"
DEFAULT_TRIALS = 40

# Of an evaluation, too.
Out = Annotated[
    Path | None,
    Field(description="Directory for the results."),
    Option(Panel.EVERYDAY, "a new directory in surgery-runs", metavar="DIR"),
]
DataRoot = Annotated[
    Path | None,
    Field(description="Directory with local copies of public data sets, or hub to download."),
    Option(Panel.DATA, "SURGERY_DATA, else packaged data, else hub", metavar="DIR|hub"),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="Random seed.")]


class Recipe(BaseModel):
    """All settings of `surgery run` and `surgery tune`. Every setting has a default.

    The settings are the options of the commands (docs/commands.md), with underscores.

    Raises:
        pydantic.ValidationError: a setting is unknown, has a wrong value, or contradicts another.

    Example:
        >>> Recipe(model="smollm2", behavior="toxicity", minutes=10).chosen_rule
        'natural-gradient'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[
        str,
        AfterValidator(demo.current_name),
        Field(description="Model directory, GGUF file, Hub ID, name of a fetched model, or demo."),
        Option(Panel.EVERYDAY, metavar="DIR|FILE|ID"),
    ] = demo.DEMO
    behavior: Annotated[
        str | None,
        Field(description="Built-in behavior, or the path of a behavior file (YAML)."),
        Option(Panel.EVERYDAY, "toxicity, unless --texts is given", metavar="NAME|FILE"),
    ] = None
    texts: Annotated[
        Path | None,
        Field(
            description="Labeled texts: JSON Lines, JSON, CSV, TSV, Parquet, or hub:NAME. Label 1 "
            "shows the behavior, label 0 its opposite."
        ),
        Option(Panel.EVERYDAY, "the behavior's texts", metavar="FILE"),
    ] = None
    direction: Annotated[
        Direction | None,
        Field(description="Edit away from the behavior or toward it."),
        Option(Panel.EVERYDAY, "the behavior's direction"),
    ] = None
    out: Out = None
    minutes: Annotated[
        Positive | None,
        Field(
            description="Time limit for the whole run, in minutes. Numbers of texts, prompts and "
            "samples that are not given are reduced to fit."
        ),
        Option(Panel.EVERYDAY, "15, or no limit for tiny models"),
    ] = None
    max_perplexity_rise: Annotated[
        Positive | None,
        Field(description="Damage budget: largest rise in perplexity on neutral text."),
        Option(Panel.EVERYDAY, "+2%", name="--max-perplexity", metavar="PERCENT", read=percentage),
    ] = 0.02
    max_divergence: Annotated[
        Positive | None,
        Field(
            description="Damage budget: largest mean KL divergence from the base model on neutral "
            "text, in nats per token."
        ),
        Option(Panel.EVERYDAY),
    ] = 0.02
    max_capability_drop: Annotated[
        NotNegative | None,
        Field(
            description="Damage budget: largest drop in capability, in percentage points of facts "
            "answered exactly, or without facts, of next tokens predicted on neutral text."
        ),
        Option(Panel.EVERYDAY),
    ] = 2.0
    max_uncalled_rise: Annotated[
        NotNegative | None,
        Field(
            description="Damage budget: largest rise in the behavior where it is not called for "
            "(such as over-refusal), in percentage points."
        ),
        Option(Panel.EVERYDAY),
    ] = 3.0

    prompts: Annotated[
        Path | None,
        Field(description="Held-out prompts to measure on."),
        Option(Panel.DATA, "the behavior's prompts", metavar="FILE"),
    ] = None
    neutral: Annotated[
        Path | None,
        Field(description="Neutral text, on which the model should not change."),
        Option(Panel.DATA, "the behavior's neutral text", metavar="FILE"),
    ] = None
    text_column: Annotated[
        str,
        Field(description="Column of --texts with the text."),
        Option(Panel.DATA, metavar="NAME"),
    ] = "text"
    label_column: Annotated[
        str,
        Field(description="Column of --texts with the label."),
        Option(Panel.DATA, metavar="NAME"),
    ] = "label"
    train_texts: Annotated[
        int | None,
        Field(
            ge=1,
            validation_alias=AliasChoices("train_texts", "fit_texts"),
            description="Maximum number of texts per label to fit the edit to.",
        ),
        Option(Panel.DATA, "200, or all with --rule paper"),
    ] = None
    data: DataRoot = None

    edits: Annotated[
        tuple[Path, ...],
        Field(description="Edit file to start from; the new edit is made on top. Repeatable."),
        Option(Panel.EDIT, name="--edit", metavar="FILE"),
    ] = ()
    rule: Annotated[
        Rule | None,
        Field(description="How to choose rows: natural-gradient, least-squares or paper."),
        Option(Panel.EDIT, f"{DEFAULT_RULE}, or paper if its options are given", metavar="RULE"),
    ] = None
    strength: Annotated[
        Positive | None,
        Field(description="Edit strength; 1 adds vectors as long as the average gate row."),
        Option(Panel.EDIT, "the largest within the damage budget"),
    ] = None
    rows: Annotated[
        int | float | None,
        AfterValidator(check_rows),
        Field(description="Gate rows to edit: a share such as 0.0465, or a count such as 16384."),
        Option(Panel.EDIT, "0.0465, or searched for", metavar="SHARE|COUNT", read=row_share),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=50,
            description="Steps of the natural gradient; its slopes are measured again before each.",
        ),
        Option(Panel.EDIT, f"1 or {SEVERAL_STEPS}, whichever does more on validation prompts"),
    ] = None
    layers: Annotated[
        tuple[int, int] | None,
        Field(description="Layers to edit, counted from 1, such as 8-24 or 8."),
        Option(Panel.EDIT, "all, or searched for", metavar="FIRST-LAST", read=layer_window),
    ] = None
    per_layer: Annotated[
        bool | None,
        Field(description="Take the same share of rows from every layer, or the best rows of all."),
        Option(Panel.EDIT, "--global, or searched for", name="--per-layer/--global"),
    ] = None
    layer: Annotated[
        int | None,
        Field(ge=1, description="Layer that the probe reads, counted from 1."),
        Option(Panel.EDIT, "3/4 of all; with --rule paper the last, or searched for"),
    ] = None
    fit: Annotated[
        Fit | None,
        Field(
            description="How to fit the probe: logistic, mean-difference, or adam as in the paper."
        ),
        Option(Panel.EDIT, "logistic, or adam with --rule paper", metavar="FIT"),
    ] = None
    direction_source: Annotated[
        DirectionSource | None,
        Field(
            validation_alias=AliasChoices("direction_source", "direction_rule"),
            description="Probe vector that the paper's method uses as the direction: "
            "mean-difference, W1 (as in the paper) or W1-W0.",
        ),
        Option(Panel.EDIT, "searched for, or mean-difference with --alpha", metavar="SOURCE"),
    ] = None
    alpha: Annotated[
        Positive | None,
        Field(description="α of the paper's method, in place of --strength."),
        Option(Panel.EDIT),
    ] = None

    tune: Annotated[
        bool,
        Field(description="Search for rows, layers and damping as well as strength."),
        Option(Panel.SEARCH, name="--tune"),
    ] = False
    trials: Annotated[
        int | None,
        Field(ge=1, description="Number of trials in a search."),
        Option(Panel.SEARCH, f"{DEFAULT_TRIALS}, or no limit with --minutes"),
    ] = None
    study: Annotated[
        Path | None,
        Field(description="File to resume the search from and save trials to."),
        Option(Panel.SEARCH, "study.journal in the results directory", metavar="FILE"),
    ] = None
    storage: Annotated[
        str | None,
        Field(description="Database, proxy or shared file for trials of several processes."),
        Option(Panel.SEARCH, "the file of --study", metavar="URL|FILE"),
    ] = None

    judge: Annotated[
        str | None,
        Field(
            description="Judge of continuations: ngrams, phrases, demo, texts, states:MODEL, "
            "hf:MODEL[#LABEL], chat:MODEL@URL or review:FILE."
        ),
        Option(Panel.MEASURING, "the behavior's judge", metavar="JUDGE"),
    ] = None
    prompt_count: Annotated[
        int | None,
        Field(ge=1, description="Maximum number of held-out prompts."),
        Option(Panel.MEASURING, "300, or as many as the time allows"),
    ] = None
    samples: Annotated[
        int | None,
        Field(ge=1, description="Sampled continuations per prompt, in addition to a greedy one."),
        Option(Panel.MEASURING, "3, or as many as the time allows"),
    ] = None
    seed: Annotated[Seed, Option(Panel.MEASURING)] = 0
    validation_prompts: Annotated[
        int | None,
        Field(
            ge=1,
            validation_alias=AliasChoices("validation_prompts", "tuning_prompts"),
            description="Maximum number of prompts to choose by, if not prompt_count.",
        ),
    ] = None
    doses: Annotated[
        Literal[3, 5, 8] | None,
        Field(description="Points of the dose-response curve; None means 8, or what time allows."),
    ] = None
    neutral_texts: Annotated[
        int | None,
        Field(
            ge=10,
            description="Maximum number of neutral texts to measure damage on; None means 400 "
            "held-out and 128 other texts, or what time allows.",
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        Field(ge=1, description="Maximum length of a continuation, in tokens."),
        Option(Panel.MEASURING, "the behavior's length"),
    ] = None

    device: Device = None
    max_memory: MaxMemory = None
    offload: Offload = None
    dtype: DType = None
    chat_template: TemplateName = None
    now: Now = None
    layout: LayoutFile = None
    revision: Annotated[str | None, Field(description="Revision of a model on the Hub.")] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "Recipe":
        for one, other in (("alpha", "strength"), ("study", "storage")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give either {one} or {other}, not both")
        return self

    @model_validator(mode="after")
    def _paper_alone(self) -> "Recipe":
        if self.chosen_rule != "paper" and (self.alpha or self.direction_source):
            given = "alpha" if self.alpha else "direction_source"
            raise ValueError(f"{given} belongs to the paper's rule; omit it, or use rule: paper")
        return self

    @model_validator(mode="after")
    def _steps_of_the_natural_gradient(self) -> "Recipe":
        if self.steps is not None and self.tune:
            raise ValueError("a search takes one step of the rule; omit steps, or omit tune")
        if (self.steps or 1) > 1 and self.chosen_rule != "natural-gradient":
            raise ValueError(
                f"rule {self.chosen_rule} takes one step; omit steps, or use rule: natural-gradient"
            )
        return self

    @property
    def chosen_rule(self) -> Rule:
        """The rule; options of the paper's method imply `paper`."""
        if self.rule is not None:
            return self.rule
        return "paper" if self.alpha or self.direction_source else DEFAULT_RULE

    @property
    def tried_steps(self) -> int:
        """Steps that come into question, at most."""
        return self.steps or (SEVERAL_STEPS if self.chosen_rule == "natural-gradient" else 1)

    @property
    def probe_fit(self) -> Fit:
        """How to fit the probe."""
        return self.fit or ("adam" if self.chosen_rule == "paper" else "logistic")

    @property
    def model_name(self) -> str:
        """Name of the model, without its directory."""
        return demo.DEMO if self.is_demo_model else Path(self.model).resolve().name

    @property
    def is_demo_model(self) -> bool:
        """Whether the model is the demo model."""
        return demo.is_demo_model(self.model)

    @property
    def behavior_name(self) -> str | None:
        """Name of the behavior; None if only `texts` describes it."""
        return self.behavior or (DEFAULT_BEHAVIOR if self.texts is None else None)

    @property
    def sign(self) -> int:
        """1 for an edit away from the behavior, -1 for one toward it."""
        return -1 if self.direction == "toward" else 1

    @property
    def is_demo(self) -> bool:
        """Whether the behavior is one of the demo model's."""
        from modelsurgery.data.behaviors import describe_behavior

        name = self.behavior_name
        return self.is_demo_model and name is not None and describe_behavior(name).demo

    @property
    def is_searched(self) -> bool:
        """Whether the strength and all settings that are not given are searched for."""
        is_open = self.alpha is None and self.strength is None
        return is_open and (self.tune or self.chosen_rule == "paper")

    @property
    def budget(self) -> "Budget":
        """The damage budget."""
        from modelsurgery.search import Budget  # brings torch, which `--help` does without

        return Budget(
            self.max_perplexity_rise,
            self.max_divergence,
            self.max_capability_drop,
            self.max_uncalled_rise,
        )
