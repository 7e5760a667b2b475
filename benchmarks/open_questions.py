"""Small measurements behind the defaults of the natural-gradient rule (docs/log.md has results).

    python -m benchmarks.open_questions QUESTION MODEL --data DIR [--seeds 0,1,2]

QUESTION is one of
    texts     how many texts of each label (12, 25, 50, 100, 200)
    neutral   how many neutral tokens for the prices (500, 1000, 3000, 6000)
    damping   of rows (0.01, 0.1, 1) and rows (0.5 %, 1 %, 4.65 %, 20 %)
    steps     one, two or three linearised steps inside the same divergence
    matrices  gate against up and down projections, by the same rule (in memory only)
    own       the model's own sampled continuations, sorted by the judge, beside labeled texts

All at a divergence of 0.02 nats a token of neutral validation text. What is measured is selectivity
on held-out texts of the behavior, perplexity and divergence on held-out neutral text.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from modelsurgery import Edit, LanguageModel, load_model
from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.checkpoint.rows import RowView
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.protocol import decodings_of
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import GateSite, find_sites
from modelsurgery.model.activations.statistics import (
    measure_gains,
    measure_inputs,
    measure_moments,
    measure_prices,
)
from modelsurgery.model.activations.texts import (
    TokenizedText,
    texts_up_to,
    tokenize_labeled,
    tokenize_plain,
)
from modelsurgery.model.halves import Halves
from modelsurgery.model.stacking import stacked
from modelsurgery.rivals.matching import match_divergence
from modelsurgery.rules.contrast import Contrast, contrast_of
from modelsurgery.rules.natural_gradient import (
    ROW_DAMPING,
    site_slopes,
    solve_rows,
    whitened_directions,
)
from modelsurgery.rules.proposing import direction_weights, fit_natural_gradient
from modelsurgery.search.fitting import first_tokens, some_of_each

TARGET = 0.02
TEST_TEXTS = 60
NEUTRAL_TOKENS = 2000


@dataclass(frozen=True)
class Bench:
    """A model with what edits of it are measured on."""

    model: LanguageModel
    behavior: Behavior
    validation: Screen
    test: Screen
    seed: int

    def neutral(self, tokens: int = 3000) -> list[TokenizedText]:
        """Neutral texts for prices."""
        read = tokenize_plain(self.model, self.behavior.validation_neutral)[::-1]
        return texts_up_to(read, tokens)

    def contrast(self, texts: int = 50) -> Contrast:
        """So many texts of each label."""
        return contrast_of(some_of_each(self.behavior.train, texts))

    def fitted(self, edit: Edit, *, under: Edit | None = None, target: float = TARGET) -> Edit:
        """The edit, on top of another one, at the strength that gives both a divergence."""

        def whole(strength: float) -> Edit:
            scaled = edit.scaled(strength)
            return scaled if under is None else under + scaled

        found = match_divergence(
            lambda one: self.validation.measure([whole(one)])[0].divergence, target
        )
        return whole(found.strength)

    def row(self, name: str, edit: Edit) -> None:
        """Measure an edit and print a row."""
        print_row(name, self.seed, self.test.measure([edit])[0])


def print_row(name: str, seed: int, effect: Effect) -> None:
    """A row of the table."""
    print(
        f"| {name} | {seed} | {effect.selectivity:+.3f} | {math.expm1(effect.clean):+.2%} | "
        f"{effect.divergence:.4f} |",
        flush=True,
    )


def ask_texts(bench: Bench) -> None:
    """How many texts of each label."""
    for count in (12, 25, 50, 100, 200):
        found = fit_natural_gradient(
            Passes(bench.model), [bench.contrast(count)], bench.neutral(), seed=bench.seed
        )
        evidence = found.evidence()
        told = f"{count} texts of each label, evidence {evidence.gain:.1f} ± {evidence.error:.1f}"
        bench.row(told, bench.fitted(found.proposal().edit(strength=0.4)))


def ask_neutral(bench: Bench) -> None:
    """How many neutral tokens for the prices."""
    for tokens in (500, 1000, 3000, 6000):
        found = fit_natural_gradient(
            Passes(bench.model), [bench.contrast()], bench.neutral(tokens), seed=bench.seed
        )
        bench.row(f"{tokens} neutral tokens", bench.fitted(found.proposal().edit(strength=0.4)))


def ask_damping(bench: Bench) -> None:
    """Damping of rows, and share of the rows."""
    found = fit_natural_gradient(
        Passes(bench.model), [bench.contrast()], bench.neutral(), seed=bench.seed
    )
    for damping in (0.01, 0.1, 1.0):
        edit = found.proposal(damping).edit(strength=0.4)
        bench.row(f"damping {damping}, 4.65 % of the rows", bench.fitted(edit))
    for rows in (0.005, 0.01, 0.2):
        edit = found.proposal().edit(rows, strength=0.4)
        bench.row(f"damping 0.1, {rows:.1%} of the rows", bench.fitted(edit))


def ask_steps(bench: Bench) -> None:
    """One, two or three linearised steps inside the same divergence."""
    for steps in (1, 2, 3):
        under: Edit | None = None
        for step in range(steps):
            with stacked(bench.model, () if under is None else (under,)) as model:
                found = fit_natural_gradient(
                    Passes(model), [bench.contrast()], bench.neutral(), seed=bench.seed
                )
            # The same share of the strength each: divergence grows as its square.
            share = ((step + 1) / steps) ** 2
            edit = found.proposal().edit(strength=0.4 / steps)
            under = bench.fitted(edit, under=under, target=share * TARGET)
        assert under is not None
        bench.row(f"{steps} steps", under)


def ask_own(bench: Bench) -> None:
    """The model's own continuations, sorted by the judge, beside labeled texts."""
    behavior, judge = bench.behavior, judge_for(bench.behavior)
    prompts = behavior.validation_prompts[:150]
    decoding = decodings_of(behavior.prompt_sets[0], 1, bench.seed)[0]
    written = TransformersGenerator(bench.model).generate(prompts, decoding)
    verdicts = judge(prompts, [one.text for one in written])
    own = [
        LabeledText(f"{prompt}{one.text}", int(verdict == "behavior"), group=prompt)
        for prompt, one, verdict in zip(prompts, written, verdicts, strict=True)
        if verdict in ("behavior", "opposite") and one.text.strip()
    ]
    count = min(sum(text.label for text in own), 50)
    print(f"{count} own texts of each label")
    own = list(some_of_each(own, count))
    labeled = list(some_of_each(behavior.train, 50))
    for name, texts in (("own", own), ("labeled", labeled), ("both", [*labeled, *own])):
        found = fit_natural_gradient(
            Passes(bench.model), [contrast_of(texts)], bench.neutral(), seed=bench.seed
        )
        bench.row(f"{name} texts", bench.fitted(found.proposal().edit(strength=0.4)))


def ask_matrices(bench: Bench) -> None:
    """Gate against up and down projections, by the same rule."""
    model = bench.model
    gates = find_sites(model.model)
    for name in ("gate_proj", "up_proj", "down_proj"):
        sites = [_sibling(model, site, name) for site in gates]
        folds = [[tokenize_labeled(model, kind.texts)] for kind in bench.contrast().kinds]
        passes = Passes(model)
        means = measure_inputs(passes, sites, [kind[0] for kind in folds])
        moments = measure_moments(passes, sites, bench.neutral())
        squares = measure_prices(passes, sites, bench.neutral(), seed=bench.seed)
        weights = direction_weights([bench.contrast()])
        directions = {
            site.name: whitened_directions(moments[site.name], means.by_site[site.name], weights)
            for site in sites
        }
        gains = measure_gains(passes, sites, directions, folds)
        slopes = [
            site_slopes(gains, name, moments[name], squares[name], directions[name], [1.0, -1.0])
            for name in directions
        ]
        added = ROW_DAMPING * sum(one.mean_price for one in slopes) / len(slopes)
        solved = [solve_rows(one.whole, one, added)[0, 0] for one in slopes]
        scores = torch.cat(
            [torch.from_numpy(c * one.whole[0, 0]) for c, one in zip(solved, slopes, strict=True)]
        )
        least = scores.topk(round(0.0465 * len(scores))).values[-1]
        changes = [
            (
                site.parameter,
                torch.from_numpy(c * (c * one.whole[0, 0] >= float(least))).float()[:, None]
                * directions[site.name],
            )
            for site, c, one in zip(sites, solved, slopes, strict=True)
        ]
        _measure_changes(bench, name, changes)


def _sibling(model: LanguageModel, site: GateSite, name: str) -> GateSite:
    """The site of another projection of the same MLP of a Llama."""
    path = site.name.replace("gate_proj", name)
    parameter = model.model.get_parameter(path)
    rows, columns = parameter.shape
    view = RowView(path, "F32", rows, columns, 0, columns, 1)
    gate = GateMatrix(view, site.gates[0].block)
    module = model.model.get_submodule(path.rpartition(".")[0])
    return GateSite(path, module, parameter, (gate,), torch.arange(rows))


def _measure_changes(
    bench: Bench, name: str, changes: Sequence[tuple[torch.nn.Parameter, torch.Tensor]]
) -> None:
    """Bring changes of weights to the target and print what they do."""
    model = bench.model
    neutral = tokenize_plain(model, first_tokens(model, bench.behavior.validation_neutral, 2000))
    clean = tokenize_plain(model, first_tokens(model, bench.behavior.test_neutral, 2000))
    test = some_of_each(bench.behavior.test, TEST_TEXTS)
    kinds = [
        tokenize_labeled(model, [text for text in test if text.label == label]) for label in (1, 0)
    ]
    strength = match_divergence(
        lambda one: _compare(model, changes, one, neutral)[1], TARGET, first=1e-3
    ).strength
    (shows, _), (opposite, _), (rise, divergence) = (
        _compare(model, changes, strength, some) for some in (*kinds, clean)
    )
    print_row(name, bench.seed, Effect(shows, opposite, rise, divergence, 0.0))


@contextmanager
def _added(
    changes: Sequence[tuple[torch.nn.Parameter, torch.Tensor]], strength: float
) -> Iterator[None]:
    kept = [parameter.data.clone() for parameter, _ in changes]
    for parameter, change in changes:
        parameter.data += strength * change
    try:
        yield
    finally:
        for (parameter, _), values in zip(changes, kept, strict=True):
            parameter.data.copy_(values)


def _compare(
    model: LanguageModel,
    changes: Sequence[tuple[torch.nn.Parameter, torch.Tensor]],
    strength: float,
    texts: Sequence[TokenizedText],
) -> tuple[float, float]:
    """Mean rise of the loss and mean divergence, nats a token."""
    halves = Halves(model.model)
    rise = divergence = 0.0
    tokens = 0
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([text.ids])
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            before = halves.logits(halves.last_states(batch)[0, :-1]).log_softmax(-1)
            with _added(changes, strength):
                after = halves.logits(halves.last_states(batch)[0, :-1]).log_softmax(-1)
            aims = ids[0, 1:, None]
            rise += float((before.gather(-1, aims) - after.gather(-1, aims)).sum())
            divergence += float((before.exp() * (before - after)).sum())
            tokens += len(aims)
    return rise / tokens, divergence / tokens


QUESTIONS: dict[str, Callable[[Bench], None]] = {
    "texts": ask_texts,
    "neutral": ask_neutral,
    "damping": ask_damping,
    "steps": ask_steps,
    "matrices": ask_matrices,
    "own": ask_own,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask one question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=tuple(QUESTIONS))
    parser.add_argument("model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--behavior", default="toxicity")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    print("| setting | seed | selectivity | perplexity | held-out KL |\n|---|---|---|---|---|")
    for seed in map(int, options.seeds.split(",")):
        described = describe_behavior(options.behavior)
        behavior = load_behavior(described, data=options.data, seed=seed, prompt_count=150)
        test = some_of_each(behavior.test, TEST_TEXTS)
        kinds = [[model.render(text) for text in test if text.label == label] for label in (1, 0)]
        validation = Screen(
            model, (), (), first_tokens(model, behavior.validation_neutral, NEUTRAL_TOKENS)
        )
        clean = Screen(model, *kinds, first_tokens(model, behavior.test_neutral, NEUTRAL_TOKENS))
        QUESTIONS[options.question](Bench(model, behavior, validation, clean, seed))


if __name__ == "__main__":
    main()
