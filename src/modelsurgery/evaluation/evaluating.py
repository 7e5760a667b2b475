"""One evaluation: base against edited on held-out prompts, and what broke; in memory.

`surgery run` evaluates the edit that it found, a sequence is a list of evaluations, `surgery
evaluate` is one with capability tasks: what they say of the same model and edit is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelsurgery.data import demo
from modelsurgery.data.behaviors import (
    Behavior,
    BehaviorFile,
    behavior_of_texts,
    describe_behavior,
    load_test_part,
)
from modelsurgery.data.texts import LabeledText, Split
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.damage import Damage, measure_damage
from modelsurgery.evaluation.generation import Generator, TransformersGenerator
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.protocol import (
    SetMeasurement,
    corrected_together,
    decodings_of,
    measure_prompt_set,
)
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.results import Compared, EvaluationResults, plain
from modelsurgery.results.printing import printed


class CapabilityResult(Protocol):
    """What a capability task gave."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Measurements of a model and an edit of it. `print(evaluation)` shows them as tables.

    Attributes:
        model: name and fingerprint of the model.
        edits: hash of the content of each edit, by name.
        behavior: the measured behavior.
        neutral_note: description of the neutral text.
        judges: name, version and note of each judge. The first judge decides.
        sets: rates of the behavior on each prompt set.
        greedy: the first prompt set with greedy continuations; None if not measured.
        damage: perplexity, divergence, facts and other possible damage.
        tasks: results of capability tasks, by name.
        seed: seed of sampling and of the choice of prompts.

    Example:
        >>> evaluation = evaluate(model, edit, split)  # doctest: +SKIP
        >>> evaluation.to_json()["damage"]["neutral_text"]["rise"]  # doctest: +SKIP
        0.006
    """

    model: tuple[str, str]
    edits: Mapping[str, str]
    behavior: BehaviorFile
    neutral_note: str
    judges: tuple[dict[str, str], ...]
    sets: tuple[SetMeasurement, ...]
    greedy: SetMeasurement | None
    damage: Damage
    tasks: Mapping[str, CapabilityResult] = field(default_factory=dict)
    seed: int = 0

    @property
    def first(self) -> SetMeasurement:
        """The prompt set that decides."""
        return self.sets[0]

    @property
    def wholes(self) -> dict[str, Compared]:
        """Rates on each prompt set, with p-values corrected for the number of sets."""
        return corrected_together({one.prompts.name: one.whole for one in self.sets})

    @property
    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """All continuations with their verdicts, by the name of the file they are saved in."""
        if self.greedy is not None:
            return {"sampled": self.first.samples(), "greedy": self.greedy.samples()}
        return {one.prompts.name: one.samples() for one in self.sets}

    def results(self) -> EvaluationResults:
        """Return the measurements as typed values, without the texts."""
        wholes, facts = self.wholes, self.damage.facts
        return EvaluationResults.model_validate(
            {
                "model": {"name": self.model[0], "fingerprint": self.model[1]},
                "edits": dict(self.edits),
                "behavior": self.behavior.model_dump(
                    include={"name", "title", "shows", "opposite"}
                ),
                "judges": list(self.judges),
                "sets": [
                    {**one.to_json(), **wholes[one.prompts.name].model_dump()} for one in self.sets
                ],
                "uncalled_for": self.uncalled_json(),
                "damage": {
                    "neutral_text": self.neutral_json(),
                    "own_answers": self.own_json(),
                    "facts": None if facts is None else facts.to_json(),
                    "tasks": {name: one.to_json() for name, one in self.tasks.items()},
                },
                "seed": self.seed,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as plain values, as in `results.json`."""
        return plain(self.results())

    def __str__(self) -> str:
        """The tables, as `surgery evaluate` prints them."""
        return printed(self.results())

    def neutral_json(self) -> dict[str, Any] | None:
        """Return the measurements on neutral text as plain values."""
        measured = self.damage.neutral
        if measured is None:
            return None
        return {
            "text": self.neutral_note,
            "tokens": measured.tokens,
            "base_perplexity": measured.base_perplexity,
            "edited_perplexity": measured.edited_perplexity,
            "rise": measured.perplexity_rise,
            "divergence": measured.divergence,
        }

    def own_json(self) -> dict[str, Any] | None:
        """Return the measurements on the model's own answers as plain values."""
        own, neutral = self.damage.own, self.damage.neutral
        if own is None or own.divergence is None or neutral is None or neutral.divergence is None:
            return None
        return {
            "divergence": own.divergence,
            "answers": self.damage.own_count,
            "counts": own.divergence > neutral.divergence,
        }

    def uncalled_json(self) -> dict[str, Any] | None:
        """Return the rates on prompts that do not call for the behavior as plain values."""
        uncalled = self.damage.uncalled
        return None if uncalled is None else uncalled.named_json()


def evaluate(
    model: LanguageModel,
    edits: Edit | Sequence[Edit] | None,
    data: Behavior | BehaviorFile | Split | Sequence[LabeledText] | str | Path,
    *,
    judge: Judge | str | None = None,
    prompts: Sequence[str] | None = None,
    neutral: Sequence[str] | None = None,
    prompt_count: int | None = 300,
    samples: int = 0,
    seed: int | None = None,
    data_root: Path | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure what an edit changes in a model, and what it damages. Writes no files.

    The base and the edited model continue the same held-out prompts, and a judge decides which
    answers show the behavior. Perplexity and divergence are measured on neutral text. The edits
    are applied in memory and removed again. For the same prompts, samples and seed the numbers are
    those of `surgery run` and `surgery evaluate`.

    Args:
        model: the base model.
        edits: an edit, or several to apply together; None measures the base model alone.
        data: a behavior (name, YAML file or `Behavior`) or labeled texts. The held-out part of a
            `Split` is measured on, so fit the edit to its `train`. Other texts are split here, by
            the seed.
        judge: as for `--judge`, or a function of prompts and answers with `name`, `version` and
            `note`. By default the judge of the behavior, or one trained on the texts.
        prompts: prompts to continue, for labeled texts; by default the first halves of held-out
            texts.
        neutral: text on which the model should not change, for labeled texts; by default the
            held-out texts with label 0.
        prompt_count: maximum number of prompts of each set; None uses all.
        samples: number of sampled continuations per prompt; 0 continues greedily, once.
        seed: seed of sampling and splits; by default the seed of the first edit, or 0.
        data_root: directory with local copies of public data sets.
        progress: receives the progress of the evaluation.

    Returns:
        The evaluation. `print` shows it as tables, `to_json` gives plain values.

    Raises:
        EvaluationError: no answer could be judged, or no text has a token to predict.
        RecipeError: the behavior or judge does not exist, or prompts are given with a behavior.
        TextsError: the texts or data sets cannot be used.

    Example:
        >>> split = load_texts("texts.jsonl").split()  # doctest: +SKIP
        >>> edit = fit_edit(model, split.train)  # doctest: +SKIP
        >>> print(evaluate(model, edit, split))  # doctest: +SKIP
    """
    chosen = [edits] if isinstance(edits, Edit) else list(edits or ())
    if seed is None:
        seeds = (edit.provenance.seed for edit in chosen)
        seed = next((one for one in seeds if one is not None), 0)
    if isinstance(data, Split) or (isinstance(data, Sequence) and not isinstance(data, str)):
        behavior = behavior_of_texts(
            data, prompts=prompts, neutral=neutral, prompt_count=prompt_count, seed=seed
        )
    elif prompts is not None or neutral is not None:
        raise RecipeError("prompts and neutral are for labeled texts only; a behavior has its own")
    elif isinstance(data, Behavior):
        behavior = data
    else:
        described = data if isinstance(data, BehaviorFile) else describe_behavior(data)
        is_demo = described.demo and demo.is_demo_model(model.checkpoint.directory)
        behavior = load_test_part(
            described, is_demo=is_demo, data=data_root, seed=seed, prompt_count=prompt_count
        )
    judged_by = judge_for(behavior, judge, seed=seed) if isinstance(judge, str | None) else judge
    return measure(
        model,
        {str(number): edit for number, edit in enumerate(chosen, 1)},
        behavior,
        [judged_by],
        name=model.checkpoint.directory.resolve().name,
        samples=samples,
        seed=seed,
        progress=progress,
    )


def measure(
    model: LanguageModel,
    edits: Mapping[str, Edit],
    behavior: Behavior,
    judges: Sequence[Judge],
    *,
    name: str,
    samples: int = 0,
    also_greedy: bool = False,
    seed: int = 0,
    damage: Damage | None = None,
    tasks: Mapping[str, CapabilityResult] | None = None,
    generator: Generator | None = None,
    store: Store | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a model, and edits of it by name, on a behavior and on what must not break.

    Edits are applied together; none measures the base model alone. The first judge decides.
    `samples` continuations of each prompt are sampled, 0 continues greedily, once; the first prompt
    set can be continued greedily besides. Damage that is measured already is taken as it is, and
    without a generator the loaded model continues prompts.

    Raises:
        EvaluationError: nothing could be judged, or neutral texts without a token to predict.
    """
    chosen = list(edits.values())
    generator = generator or TransformersGenerator(model, store=store)
    wanted = [(prompts, samples) for prompts in behavior.prompt_sets]
    if also_greedy:
        wanted.append((behavior.prompt_sets[0], 0))
    measured = []
    with progress("held-out prompts", sum(max(1, count) for _, count in wanted)) as advance:
        for prompts, count in wanted:
            decodings = decodings_of(prompts, count, seed)
            measured.append(
                measure_prompt_set(
                    generator, chosen, prompts, judges, decodings, store=store, progress=progress
                )
            )
            advance(len(decodings))
    if damage is None:
        damage = measure_damage(
            model, chosen, behavior, judges, generator, store=store, progress=progress
        )
    return Evaluation(
        (name, model.fingerprint()),
        {called: edit.content_sha256 for called, edit in edits.items()},
        behavior.described,
        behavior.neutral_note,
        tuple({"name": one.name, "version": one.version, "note": one.note} for one in judges),
        tuple(measured[: len(behavior.prompt_sets)]),
        measured[-1] if also_greedy else None,
        damage,
        tasks or {},
        seed,
    )
