"""Small measurements behind the defaults of the natural-gradient rule (docs/log.md has results).

    python -m benchmarks.open_questions QUESTION MODEL --data DIR [--seeds 0,1,2]

QUESTION is one of
    texts     how many texts of each label (12, 25, 50, 100, 200)
    neutral   how many neutral tokens for the prices (500, 1000, 3000, 6000)
    damping   of rows (0.01, 0.1, 1) and rows (0.5 %, 1 %, 4.65 %, 20 %)
    own       the model's own sampled continuations, sorted by the judge, beside labeled texts

Steps, other matrices and more of the kind: `surgery ablations`.

All at a divergence of 0.02 nats a token of neutral validation text. What is measured is selectivity
on held-out texts of the behavior, perplexity and divergence on held-out neutral text.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rules import at_divergence
from modelsurgery import Edit, LanguageModel, load_model
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.protocol import decodings_of
from modelsurgery.evaluation.screening import Screen
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import (
    TokenizedText,
    texts_up_to,
    tokenize_plain,
)
from modelsurgery.rules.contrast import Contrast, contrast_of
from modelsurgery.rules.proposing import fit_natural_gradient
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

    def fitted(self, edit: Edit) -> Edit:
        """The edit at the strength that gives the divergence."""
        return at_divergence(edit, self.validation, TARGET)

    def row(self, name: str, edit: Edit) -> None:
        """Measure an edit and print a row of the table."""
        effect = self.test.measure([edit])[0]
        print(
            f"| {name} | {self.seed} | {effect.selectivity:+.3f} | "
            f"{math.expm1(effect.clean):+.2%} | {effect.divergence:.4f} |",
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


QUESTIONS: dict[str, Callable[[Bench], None]] = {
    "texts": ask_texts,
    "neutral": ask_neutral,
    "damping": ask_damping,
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
