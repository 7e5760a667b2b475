"""How a recipe's edit is chosen: as it says, or by a search on train data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelsurgery.behaviors import Behavior
from modelsurgery.edit import Edit, make_edit
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.store import Store
from modelsurgery.files import sha256_json
from modelsurgery.fitting import fit_probe_on_texts
from modelsurgery.models import LanguageModel
from modelsurgery.probe import DirectionRule, Probe
from modelsurgery.progress import Progress
from modelsurgery.recipe import Recipe
from modelsurgery.region import PAPER_ROWS, select_region
from modelsurgery.runs import STUDY_FILE, RunDirectory
from modelsurgery.stacking import score_model_rows
from modelsurgery.texts import texts_sha256
from modelsurgery.tuning import (
    DosePoint,
    Search,
    SearchResult,
    SearchSpace,
    Setting,
    Study,
    default_probe_layers,
    default_space,
)

DEFAULT_RULE: DirectionRule = "mean-difference"


@dataclass(frozen=True)
class Choice:
    """An edit, and where it comes from.

    Attributes:
        probe: gives the direction.
        setting: direction, rows and window.
        edit: the edit.
        search: how it was found; None when the recipe says it.
        curve: the chosen rows at other strengths, on tuning data; empty without a search.
        milder: the best edit inside half of the budget, if the search found one.
    """

    probe: Probe
    setting: Setting
    edit: Edit
    search: SearchResult | None = None
    curve: tuple[DosePoint, ...] = ()
    milder: "Choice | None" = None


def fit_probes(
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
    probes = []
    with progress("fit probes", len(layers)) as advance:
        for layer in layers:
            fitted = fit_probe_on_texts(
                states.by_layer[layer],
                behavior.fit,
                behavior.held_out,
                layer=layer,
                fit=recipe.fit,
                seed=recipe.seed,
            )
            probes.append(fitted)
            advance(1)
    return probes


def choose_edit(
    recipe: Recipe,
    run: RunDirectory,
    model: LanguageModel,
    behavior: Behavior,
    judge: Judge,
    probes: Sequence[Probe],
    store: Store,
    progress: Progress,
) -> Choice:
    """The edit that the recipe gives, or the best that a search finds.

    Raises:
        DamageBudgetError: nothing that was tried stays inside the budget.
    """
    if not recipe.is_searched:
        return _given(recipe, model, probes[0], progress)
    search = Search(
        model,
        behavior,
        judge,
        probes,
        _space(recipe, model, probes),
        recipe.budget,
        sign=recipe.sign,
        seed=recipe.seed,
        store=store,
        progress=progress,
    )
    path = recipe.study or run.path / STUDY_FILE
    key = _study_key(recipe, model, behavior, probes)
    with Study(search.space, key, path=path, seed=recipe.seed) as study:
        found = search.run(study, trials=recipe.trials, minutes=recipe.minutes)
    curve = search.dose_response(found.edit)
    milder = None
    if found.milder is not None:
        setting, strength = found.milder.setting, found.milder.strength
        milder = Choice(search.probe_of(setting), setting, search.edit_of(setting, strength))
    return Choice(
        search.probe_of(found.best.setting), found.best.setting, found.edit, found, curve, milder
    )


def _given(recipe: Recipe, model: LanguageModel, probe: Probe, progress: Progress) -> Choice:
    setting = Setting(
        probe.layer,
        recipe.direction_rule or DEFAULT_RULE,
        PAPER_ROWS if recipe.rows is None else recipe.rows,
        recipe.layers,
        recipe.per_layer or False,
    )
    direction = probe.direction(setting.rule)
    scores = score_model_rows(model, direction[None], progress=progress)
    region = select_region(scores, setting.rows, layers=setting.window, per_layer=setting.per_layer)
    edit = make_edit(
        region,
        direction,
        alpha=None if recipe.alpha is None else recipe.sign * recipe.alpha,
        strength=None if recipe.strength is None else recipe.sign * recipe.strength,
        layout=model.layout,
    )
    return Choice(probe, setting, edit)


def _space(recipe: Recipe, model: LanguageModel, probes: Sequence[Probe]) -> SearchSpace:
    space = default_space(model.layer_count, tuple(probe.layer for probe in probes))
    return replace(
        space,
        rules=space.rules if recipe.direction_rule is None else (recipe.direction_rule,),
        rows=space.rows if recipe.rows is None else recipe.rows,
        windows=space.windows if recipe.layers is None else (recipe.layers,),
        per_layer=space.per_layer if recipe.per_layer is None else (recipe.per_layer,),
    ).fitting(model.gates)


def _study_key(
    recipe: Recipe, model: LanguageModel, behavior: Behavior, probes: Sequence[Probe]
) -> dict[str, object]:
    """All that a trial depends on besides its setting."""
    return {
        "model": [model.fingerprint(), str(model.model.dtype)],
        "texts": texts_sha256([*behavior.fit, *behavior.tuning]),
        "read": sha256_json(model.token_ids([model.written(one) for one in behavior.tuning])),
        "neutral": sha256_json(list(behavior.tuning_neutral)),
        "facts": sha256_json(list(behavior.tuning_facts)),
        "probes": [[probe.layer, probe.fit] for probe in probes],
        "seed": recipe.seed,
        "direction": recipe.sign,
    }
