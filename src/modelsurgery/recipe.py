"""A recipe, and the whole surgery that it describes.

`run_recipe` is the main job from start to end: texts → hidden states → probe → region → edit →
measurement of base and edited model on held-out data.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modelsurgery import lab
from modelsurgery.apply.coverage import Coverage, measure_coverage
from modelsurgery.apply.in_memory import edited
from modelsurgery.behaviors import (
    Behavior,
    BehaviorFile,
    Direction,
    describe_behavior,
    load_behavior,
)
from modelsurgery.behaviors.roots import data_root
from modelsurgery.edit import Edit, make_edit
from modelsurgery.edit_file import save_edit
from modelsurgery.errors import NothingChangedError, RecipeError
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.language_modelling import LanguageModelling, compare_language_modelling
from modelsurgery.evaluation.measurement import decoding_of, measure_behavior, measure_facts
from modelsurgery.files import sha256_file
from modelsurgery.fitting import fit_probe_on_texts
from modelsurgery.layouts import load_layout
from modelsurgery.models import LanguageModel, load_model
from modelsurgery.probe import DirectionRule, Fit, Probe, save_probe
from modelsurgery.progress import Progress, silent
from modelsurgery.provenance import Provenance, provenance
from modelsurgery.region import PAPER_ROWS, row_count, score_rows, select_region
from modelsurgery.results import RunResult
from modelsurgery.runs import RunDirectory, open_run
from modelsurgery.tuning import (
    Search,
    SearchResult,
    SearchSpace,
    default_probe_layers,
    default_space,
)

EMBEDDED = "embedded"
DEFAULT_RULE: DirectionRule = "mean-difference"


class Recipe(BaseModel):
    """What to do to which model. Everything has a default; `None` and `auto` are searched for.

    Attributes:
        model: directory or id of the Hub; `embedded` is the model that ships with the package.
        behavior: a built-in behavior or the path of a behavior's YAML file.
        texts: labelled texts of a behavior of your own, in place of `behavior`.
        prompts: held-out prompts; else they are cut from held-out texts.
        neutral: neutral text for the damage; else held-out texts with label 0.
        text_column: column of `texts` with the text.
        label_column: column of `texts` with the label.
        data: directory with local copies of public data sets; None takes the one that SURGERY_DATA
            names, else the Hub.
        judge: who judges continuations, as `--judge` spells it; None takes the behavior's.
        direction: `away` from the behavior or `toward` it; None takes the behavior's own.
        out: run directory; None takes a new one below `surgery-runs`.
        seed: of everything random.
        fit: how the probe is fitted.
        layer: where the probe reads, 1..L; None searches, or takes L when the strength is given.
        direction_rule: what is taken from the probe; None searches.
        rows: share (0.0465) or count (16384) of gate rows; None searches.
        layers: first and last layer to edit, 1..L; None searches.
        strength: portable strength; None searches inside the budget.
        alpha: the paper's α, in place of `strength`.
        max_perplexity_rise: damage budget on neutral text, 0.05 is +5 %.
        max_facts_lost: damage budget on facts, 0.02 is two points of exact match.
        prompt_count: held-out prompts at most.
        samples: sampled continuations of each prompt (a greedy one comes on top).
        max_new_tokens: length of a continuation; None takes the behavior's.
        device: cpu, cuda, …; None takes a GPU where there is one.
        dtype: float32, bfloat16 or float16; None takes f32 on a CPU, else the stored one.
        revision: of a model on the Hub.
        layout: file that says where the gate rows are, for a family that is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = EMBEDDED
    behavior: str = "toxicity"
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
    fit: Fit = "adam"
    layer: int | None = Field(None, ge=1)
    direction_rule: DirectionRule | None = None
    rows: int | float | None = None
    layers: tuple[int, int] | None = None
    strength: float | None = Field(None, gt=0, allow_inf_nan=False)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_perplexity_rise: float = Field(0.05, gt=0)
    max_facts_lost: float = Field(0.02, ge=0)
    prompt_count: int = Field(300, ge=1)
    samples: int = Field(3, ge=1)
    max_new_tokens: int | None = Field(None, ge=1)
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    layout: Path | None = None

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

    @property
    def sign(self) -> int:
        """1 away from the behavior, -1 toward it."""
        return -1 if self.direction == "toward" else 1

    @property
    def is_lab(self) -> bool:
        """Whether the texts are of the embedded model's world."""
        return (
            self.model == EMBEDDED and self.texts is None and describe_behavior(self.behavior).lab
        )

    @property
    def is_searched(self) -> bool:
        """Whether the strength, and all that is not given with it, is searched for."""
        return self.alpha is None and self.strength is None


def run_recipe(recipe: Recipe, *, progress: Progress = silent) -> RunResult:
    """Perform the whole surgery and measure it; everything is written to the run directory.

    Args:
        recipe: what to do.
        progress: is told what is going on.

    Returns:
        What was found. The edit is in `directory / "edit.safetensors"`.

    Raises:
        SurgeryError: one of its kinds; nothing half-written is left behind, and an interrupted
            run goes on when the same recipe is run again with the same `out`.
    """
    started = time.monotonic()
    described = _described(recipe)
    recipe = _resolved(recipe, described)
    name = EMBEDDED if recipe.model == EMBEDDED else Path(recipe.model).resolve().name
    values = recipe.model_dump(mode="json", exclude={"out"})
    with open_run(recipe.out, values, default_name=f"{name}-{described.name}") as run:
        model = load_model(
            _model_path(recipe),
            device=recipe.device,
            dtype=recipe.dtype,
            revision=recipe.revision,
            layout=None if recipe.layout is None else load_layout(recipe.layout),
        )
        assert model.gates  # refused here, early, if it cannot be edited
        behavior = load_behavior(
            described,
            is_lab=recipe.is_lab,
            data=recipe.data,
            seed=recipe.seed,
            prompt_count=recipe.prompt_count,
        )
        judge = judge_for(behavior, recipe.judge, seed=recipe.seed)

        probes = _probes(recipe, run, model, behavior, progress)
        probe, edit, search = _choose_edit(recipe, model, behavior, judge, probes, progress)
        save_probe(probe, run.path / "probe.safetensors")
        origin = _origin(recipe, run, edit, search)
        edit = replace(edit.bound_to(model.checkpoint, model.gates), provenance=origin)
        save_edit(edit, run.path / "edit.safetensors")

        seeds = [recipe.seed + number for number in range(recipe.samples)]
        prompts = behavior.prompt_sets[0]
        rates = partial(measure_behavior, model, [edit], prompts.texts, judge, progress=progress)
        result = RunResult(
            recipe=values,
            directory=run.path,
            model=name,
            behavior=behavior,
            judge=(judge.name, judge.note),
            probe=probe,
            edit=edit,
            search=search,
            coverage=_coverage(model, edit),
            sampled=rates([decoding_of(prompts, seed) for seed in seeds]),
            greedy=rates([decoding_of(prompts)]),
            language_modelling=_language_modelling(model, behavior, edit, progress),
            facts=measure_facts(model, [edit], behavior.facts) if behavior.facts else None,
            seconds=time.monotonic() - started,
        )
        run.write_samples("sampled", result.sampled.samples)
        run.write_samples("greedy", result.greedy.samples)
        run.finish(result.to_json())
    return result


def _described(recipe: Recipe) -> BehaviorFile:
    if recipe.texts is not None:
        return BehaviorFile(
            name=recipe.texts.stem,
            title=f"texts of {recipe.texts.name}",
            texts=recipe.texts,
            prompts=recipe.prompts,
            neutral=recipe.neutral,
            text_column=recipe.text_column,
            label_column=recipe.label_column,
        )
    described = describe_behavior(recipe.behavior)
    if described.texts is None and recipe.model != EMBEDDED:
        raise RecipeError(
            f"behavior {recipe.behavior!r} has texts and a judge for the embedded "
            "model only; give --texts FILE with labelled texts for this model"
        )
    return described.with_length(recipe.max_new_tokens)


def _resolved(recipe: Recipe, described: BehaviorFile) -> Recipe:
    """The recipe with everything that it leaves to the behavior or the environment."""
    return recipe.model_copy(
        update={
            "direction": recipe.direction or described.direction,
            "data": data_root(recipe.data),
        }
    )


def _model_path(recipe: Recipe) -> str | Path:
    return lab.embedded_model_path() if recipe.model == EMBEDDED else recipe.model


def _probes(
    recipe: Recipe,
    run: RunDirectory,
    model: LanguageModel,
    behavior: Behavior,
    progress: Progress,
) -> list[Probe]:
    """One probe for each layer that comes into question, from one pass over the texts."""
    count = model.layer_count
    default = default_probe_layers(count) if recipe.is_searched else (count,)
    layers = default if recipe.layer is None else (recipe.layer,)
    texts = [model.written(text) for text in (*behavior.fit, *behavior.held_out)]
    states = run.hidden_states(model, texts, layers, progress=progress)
    return [
        fit_probe_on_texts(
            states.by_layer[layer],
            behavior.fit,
            behavior.held_out,
            layer=layer,
            fit=recipe.fit,
            seed=recipe.seed,
        )
        for layer in layers
    ]


def _space(recipe: Recipe, layer_count: int) -> SearchSpace:
    space = default_space(layer_count)
    return replace(
        space,
        rules=space.rules if recipe.direction_rule is None else (recipe.direction_rule,),
        rows=space.rows if recipe.rows is None else (recipe.rows,),
        windows=space.windows if recipe.layers is None else (recipe.layers,),
    )


def _choose_edit(
    recipe: Recipe,
    model: LanguageModel,
    behavior: Behavior,
    judge: Judge,
    probes: list[Probe],
    progress: Progress,
) -> tuple[Probe, Edit, SearchResult | None]:
    """The edit that the recipe gives, or the best that a search on train data finds."""
    if recipe.is_searched:
        search = Search(
            model,
            behavior,
            judge,
            probes,
            _space(recipe, model.layer_count),
            sign=recipe.sign,
            max_perplexity_rise=recipe.max_perplexity_rise,
            max_facts_lost=recipe.max_facts_lost,
            seed=recipe.seed,
            progress=progress,
        )
        found = search.run()
        return found.probe, found.edit, found
    direction = probes[0].direction(recipe.direction_rule or DEFAULT_RULE)
    scores = score_rows(model.checkpoint, model.gates, direction[None], progress=progress)
    rows = PAPER_ROWS if recipe.rows is None else recipe.rows
    region = select_region(scores, rows, layers=recipe.layers)
    edit = make_edit(
        region,
        direction,
        alpha=None if recipe.alpha is None else recipe.sign * recipe.alpha,
        strength=None if recipe.strength is None else recipe.sign * recipe.strength,
        layout=model.layout,
    )
    return probes[0], edit, None


def _origin(
    recipe: Recipe, run: RunDirectory, edit: Edit, search: SearchResult | None
) -> Provenance:
    rule = search.best.rule if search else recipe.direction_rule or DEFAULT_RULE
    return provenance(
        seed=recipe.seed,
        inputs={"probe": sha256_file(run.path / "probe.safetensors")},
        settings={
            "direction": recipe.direction,
            "direction_rule": rule,
            "rows": edit.row_count,
            "layers": search.best.window if search else recipe.layers,
        },
    )


def _coverage(model: LanguageModel, edit: Edit) -> Coverage:
    with edited(model.model, edit) as changes:
        return measure_coverage(
            changes,
            tensors_found=len(model.gates),
            rows_found=edit.candidate_rows,
            bytes_total=model.checkpoint.size_bytes,
        )


def _language_modelling(
    model: LanguageModel, behavior: Behavior, edit: Edit, progress: Progress
) -> LanguageModelling:
    measured = compare_language_modelling(model, behavior.neutral, [edit], progress=progress)
    if measured.divergence == 0:
        raise NothingChangedError(
            "the edit changed weights and no output moved; the chosen rows "
            "have no effect, take others or a larger strength"
        )
    return measured
